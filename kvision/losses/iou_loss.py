"""Losses of boxes by their overlap."""

import keras

from kvision.ops import elementwise_iou


def iou_loss(targets, predictions, kind="giou"):
    """One minus the overlap of each predicted box with its target.

    Differs from torchvision's and TensorFlow Addons' only where boxes have no size: there is no
    epsilon in the denominators, see `kvision.ops.pairwise_iou`.

    Args:
        targets: Float tensor `(..., 4)`, xyxy in any unit.
        predictions: Float tensor `(..., 4)`, in the same unit.
        kind: `"iou"`, `"giou"`, `"diou"` or `"ciou"`.

    Returns:
        Float tensor `(...)`: in [0, 1] for `"iou"`, in [0, 2] for the others, `"ciou"` a little
        more; 0 where the boxes are equal and have a size.
    """
    return 1.0 - elementwise_iou(targets, predictions, kind=kind)


@keras.saving.register_keras_serializable("kvision")
class IoULoss(keras.losses.Loss):
    """`iou_loss` as a Keras loss, for `compile(loss=...)`.

    Args:
        kind: `"iou"`, `"giou"`, `"diou"` or `"ciou"`.
        **kwargs: Of `keras.losses.Loss`: `reduction`, `name`, `dtype`.
    """

    def __init__(self, kind="giou", **kwargs):
        super().__init__(**kwargs)
        self.kind = kind

    def call(self, y_true, y_pred):
        return iou_loss(y_true, y_pred, self.kind)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}
