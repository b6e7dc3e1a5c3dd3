"""Last steps of the batch dictionary: a ``tf.data`` view, and the pair that `fit` takes."""

import functools

# Tasks, and the key of the batch dictionary that holds their targets.
_TASKS = {
    "detection": "bounding_boxes",
    "segmentation": "segmentation_masks",
    "classification": "labels",
    "instances": "instance_ids",
}
_BOX_TARGETS = ("boxes", "labels", "is_crowd", "area", "difficult")
_IMAGE_TARGETS = ("image_id", "original_size")
_INSTANCE_TARGETS = {
    "instance_ids": "instance_ids",
    "mask_runs": "mask_runs",
    "segmentation_masks": "semantic",
}


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


def to_fit(batch, task=None):
    """Split a batch dictionary into the images and the targets that `fit` takes.

    A model's `call` never sees a target. With arrays, the result goes straight into ``fit(*to_fit(
    batch), batch_size=...)``, TensorFlow or not.

    Args:
        batch: dictionary of arrays or tensors with ``images`` and what the task needs; or a
            ``tf.data.Dataset`` or `Batches` of such dictionaries.
        task: str, which targets are meant; None is the first of these that the batch has:

            * ``"detection"``: ``bounding_boxes`` become a dictionary that holds what the batch
              knows of ``boxes (B, M, 4)``, ``labels (B, M)``, ``is_crowd (B, M)``, ``area (B, M)``,
              ``difficult (B, M)``, ``image_id (B,)`` and ``original_size (B, 2)``;
            * ``"segmentation"``: ``segmentation_masks (B, H, W, 1)`` and, as the weights of a
              third part, ``pixel_weights (B, H, W, 1)`` where the batch has them;
            * ``"classification"``: ``labels (B,)``, or, where every image has one box, its label;
            * ``"instances"``: what the batch knows of the targets of detection and, beside them,
              ``instance_ids (B, H, W, 1)`` or ``mask_runs (B, M, R)``, and ``segmentation_masks
              (B, H, W, 1)``, where it has them, under the name ``semantic``.

    Returns:
        ``(images, targets)`` or ``(images, targets, weights)``; a dataset or `Batches` of such,
        where ``batch`` is one.

    Raises:
        ValueError: the dictionary has no images or not what the task needs, or the task is unknown.
    """
    if task not in (None, *_TASKS):
        raise ValueError(f"to_fit: `task` must be one of {tuple(_TASKS)}. Received: {task!r}.")
    if not isinstance(batch, dict):
        return batch.map(functools.partial(to_fit, task=task))
    if task is None:
        task = next((name for name, key in _TASKS.items() if key in batch), "detection")
    needed = _TASKS[task]
    if task == "classification" and "labels" not in batch:
        needed = "bounding_boxes"
    if task == "instances" and "mask_runs" in batch:
        needed = "mask_runs"
    missing = {"images", needed} - batch.keys()
    if missing:
        raise ValueError(
            f"to_fit: the batch has no {sorted(missing)}. Its keys are: {sorted(batch)}."
        )
    if task == "classification":
        return batch["images"], _image_labels(batch)
    if task == "segmentation":
        weights = (batch["pixel_weights"],) if "pixel_weights" in batch else ()
        return batch["images"], batch["segmentation_masks"], *weights
    boxes = batch.get("bounding_boxes", {})
    targets = {key: boxes[key] for key in _BOX_TARGETS if key in boxes}
    targets |= {key: batch[key] for key in _IMAGE_TARGETS if key in batch}
    if task == "instances":
        named = _INSTANCE_TARGETS.items()
        targets |= {name: batch[key] for key, name in named if key in batch}
    return batch["images"], targets


def _image_labels(batch):
    """One label an image: its own, or that of its only box."""
    if "labels" in batch:
        return batch["labels"]
    labels = batch["bounding_boxes"]["labels"]
    if labels.shape[1] != 1:
        raise ValueError(
            "to_fit: images with one box each have a label to be classified by, as "
            "`digit_scenes(..., num_digits=(1, 1))` makes them. Received boxes' labels of shape "
            f"{tuple(labels.shape)}."
        )
    return labels[:, 0]
