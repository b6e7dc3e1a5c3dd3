"""What is said of images and labels that no model can learn from."""

import warnings

import keras
import numpy as np

from kvision.ops import native

_BEYOND = 64  # 0..255: what augmentation of colours may have added


def check_images(owner, images):
    """Checks that the images come apart from the targets.

    Args:
        owner: Name of the model, for the message.
        images: What a step was given.

    Raises:
        ValueError: If it is a whole batch dictionary.
    """
    if isinstance(images, dict):
        raise ValueError(
            f"{owner}: images must be one array (B, H, W, 3), apart from the targets: "
            "`kvision.data.to_fit` makes the pair of a batch dictionary. "
            f"Received: a dictionary with {sorted(images)}."
        )


def check_pixels(owner, images):
    """Warns of arrays whose first image was scaled as other libraries want images.

    Args:
        owner: Name of the model, for the message.
        images: What a method of the model was given.
    """
    if not isinstance(images, np.ndarray) or images.ndim != 4 or images.size == 0:
        return  # what is no array of images is told elsewhere
    if images.dtype.kind not in "fiu":
        return
    low, high = images[0].min(), images[0].max()
    if low < high and (low < -_BEYOND or high > 255 + _BEYOND or high <= 1):
        warnings.warn(
            f"{owner}: images must have values from 0 to 255, which the model scales itself. "
            f"Received: values from {low:g} to {high:g} in the first image, {images.dtype}.",
            stacklevel=4,
        )


def check_instance_ids(owner, ids, images):
    """Checks that label maps are as large as their images, as far as both sizes are known.

    Args:
        owner: Name of the model, for the message.
        ids: `(B, H, W)` or `(B, H, W, 1)`.
        images: `(B, H, W, C)`.

    Raises:
        ValueError: If they are not.
    """
    sides = zip(ids.shape[1:3], images.shape[1:3], strict=True)
    if any(None not in pair and pair[0] != pair[1] for pair in sides):
        raise ValueError(
            f"{owner}: `instance_ids` must be as large as the images, {tuple(images.shape[1:3])}. "
            f"Received: {tuple(ids.shape)}."
        )


def check_labels(owner, labels, num_classes, also, meaning):
    """Checks that each label is a class or one value more.

    Labels whose values are not known yet are checked when TensorFlow runs the graph; in functions
    that XLA compiles (`jit_compile=True`, and the training step of JAX) they are not.

    Args:
        owner: Name of the model, for the message.
        labels: Integers of any shape.
        num_classes: Number of classes.
        also: The value that is allowed besides 0..num_classes - 1; or `None`.
        meaning: What that value means, for the message.

    Raises:
        ValueError: If a label is something else. Inside a graph of TensorFlow it is a
            `tf.errors.InvalidArgumentError`.
    """
    message = (
        f"{owner}: `labels` must be in 0..{num_classes - 1}, as `num_classes` is {num_classes}"
        + (f", or {also} for {meaning}." if also is not None else ".")
    )
    if _is_traced_by_tensorflow(labels):
        _assert_in_graph(labels, num_classes, also, message)
    elif not _is_traced_by_jax(labels):
        labels = keras.ops.convert_to_numpy(labels)
        wrong = labels[(labels < 0) | (labels >= num_classes)]
        wrong = wrong[wrong != also] if also is not None else wrong
        if wrong.size:
            raise ValueError(f"{message} Received: {np.unique(wrong).tolist()}.")


def _assert_in_graph(labels, num_classes, also, message):
    import tensorflow as tf

    if native.traced_for_xla():
        return  # XLA leaves assertions out, and warns of it
    labels = tf.cast(labels, tf.int32)
    right = (labels >= 0) & (labels < num_classes)
    if also is not None:
        right |= labels == also
    extremes = [tf.reduce_min(labels), "to", tf.reduce_max(labels)]
    tf.debugging.Assert(tf.reduce_all(right), [message, "Received labels from", *extremes])


def _is_traced_by_tensorflow(value):
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.is_symbolic_tensor(value)


def _is_traced_by_jax(value):
    if keras.backend.backend() != "jax":
        return False
    import jax

    return isinstance(value, jax.core.Tracer)
