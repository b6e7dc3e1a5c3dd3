"""Losses of boxes by their overlap."""

import keras
from keras import ops

from kvision.ops import IOU_KINDS, elementwise_iou


def iou_loss(targets, predictions, kind="giou"):
    """One minus the overlap of each predicted box with its target.

    The overlap is that of `kvision.ops.pairwise_iou`: there is no epsilon in its denominators, such
    as torchvision adds, which counts for boxes much smaller than their unit.

    Args:
        targets: Float tensor `(..., 4)`, xyxy in any unit.
        predictions: Float tensor `(..., 4)`, in the same unit.
        kind: `"iou"`, `"giou"`, `"diou"` or `"ciou"`.

    Returns:
        Float tensor `(...)`: in [0, 1] for `"iou"`, in [0, 2] for `"giou"` and `"diou"`, up to 2.5
        for `"ciou"`; 0 where the boxes are equal and have a size.

    Raises:
        TypeError: If boxes are not floating point.
        ValueError: If `kind` is unknown, or a shape does not fit.
    """
    for name, boxes in (("targets", targets), ("predictions", predictions)):
        shape = tuple(ops.shape(boxes))
        if not shape or shape[-1] != 4:
            raise ValueError(f"iou_loss: `{name}` must have shape (..., 4). Received: {shape}.")
    return 1.0 - elementwise_iou(targets, predictions, kind=kind)


@keras.saving.register_keras_serializable("kvision")
class IoULoss(keras.losses.Loss):
    """`iou_loss` as a Keras loss, for `compile(loss=...)`.

    Args:
        kind: `"iou"`, `"giou"`, `"diou"` or `"ciou"`.
        name: Of the loss.
        **kwargs: Of `keras.losses.Loss`: `reduction`, `dtype`.

    Raises:
        ValueError: If `kind` is unknown.
    """

    def __init__(self, kind="giou", name="iou_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        if kind not in IOU_KINDS:
            raise ValueError(f"IoULoss: `kind` must be one of {IOU_KINDS}. Received: {kind!r}.")
        self.kind = kind

    def call(self, y_true, y_pred):
        return iou_loss(y_true, y_pred, self.kind)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}
