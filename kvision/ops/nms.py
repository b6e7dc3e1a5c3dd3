"""Non-maximum suppression of one set of boxes."""

import math

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.operation import call_operation
from kvision.ops.suppression import (
    best_first,
    candidate_scores,
    check_size,
    check_thresholds,
    cut_to_count,
    float32_tensor,
    float32_threshold,
    kept_boxes,
    size_required,
)


def nms(boxes, scores, *, iou_threshold, score_threshold=None, max_output_size=None):
    """Keeps the boxes that no better box overlaps: greedy non-maximum suppression.

    Boxes are visited by descending score, equal scores by ascending index. A box is kept unless
    its IoU with a box already kept is greater than `iou_threshold`. IoU is computed in float32 as
    `inter / (area_i + area_j - inter)`, and decisions are torchvision's: a float32 IoU of .3 is
    greater than the threshold .3, which float32 rounds up and this function down.

    - A score of NaN or -inf is never selected, whatever the score threshold.
    - A box without a positive finite area (an empty or reversed side, a corner that is NaN or
      infinite) neither suppresses nor is suppressed.
    - Boxes and scores of other floating types are converted to float32 first, and compared there.

    Indices have no gradient; gather boxes and scores with them to have one.

    Args:
        boxes: Float tensor of shape `(num_boxes, 4)`, `xyxy` in any unit.
        scores: Float tensor of shape `(num_boxes,)`.
        iou_threshold: Float in [0, 1]. Boxes are suppressed above it, not at it.
        score_threshold: Float or `None`. Only boxes with a score greater than it (in float32) are
            candidates.
        max_output_size: Positive int or `None`. Keep at most so many boxes, and pad the result
            to that length. Required where shapes must be known in advance: for KerasTensors and
            under a compiler, `jax.jit` or `tf.function(jit_compile=True)`.

    Returns:
        Int32 indices of the boxes kept, by descending score: of shape `(max_output_size,)`, padded
        with -1, or of shape `(num_kept,)` without `max_output_size`.

    Raises:
        TypeError: If boxes or scores are not floating point.
        ValueError: If an argument has a wrong value, or a tensor a wrong rank or size; if
            `max_output_size` is missing where it is required.
    """
    return call_operation(
        NMSOperation,
        (boxes, scores),
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        max_output_size=max_output_size,
    )


@keras.saving.register_keras_serializable("kvision")
class NMSOperation(keras.Operation):
    """`nms` as a node of a functional model. Arguments as there."""

    def __init__(self, *, iou_threshold, score_threshold=None, max_output_size=None, name=None):
        super().__init__(name=name)
        check_thresholds("nms", iou_threshold, score_threshold)
        check_size("nms", "max_output_size", max_output_size)
        self.iou_threshold = float(iou_threshold)
        self._threshold = float32_threshold(self.iou_threshold)
        self.score_threshold = score_threshold
        self.max_output_size = max_output_size

    def call(self, boxes, scores):
        boxes = float32_tensor("nms", "boxes", boxes)
        scores = float32_tensor("nms", "scores", scores)
        _check_shapes(boxes.shape, scores.shape)
        indices, count = (_native if native.use_native() else _reference)(
            boxes,
            scores,
            self._threshold,
            -math.inf if self.score_threshold is None else self.score_threshold,
            self.max_output_size,
        )
        if self.max_output_size is not None:
            return indices
        return cut_to_count("nms", [indices], count)[0]

    def compute_output_spec(self, boxes, scores):
        _check_shapes(boxes.shape, scores.shape)
        if self.max_output_size is None:
            raise size_required("nms")
        return keras.KerasTensor((self.max_output_size,), dtype="int32")


def _native(boxes, scores, iou_threshold, score_threshold, max_output_size):
    """Indices padded to `max_output_size` or to the number of boxes, and their count."""
    return native.call(
        "nms",
        boxes,
        scores,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        max_output_size=-1 if max_output_size is None else max_output_size,
    )


def _reference(boxes, scores, iou_threshold, score_threshold, max_output_size):
    """As `_native`, in `keras.ops`."""
    scores = candidate_scores(scores, score_threshold)[None]
    keep = kept_boxes(boxes[None, :, None], scores[..., None], iou_threshold, max_output_size)
    size = ops.shape(scores)[1] if max_output_size is None else max_output_size
    indices, count = best_first(scores, keep[..., 0], size)
    return indices[0], count[0]


def _check_shapes(boxes, scores):
    boxes, scores = tuple(boxes), tuple(scores)
    if len(boxes) != 2 or boxes[1] not in (4, None):
        raise ValueError(f"nms: `boxes` must have shape (num_boxes, 4). Received: {boxes}.")
    if len(scores) != 1:
        raise ValueError(f"nms: `scores` must have shape (num_boxes,). Received: {scores}.")
    if None not in (boxes[0], scores[0]) and boxes[0] != scores[0]:
        raise ValueError(
            "nms: `boxes` and `scores` must have the same number of boxes. "
            f"Received: {boxes} and {scores}."
        )
