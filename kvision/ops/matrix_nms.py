"""Matrix non-maximum suppression of one set of boxes."""

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.operation import call_operation
from kvision.ops.score_decay import ScoreDecayOperation, decayed, labelled_ious
from kvision.ops.suppression import best_first, candidate_scores

# Boxes that others are compared with at a time: the largest temporary is (_TILE, num_boxes).
_TILE = 256


def matrix_nms(
    boxes,
    scores,
    *,
    method="gaussian",
    sigma=2.0,
    score_threshold=0.0,
    max_output_size=None,
    labels=None,
):
    """Lowers the scores of boxes that better boxes overlap, all at once: matrix NMS.

    Candidates are ordered by descending score, equal scores by ascending index. The score of box
    `j` is multiplied by its decay, the least over all boxes `i` before it of `f(iou_ij) / f(c_i)`,
    at most 1, where `c_i` is the greatest IoU of box `i` with a box before it:

    - `"linear"`: `f(x) = 1 - x`. A box with `c_i = 1` decays no other: the quotient has no finite
      value, and the better box that it repeats decays the others in its place.
    - `"gaussian"`: `f(x) = exp(-sigma * x**2)`; the quotient is computed as
      `exp(-sigma * (iou_ij**2 - c_i**2))`.

    Boxes whose decayed score is greater than `score_threshold` are returned.

    - IoU is computed in float32, as by `nms`; a box without a positive finite area (an empty or
      reversed side, a corner that is NaN or infinite) has IoU 0 with every box.
    - A score of NaN or -inf is never returned. A score that is not positive stays as it is, so that
      decay never raises one. An infinite score that decays to `inf * 0` is dropped.
    - Boxes and scores of other floating types are converted to float32 first.

    Neither indices nor scores have a gradient; gather boxes and scores with the indices to have
    one.

    Args:
        boxes: Float tensor of shape `(num_boxes, 4)`, `xyxy` in any unit.
        scores: Float tensor of shape `(num_boxes,)`, meant to be at least 0.
        method: `"gaussian"` or `"linear"`.
        sigma: Positive float. The greater, the more scores decay. Not used by `"linear"`.
        score_threshold: Float or `None`. Only boxes with a decayed score greater than it (in
            float32) are returned.
        max_output_size: Positive int or `None`. Return at most so many boxes, and pad the result
            to that length. Required where shapes must be known in advance: for KerasTensors and
            under a compiler, `jax.jit` or `tf.function(jit_compile=True)`.
        labels: Integer tensor of shape `(num_boxes,)` or `None`, taken as int32. Boxes of different
            labels do not decay one another.

    Returns:
        `(indices, scores)` by descending decayed score, equal ones by ascending index: int32
        indices of the boxes, and their float32 decayed scores. Of shape `(max_output_size,)`,
        padded with -1 and 0, or of shape `(num_returned,)` without `max_output_size`.

    Raises:
        TypeError: If boxes or scores are not floating point, or labels not integers.
        ValueError: If an argument has a wrong value, or a tensor a wrong rank or size; if
            `max_output_size` is missing where it is required.

    Source: Wang, Zhang, Kong, Li and Shen, SOLOv2: Dynamic and Fast Instance Segmentation,
    NeurIPS 2020, there of masks.
    """
    return call_operation(
        MatrixNMSOperation,
        (boxes, scores, labels),
        method=method,
        sigma=sigma,
        score_threshold=score_threshold,
        max_output_size=max_output_size,
    )


@keras.saving.register_keras_serializable("kvision")
class MatrixNMSOperation(ScoreDecayOperation):
    """`matrix_nms` as a node of a functional model. Arguments as there."""

    op = "matrix_nms"

    def __init__(
        self,
        *,
        method="gaussian",
        sigma=2.0,
        score_threshold=0.0,
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

    def select(self, boxes, scores, labels):
        return (_native if native.use_native() else _reference)(boxes, scores, labels, self)


def _native(boxes, scores, labels, operation):
    """Indices and scores, padded to `max_output_size` or to the number of boxes, and a count."""
    return native.call("matrix_nms", boxes, scores, labels, **operation.native_attributes())


def _reference(boxes, scores, labels, operation):
    """As `_native`, in `keras.ops`."""
    boxes, scores = ops.stop_gradient(boxes), ops.stop_gradient(scores)
    scores = candidate_scores(scores, operation.least_score)
    num_boxes = ops.shape(scores)[0]
    if 0 not in scores.shape:
        order = ops.argsort(-scores)
        decays = _decays(ops.take(boxes, order, axis=0), ops.take(labels, order), operation)
        decays = ops.scatter(ops.cast(order, "int32")[:, None], decays, (num_boxes,))
        scores = decayed(scores, decays, operation.least_score)
    size = num_boxes if operation.max_output_size is None else operation.max_output_size
    keep = scores > operation.least_score
    indices, count = best_first(scores[None], keep[None], size)
    padded = ops.concatenate([scores, ops.zeros((1,), dtype="float32")], axis=0)
    returned = ops.take(padded, ops.where(indices[0] < 0, num_boxes, indices[0]))
    return indices[0], returned, count[0]


def _decays(boxes, labels, operation):
    """(N,) decays of boxes that descend by score."""
    num_boxes = ops.shape(boxes)[0]
    positions = ops.arange(num_boxes, dtype="int32")

    def fold(step, start):
        """Calls `step(values, index, ious)` for one tile of boxes after the other.

        `index` (T,) is the tile, `ious` (T, N) are those with the boxes after them, 0 elsewhere.
        """

        def next_tile(first, values):
            rows = first + ops.arange(_TILE, dtype="int32")
            index = ops.minimum(rows, num_boxes - 1)
            tile_boxes, tile_labels = ops.take(boxes, index, axis=0), ops.take(labels, index)
            iou = labelled_ious(tile_boxes, tile_labels, boxes, labels)
            return first + _TILE, step(
                values, index, ops.where(rows[:, None] < positions, iou, 0.0)
            )

        first = ops.convert_to_tensor(0, dtype="int32")
        return ops.while_loop(lambda first, _: first < num_boxes, next_tile, (first, start))[1]

    zeros = ops.zeros((num_boxes,), dtype="float32")
    greatest = fold(lambda values, _, iou: ops.maximum(values, ops.max(iou, axis=0)), zeros)

    def least_quotient(values, index, iou):
        compensation = ops.take(greatest, index)[:, None]
        finite = ops.logical_and(iou > 0, compensation < 1)
        quotient = (1.0 - iou) / ops.where(finite, 1.0 - compensation, 1.0)
        return ops.minimum(values, ops.min(ops.where(finite, quotient, 1.0), axis=0))

    def least_exponent(values, index, iou):
        compensation = ops.take(greatest, index)[:, None]
        exponent = compensation * compensation - iou * iou
        return ops.minimum(values, ops.min(ops.where(iou > 0, exponent, 0.0), axis=0))

    if operation.method == "linear":
        return fold(least_quotient, zeros + 1.0)
    return ops.exp(operation.sigma * fold(least_exponent, zeros))
