"""The losses of Faster R-CNN on sampled anchors and regions.

Source: Ren, He, Girshick, Sun, "Faster R-CNN", 2015, equation 1. In each image both parts of a
stage are divided by the number of its samples, positive or not.
"""

from keras import ops

from kvision.boxes import gather_rows
from kvision.losses import sampled_mean


def anchor_losses(logits, deltas, samples, box_loss):
    """Losses of the region proposal network.

    Args:
        logits: Float tensor `(B, S)` of the sampled anchors.
        deltas: Float tensor `(B, S, 4)`, likewise.
        samples: `Samples` of anchors.
        box_loss: Function of targets and predictions `(B, P, 4)` to losses `(B, P)`.

    Returns:
        Dictionary of the scalars `rpn_objectness_loss` and `rpn_box_loss`.
    """
    objectness = ops.binary_crossentropy(
        ops.cast(samples.labels >= 0, logits.dtype), logits, from_logits=True
    )
    deltas = deltas[:, : samples.max_positive]
    return {
        "rpn_objectness_loss": _mean(objectness, samples.sampled, samples),
        "rpn_box_loss": _mean(box_loss(samples.targets, deltas), samples.positive, samples),
    }


def region_losses(class_logits, box_deltas, samples, box_loss):
    """Losses of the box head.

    Args:
        class_logits: Float tensor `(B, S, K + 1)` of the sampled regions, the background in
            column 0.
        box_deltas: Float tensor `(B, S, K + 1, 4)`, likewise. Of a positive region, the offsets
            of its own class alone are in the loss.
        samples: `Samples` of regions.
        box_loss: Function of targets and predictions `(B, P, 4)` to losses `(B, P)`.

    Returns:
        Dictionary of the scalars `class_loss` and `box_loss`.
    """
    columns = samples.labels + 1
    classification = ops.sparse_categorical_crossentropy(columns, class_logits, from_logits=True)
    first = samples.max_positive
    deltas = _of_own_class(box_deltas[:, :first], columns[:, :first])
    return {
        "class_loss": _mean(classification, samples.sampled, samples),
        "box_loss": _mean(box_loss(samples.targets, deltas), samples.positive, samples),
    }


def _mean(losses, mask, samples):
    return sampled_mean(ops.where(mask, losses, 0.0), samples.num_sampled)


def _of_own_class(deltas, columns):
    """`deltas[b, s, columns[b, s]]`: `(B, S, K + 1, 4)` and `(B, S)` give `(B, S, 4)`."""
    batch, size, width, _ = ops.shape(deltas)
    rows = ops.arange(size, dtype="int32")[None, :] * width + columns
    return gather_rows(ops.reshape(deltas, (batch, size * width, 4)), rows)
