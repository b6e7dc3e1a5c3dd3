"""Last steps of the batch dictionary: a ``tf.data`` view, and the pair that `fit` takes."""

_BOX_TARGETS = ("boxes", "labels", "is_crowd", "area", "difficult")
_IMAGE_TARGETS = ("image_id", "original_size")


def as_dataset(batch, batch_size, *, shuffle=False, seed=None, drop_remainder=False):
    """View a batch dictionary of arrays as a ``tf.data.Dataset`` of batches.

    Args:
        batch: dictionary (nested at will) of arrays with one leading axis, as from `digit_scenes`.
        batch_size: int.
        shuffle: bool, whether each pass goes through the images in another order.
        seed: int or None, of the shuffling.
        drop_remainder: bool, whether the last batch is left out when it is smaller.

    Returns:
        ``tf.data.Dataset`` of dictionaries like ``batch``.
    """
    import tensorflow as tf

    with tf.device("CPU"):
        tensors = tf.nest.map_structure(tf.constant, batch)
    num_images = len(tf.nest.flatten(tensors)[0])
    order = tf.data.Dataset.range(num_images)
    if shuffle:
        order = order.shuffle(num_images, seed=seed)
    order = order.batch(batch_size, drop_remainder=drop_remainder)

    def rows(indices):
        return tf.nest.map_structure(lambda tensor: tf.gather(tensor, indices), tensors)

    return order.map(rows, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def to_fit(batch):
    """Split a batch dictionary into the images and the detection targets that `fit` takes.

    A model's `call` never sees a target. With arrays, the pair goes straight into ``fit(images,
    targets, batch_size=...)``, TensorFlow or not.

    Args:
        batch: dictionary with ``images`` and ``bounding_boxes``, of arrays or tensors; or a
            ``tf.data.Dataset`` or `Batches` of such dictionaries.

    Returns:
        ``(images, targets)``, or a dataset or `Batches` of such pairs. ``targets`` holds, of these,
        what the batch knows: ``boxes (B, M, 4)``, ``labels (B, M)``, ``is_crowd (B, M)``, ``area
        (B, M)``, ``difficult (B, M)``, ``image_id (B,)`` and ``original_size (B, 2)``.

    Raises:
        ValueError: the dictionary has no images or no bounding boxes.
    """
    if not isinstance(batch, dict):
        return batch.map(to_fit)
    missing = {"images", "bounding_boxes"} - batch.keys()
    if missing:
        raise ValueError(
            f"to_fit: the batch has no {sorted(missing)}. Its keys are: {sorted(batch)}."
        )
    known = [(batch["bounding_boxes"], key) for key in _BOX_TARGETS]
    known += [(batch, key) for key in _IMAGE_TARGETS]
    return batch["images"], {key: part[key] for part, key in known if key in part}
