"""Soft non-maximum suppression of one set of boxes."""

import math

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.operation import call_operation
from kvision.ops.score_decay import ScoreDecayOperation, decayed, labelled_ious
from kvision.ops.suppression import candidate_scores, check_thresholds, float32_threshold


def soft_nms(
    boxes,
    scores,
    *,
    method="gaussian",
    sigma=0.5,
    iou_threshold=0.3,
    score_threshold=0.001,
    max_output_size=None,
    labels=None,
):
    """Lowers the scores of boxes that better boxes overlap, instead of dropping them: soft-NMS.

    The candidate with the greatest current score is selected, of equal ones that of the lowest
    index, and the score of every candidate left is multiplied by a factor of its IoU `o` with it:

    - `"linear"`: `1 - o` where `o` is greater than `iou_threshold`, else 1;
    - `"gaussian"`: `exp(-o**2 / sigma)`.

    This repeats until no candidate is left. A candidate is one as long as its score is greater than
    `score_threshold`. TensorFlow's `soft_nms_sigma` is half of this `sigma`.

    - IoU is computed in float32, as by `nms`; a box without a positive finite area (an empty or
      reversed side, a corner that is NaN or infinite) has IoU 0 with every box.
    - A score of NaN or -inf is never selected. A score that is not positive stays as it is, so that
      decay never raises one. An infinite score that decays to `inf * 0` is dropped.
    - Boxes and scores of other floating types are converted to float32 first.

    Neither indices nor scores have a gradient; gather boxes and scores with the indices to have
    one.

    Args:
        boxes: Float tensor of shape `(num_boxes, 4)`, `xyxy` in any unit.
        scores: Float tensor of shape `(num_boxes,)`, meant to be at least 0.
        method: `"gaussian"` or `"linear"`.
        sigma: Positive float. The greater, the less scores decay. Not used by `"linear"`.
        iou_threshold: Float in [0, 1]. Boxes decay above it, not at it. Not used by `"gaussian"`.
        score_threshold: Float or `None`. Only boxes with a score greater than it (in float32) are
            candidates.
        max_output_size: Positive int or `None`. Select at most so many boxes, and pad the result
            to that length. Required where shapes must be known in advance: for KerasTensors and
            under a compiler, `jax.jit` or `tf.function(jit_compile=True)`.
        labels: Integer tensor of shape `(num_boxes,)` or `None`, taken as int32. Boxes of different
            labels do not decay one another.

    Returns:
        `(indices, scores)` by order of selection: int32 indices of the boxes, and their float32
        scores when they were selected. Of shape `(max_output_size,)`, padded with -1 and 0, or of
        shape `(num_selected,)` without `max_output_size`.

    Raises:
        TypeError: If boxes or scores are not floating point, or labels not integers.
        ValueError: If an argument has a wrong value, or a tensor a wrong rank or size; if
            `max_output_size` is missing where it is required.

    Source: Bodla, Singh, Chellappa and Davis, Soft-NMS - Improving Object Detection With One Line
    of Code, ICCV 2017.
    """
    return call_operation(
        SoftNMSOperation,
        (boxes, scores, labels),
        method=method,
        sigma=sigma,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        max_output_size=max_output_size,
    )


@keras.saving.register_keras_serializable("kvision")
class SoftNMSOperation(ScoreDecayOperation):
    """`soft_nms` as a node of a functional model. Arguments as there."""

    op = "soft_nms"

    def __init__(
        self,
        *,
        method="gaussian",
        sigma=0.5,
        iou_threshold=0.3,
        score_threshold=0.001,
        max_output_size=None,
        name=None,
    ):
        super().__init__(
            method=method,
            sigma=sigma,
            score_threshold=score_threshold,
            max_output_size=max_output_size,
            name=name,
        )
        check_thresholds("soft_nms", iou_threshold, score_threshold)
        self.iou_threshold = float(iou_threshold)

    def select(self, boxes, scores, labels):
        return (_native if native.use_native() else _reference)(boxes, scores, labels, self)


def _native(boxes, scores, labels, operation):
    """Indices and scores, padded to `max_output_size` or to the number of boxes, and a count."""
    return native.call(
        "soft_nms",
        boxes,
        scores,
        labels,
        iou_threshold=float32_threshold(operation.iou_threshold),
        **operation.native_attributes(),
    )


def _reference(boxes, scores, labels, operation):
    """As `_native`, in `keras.ops`: one selection a step."""
    boxes, scores = ops.stop_gradient(boxes), ops.stop_gradient(scores)
    num_boxes = ops.shape(scores)[0]
    size = num_boxes if operation.max_output_size is None else operation.max_output_size
    positions = ops.arange(num_boxes, dtype="int32")
    start = (
        ops.convert_to_tensor(0, dtype="int32"),
        candidate_scores(scores, operation.least_score),
        ops.full((size,), -1, dtype="int32"),
        ops.zeros((size,), dtype="float32"),
    )
    if 0 in scores.shape:
        return *start[2:], start[0]

    def unfinished(count, current, *_):
        return ops.logical_and(count < size, ops.any(current > -math.inf))

    def select(count, current, indices, selected_scores):
        best = ops.where(ops.equal(current, ops.max(current)), positions, num_boxes)
        selected = ops.reshape(ops.min(best), (1,))
        slot = ops.reshape(count, (1, 1))
        indices = ops.scatter_update(indices, slot, selected)
        selected_scores = ops.scatter_update(selected_scores, slot, ops.take(current, selected))
        iou = labelled_ious(
            ops.take(boxes, selected, axis=0), ops.take(labels, selected), boxes, labels
        )
        current = decayed(current, _factors(iou[0], operation), operation.least_score)
        current = ops.where(ops.equal(positions, selected), -math.inf, current)
        return count + 1, current, indices, selected_scores

    count, _, indices, selected_scores = ops.while_loop(unfinished, select, start)
    return indices, selected_scores, count


def _factors(iou, operation):
    if operation.method == "linear":
        return ops.where(iou > float32_threshold(operation.iou_threshold), 1.0 - iou, 1.0)
    return ops.exp(-(iou * iou) / operation.sigma)
