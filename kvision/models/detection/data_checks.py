"""What is said of images and targets that no model can learn from."""

import keras
import numpy as np

from kvision.ops import native


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


def check_targets(owner, targets, num_classes):
    """Checks that there are boxes and labels, and that each label is a class or padding.

    Labels whose values are not known yet are checked when TensorFlow runs the graph; in functions
    that XLA compiles (`jit_compile=True`, and the training step of JAX) they are not.

    Args:
        owner: Name of the model, for the message.
        targets: What `fit` or `evaluate` was given, or a step of it.
        num_classes: Number of classes.

    Raises:
        ValueError: If `boxes` or `labels` are missing, or a label is outside the classes. Inside a
            graph of TensorFlow, a label is a `tf.errors.InvalidArgumentError`.
    """
    if not isinstance(targets, dict) or not {"boxes", "labels"} <= set(targets):
        received = sorted(targets) if isinstance(targets, dict) else type(targets).__name__
        raise ValueError(
            f"{owner}: targets must be a dictionary with `boxes` and `labels`, as "
            f"`kvision.data.to_fit` makes it of a batch dictionary. Received: {received}."
        )
    labels = targets["labels"]
    message = (
        f"{owner}: `labels` must be in 0..{num_classes - 1}, as `num_classes` is {num_classes}, or "
        "-1 for padding."
    )
    if _is_traced_by_tensorflow(labels):
        _assert_in_graph(labels, num_classes, message)
    elif not _is_traced_by_jax(labels):
        labels = keras.ops.convert_to_numpy(labels)
        wrong = labels[(labels < -1) | (labels >= num_classes)]
        if wrong.size:
            raise ValueError(f"{message} Received: {np.unique(wrong).tolist()}.")


def _assert_in_graph(labels, num_classes, message):
    import tensorflow as tf

    if native.traced_for_xla():
        return  # XLA leaves assertions out, and warns of it
    labels = tf.cast(labels, tf.int32)
    right = tf.reduce_all((labels >= -1) & (labels < num_classes))
    extremes = [tf.reduce_min(labels), "to", tf.reduce_max(labels)]
    tf.debugging.Assert(right, [message, "Received labels from", *extremes])


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
