"""Greedy suppression in plain `keras.ops`: the reference behind `nms` and `batched_nms`.

The rule, the same in every implementation of this project:

* a box is a candidate if its score is greater than the score threshold; NaN and -inf never are;
* candidates are visited by descending score, equal scores by ascending index;
* a visited box is kept unless its IoU with a box already kept is greater than the threshold;
* IoU is `inter / (area_i + area_j - inter)` in float32. A box without a positive finite area (a
  reversed or empty side, a NaN or infinite corner) has IoU 0 with every box: it neither
  suppresses nor is suppressed. These are torchvision's decisions.
"""

import math

import keras
import numpy as np
from keras import ops

from kvision.ops import native
from kvision.ops.arguments import check_number
from kvision.ops.operation import is_compiling

# Boxes taken off the sorted list at a time: the largest temporary is (_TILE, num_boxes).
_TILE = 256


def float32_threshold(threshold):
    """Largest float32 not above `threshold`: float32 IoUs exceed both or neither."""
    rounded = np.float32(threshold)
    if float(rounded) > threshold:
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    return float(rounded)


def check_thresholds(op, iou_threshold, score_threshold):
    """Raises unless the thresholds of the op named `op` are numbers with a meaning."""
    check_number(op, "iou_threshold", iou_threshold)
    if score_threshold is not None:
        check_number(op, "score_threshold", score_threshold)
    if not 0.0 <= iou_threshold <= 1.0:
        raise ValueError(f"{op}: `iou_threshold` must be in [0, 1]. Received: {iou_threshold}.")
    if score_threshold is not None and score_threshold != score_threshold:
        raise ValueError(f"{op}: `score_threshold` must not be NaN.")


def check_size(op, name, size):
    """Raises `ValueError` unless `size` is None or a positive integer that int32 holds."""
    if size is None:
        return
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or not 0 < size < 2**31:
        raise ValueError(f"{op}: `{name}` must be a positive integer or None. Received: {size!r}.")


def float32_tensor(op, name, value):
    """`value` as a float32 tensor; a tensor or array that is not floating is refused."""
    dtype = getattr(value, "dtype", None)
    if value is None or (dtype is not None and "float" not in str(dtype)):
        found = value if value is None else keras.backend.standardize_dtype(dtype)
        raise TypeError(f"{op}: `{name}` must be floating point. Received: {found}.")
    if dtype is None:
        return ops.convert_to_tensor(value, dtype="float32")
    value = ops.convert_to_tensor(value)
    is_float32 = keras.backend.standardize_dtype(value.dtype) == "float32"
    return value if is_float32 else ops.cast(value, "float32")


def candidate_scores(scores, score_threshold):
    """`scores` with -inf wherever the box is not a candidate."""
    threshold = -math.inf if score_threshold is None else score_threshold
    return ops.where(scores > threshold, scores, -math.inf)


def size_required(op):
    """The error of an op whose result would need a length that is not known yet."""
    return ValueError(
        f"{op}: `max_output_size` is required for KerasTensors and under a compiler, where the "
        "length of the result cannot depend on data."
    )


def cut_to_count(op, tensors, count):
    """The first `count` elements of every tensor, a length that depends on data."""
    if keras.backend.backend() == "tensorflow":
        if native.traced_for_xla():
            raise size_required(op)
        return tuple(_first(tensor, count) for tensor in tensors)
    if is_compiling():
        raise size_required(op)
    try:
        count = int(ops.convert_to_numpy(count))
    except TypeError as error:  # a tracer has no value
        raise size_required(op) from error
    return tuple(tensor[:count] for tensor in tensors)


def _first(tensor, count):
    """`tensor[:count]` in two ops: TensorFlow's indexing takes five, longer than a small NMS."""
    import tensorflow as tf

    return tf.raw_ops.Slice(input=tensor, begin=[0], size=tf.reshape(count, [1]))


def kept_boxes(boxes, scores, iou_threshold, max_kept=None):
    """Greedy suppression within every (image, class).

    Args:
        boxes: (B, N, Q, 4) float32, Q = C or 1 (boxes shared by the classes).
        scores: (B, N, C) float32, -inf where the box is not a candidate.
        iou_threshold: suppress above it, a float that float32 holds.
        max_kept: keep at most this many boxes of each (image, class).

    Returns:
        (B, N, C) bool, true for the boxes kept.
    """
    batch, num_boxes, num_classes = ops.shape(scores)
    if 0 in scores.shape:
        return ops.zeros((batch, num_boxes, num_classes), dtype="bool")
    if boxes.shape[2] is None:  # shared or not: known only in the graph
        boxes = ops.broadcast_to(boxes, (batch, num_boxes, num_classes, 4))
    shared = boxes.shape[2] == 1
    items = batch * num_classes
    boxes = ops.transpose(ops.stop_gradient(boxes), (0, 2, 1, 3))
    boxes = ops.reshape(boxes, (batch if shared else items, num_boxes, 4))
    scores = ops.transpose(ops.stop_gradient(scores), (0, 2, 1))
    scores = ops.reshape(scores, (items, num_boxes))

    def next_item(item, keep):
        item_boxes = ops.take(boxes, item // num_classes if shared else item, axis=0)
        item_scores = ops.take(scores, item, axis=0)
        item_keep = _kept_of_one(item_boxes, item_scores, iou_threshold, max_kept)
        index = ops.reshape(item, (1, 1))
        return item + 1, ops.scatter_update(keep, index, item_keep[None])

    _, keep = ops.while_loop(
        lambda item, _: ops.logical_and(item < items, num_boxes > 0),
        next_item,
        (ops.convert_to_tensor(0, dtype="int32"), ops.zeros((items, num_boxes), dtype="int32")),
    )
    keep = ops.reshape(keep, (batch, num_classes, num_boxes))
    return ops.cast(ops.transpose(keep, (0, 2, 1)), "bool")


def best_first(scores, keep, size):
    """Positions of the kept entries by descending score, ties by ascending position.

    Args:
        scores: (B, M) float32.
        keep: (B, M) bool.
        size: length of the result.

    Returns:
        Positions (B, size) int32 padded with -1, and how many there are (B,) int32.
    """
    batch = ops.shape(scores)[0]
    scores = ops.where(keep, scores, -math.inf)
    scores = ops.concatenate([scores, ops.full((batch, size), -math.inf, "float32")], axis=1)
    order = ops.cast(ops.argsort(-scores, axis=1)[:, :size], "int32")
    count = ops.minimum(ops.sum(ops.cast(keep, "int32"), axis=1), size)
    return ops.where(ops.arange(size, dtype="int32") < count[:, None], order, -1), count


def _kept_of_one(boxes, scores, iou_threshold, max_kept):
    """(N,) int32, 1 for the boxes kept of one (image, class): boxes (N, 4), scores (N,)."""
    num_boxes = ops.shape(scores)[0]
    order = ops.argsort(-scores)
    boxes = ops.take(boxes, order, axis=0)
    positions = ops.arange(num_boxes, dtype="int32")
    count = ops.sum(ops.cast(scores > -math.inf, "int32"))
    limit = num_boxes if max_kept is None else max_kept
    tile = ops.arange(_TILE, dtype="int32")

    def unfinished(start, alive):
        kept = ops.sum(ops.cast(ops.logical_and(alive, positions < start), "int32"))
        return ops.logical_and(start < count, kept < limit)

    def next_tile(start, alive):
        rows = start + tile
        index = ops.minimum(rows, num_boxes - 1)
        later = positions[None, :] > rows[:, None]
        overlaps = ops.logical_and(
            _overlaps(ops.take(boxes, index, axis=0), boxes, iou_threshold), later
        )
        candidates = ops.logical_and(ops.take(alive, index), rows < num_boxes)
        kept = _kept_of_tile(candidates, ops.take(overlaps, index, axis=1))
        return start + _TILE, ops.logical_and(alive, _none_suppresses(kept, overlaps))

    _, alive = ops.while_loop(
        unfinished, next_tile, (ops.convert_to_tensor(0, dtype="int32"), positions < count)
    )
    keep = ops.cast(alive, "int32")
    keep = keep * ops.cast(ops.cumsum(keep) <= limit, "int32")
    return ops.scatter(ops.cast(order, "int32")[:, None], keep, (num_boxes,))


def _kept_of_tile(candidates, overlaps):
    """Greedy result within a tile: (T,) bool from (T,) bool and upper-triangular (T, T) bool.

    `kept_j = candidate_j and no kept i suppresses j` has one solution, the greedy one, and
    repeating it gets one more box of every chain of suppressions right each time.
    """

    def repeat(kept, _):
        return ops.logical_and(candidates, _none_suppresses(kept, overlaps)), kept

    kept, _ = ops.while_loop(
        lambda kept, previous: ops.any(ops.not_equal(kept, previous)),
        repeat,
        repeat(candidates, candidates),
    )
    return kept


def _none_suppresses(kept, overlaps):
    return ops.logical_not(ops.any(ops.logical_and(kept[:, None], overlaps), axis=0))


def _overlaps(boxes_a, boxes_b, iou_threshold):
    """(A, B) bool, IoU > threshold."""
    return ious(boxes_a, boxes_b) > iou_threshold


def ious(boxes_a, boxes_b):
    """(A, B) float32. No product meets a sum, lest a compiler fuse the two."""
    left, top, right, bottom = (
        (ops.expand_dims(boxes_a[:, k], 1), ops.expand_dims(boxes_b[:, k], 0)) for k in range(4)
    )
    width = ops.minimum(*right) - ops.maximum(*left)
    height = ops.minimum(*bottom) - ops.maximum(*top)
    crossing = ops.logical_and(width > 0, height > 0)
    inter = ops.where(crossing, width * height, 0.0)
    union = ops.expand_dims(_area(boxes_a), 1) + ops.expand_dims(_area(boxes_b), 0) - inter
    return inter / union


def _area(boxes):
    """Areas, infinite unless positive: such a box then has IoU 0 (or NaN) with every box."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return ops.where(area > 0, area, math.inf)
