"""What the metrics of label maps are given: classes, as numbers or as logits."""

import keras
import numpy as np
from keras import ops

from kvision.ops import native


def read_label_maps(owner, y_true, y_pred, num_classes, ignore_class):
    """Checks and converts what `update_state` was given.

    Args:
        owner: Name of the metric, for the messages.
        y_true: Class numbers `(...)` or `(..., 1)`.
        y_pred: The same of an integer dtype, or logits `(..., num_classes)`; of two classes also
            one logit `(..., 1)`, positive for class 1.
        num_classes: Number of classes.
        ignore_class: Label in `y_true` that does not count, or `None`.

    Returns:
        `(truth, found, ignored, wrong)`: int32 tensors and bool tensors `(...)`. `wrong` marks what
        does not count as ignored and has a label outside the classes.

    Raises:
        ValueError: If shapes do not fit, or a label is wrong and its value is known.
    """
    truth, found = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
    truth, found = ops.cast(truth, "int32"), _classes(owner, found, num_classes)
    shapes = tuple(truth.shape), tuple(found.shape)
    if len(shapes[0]) == len(shapes[1]) + 1 and shapes[0][-1] == 1:
        truth = truth[..., 0]
    if len(shapes[1]) == len(shapes[0]) + 1 and shapes[1][-1] == 1:
        found = found[..., 0]
    pairs = zip(truth.shape, found.shape, strict=False)
    if len(truth.shape) != len(found.shape) or any(None not in p and p[0] != p[1] for p in pairs):
        raise ValueError(
            f"{owner}: `y_true` must have a label for each pixel of `y_pred`. "
            f"Received: shape {shapes[0]} for pixels of shape {shapes[1]}."
        )
    ignored = ops.zeros_like(truth, "bool")
    if ignore_class is not None:
        ignored = truth == ignore_class
    right = ops.logical_and(_within(truth, num_classes), _within(found, num_classes))
    wrong = ops.logical_not(ops.logical_or(ignored, right))
    _raise_if_known(owner, wrong, truth, found, num_classes, ignore_class)
    return truth, found, ignored, wrong


def _classes(owner, y_pred, num_classes):
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(y_pred.dtype)):
        return ops.cast(y_pred, "int32")
    if y_pred.shape[-1] == 1 and num_classes == 2:
        return ops.cast(y_pred[..., 0] > 0, "int32")
    if y_pred.shape[-1] != num_classes:
        raise ValueError(
            f"{owner}: `y_pred` must have {num_classes} logits in its last axis, or hold integers. "
            f"Received: shape {tuple(y_pred.shape)}, {y_pred.dtype}."
        )
    if keras.backend.backend() == "tensorflow" and not native.traced_for_xla():
        return ops.top_k(y_pred, 1)[1][..., 0]  # several times as fast as Keras' argmax there
    return ops.cast(ops.argmax(y_pred, axis=-1), "int32")


def _within(labels, num_classes):
    return ops.logical_and(labels >= 0, labels < num_classes)


def _raise_if_known(owner, wrong, truth, found, num_classes, ignore_class):
    try:
        if not bool(ops.any(wrong)):
            return
    except TypeError:  # from every backend, of a tensor without a value: the code is compiled
        return
    wrong = ops.convert_to_numpy(wrong)
    labels = [np.unique(ops.convert_to_numpy(x)[wrong])[:10].tolist() for x in (truth, found)]
    raise ValueError(
        f"{owner}: labels must be in 0..{num_classes - 1}, those of `y_true` or "
        f"`ignore_class`={ignore_class}. Received pixels with `y_true` {labels[0]} and `y_pred` "
        f"{labels[1]}."
    )
