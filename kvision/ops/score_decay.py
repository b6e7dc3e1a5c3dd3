"""What `soft_nms` and `matrix_nms` have in common: boxes overlapped by better ones lose score.

* A box is a candidate if its score is greater than the score threshold; NaN and -inf never are.
* Boxes of different labels have IoU 0, and so has a box without a positive finite area with every
  box. Apart from that IoU is that of `nms`.
* A positive score is multiplied by a factor in [0, 1]. Other scores stay as they are, so that decay
  never raises a score. An infinite score times 0 is NaN: no candidate any more.
"""

import math

import keras
from keras import ops

from kvision.ops.arguments import check_number
from kvision.ops.suppression import (
    candidate_scores,
    check_size,
    cut_to_count,
    float32_tensor,
    ious,
    size_required,
)

# What rounds to them in float32.
_FLOAT32_ZERO, _FLOAT32_INFINITY = 2.0**-150, 2.0**128 - 2.0**103


class ScoreDecayOperation(keras.Operation):
    """Node of a functional model that takes one set of boxes and returns indices and scores.

    A subclass sets `op`, the name of its public function, and has a method `select(boxes, scores,
    labels)` that returns indices and decayed scores, padded, and their count.
    """

    op = None

    def __init__(self, *, method, sigma, score_threshold, max_output_size, name=None):
        super().__init__(name=name)
        if method not in ("linear", "gaussian"):
            raise ValueError(
                f'{self.op}: `method` must be "linear" or "gaussian". Received: {method!r}.'
            )
        check_number(self.op, "sigma", sigma)
        if not _FLOAT32_ZERO < sigma < _FLOAT32_INFINITY:
            raise ValueError(f"{self.op}: `sigma` must be positive and finite. Received: {sigma}.")
        if score_threshold is not None and score_threshold != score_threshold:
            raise ValueError(f"{self.op}: `score_threshold` must not be NaN.")
        check_size(self.op, "max_output_size", max_output_size)
        self.method = method
        self.sigma = float(sigma)
        self.score_threshold = score_threshold
        self.max_output_size = max_output_size

    @property
    def least_score(self):
        """The score threshold, -inf for none."""
        return -math.inf if self.score_threshold is None else float(self.score_threshold)

    def native_attributes(self):
        """The attributes that both native ops have."""
        size = self.max_output_size
        return {
            "method": self.method,
            "sigma": self.sigma,
            "score_threshold": self.least_score,
            "max_output_size": -1 if size is None else size,
        }

    def call(self, boxes, scores, labels=None):
        boxes = float32_tensor(self.op, "boxes", boxes)
        scores = float32_tensor(self.op, "scores", scores)
        labels = _int32_labels(self.op, labels, scores)
        _check_shapes(self.op, boxes.shape, scores.shape, labels.shape)
        indices, decayed_scores, count = self.select(boxes, scores, labels)
        if self.max_output_size is None:
            return cut_to_count(self.op, (indices, decayed_scores), count)
        return indices, decayed_scores

    def compute_output_spec(self, boxes, scores, labels=None):
        _check_shapes(
            self.op, boxes.shape, scores.shape, scores.shape if labels is None else labels.shape
        )
        if self.max_output_size is None:
            raise size_required(self.op)
        shape = (self.max_output_size,)
        return keras.KerasTensor(shape, dtype="int32"), keras.KerasTensor(shape, dtype="float32")


def labelled_ious(boxes_a, labels_a, boxes_b, labels_b):
    """(A, B) float32, 0 where labels differ and where infinite boxes would give NaN."""
    iou = ious(boxes_a, boxes_b)
    same = ops.equal(ops.expand_dims(labels_a, 1), ops.expand_dims(labels_b, 0))
    return ops.where(ops.logical_and(same, iou > 0), iou, 0.0)


def decayed(scores, factors, score_threshold):
    """Scores after decay, -inf where the box is not a candidate any more."""
    scores = ops.where(scores > 0, scores * factors, scores)
    return candidate_scores(scores, score_threshold)


def _int32_labels(op, labels, scores):
    if labels is None:
        return ops.zeros_like(scores, dtype="int32")
    dtype = getattr(labels, "dtype", None)
    if dtype is None:
        return ops.convert_to_tensor(labels, dtype="int32")
    if "int" not in str(dtype):
        raise TypeError(f"{op}: `labels` must be integers. Received: {dtype}.")
    return ops.cast(ops.convert_to_tensor(labels), "int32")


def _check_shapes(op, boxes, scores, labels):
    boxes, scores, labels = tuple(boxes), tuple(scores), tuple(labels)
    if len(boxes) != 2 or boxes[1] not in (4, None):
        raise ValueError(f"{op}: `boxes` must have shape (num_boxes, 4). Received: {boxes}.")
    num_boxes, known_in = boxes[0], "boxes"
    for name, shape in {"scores": scores, "labels": labels}.items():
        expected = f"{op}: `{name}` must have shape (num_boxes,)"
        if len(shape) != 1:
            raise ValueError(f"{expected}. Received: {shape}.")
        if num_boxes is None:
            num_boxes, known_in = shape[0], name
        elif shape[0] not in (num_boxes, None):
            raise ValueError(
                f"{expected}, where num_boxes is {num_boxes} in `{known_in}`. Received: {shape}."
            )
