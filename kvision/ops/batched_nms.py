"""Non-maximum suppression of every image and class at once, to a fixed number of detections."""

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
    float32_tensor,
    float32_threshold,
    kept_boxes,
)


def batched_nms(
    boxes,
    scores,
    *,
    iou_threshold,
    score_threshold=None,
    max_output_size=100,
    max_output_size_per_class=None,
    class_agnostic=False,
):
    """Suppresses overlapping boxes within each image and class, and keeps each image's best.

    Every (box, class) pair is a candidate. Within an image and class the rule is `nms`'s, to the
    bit; classes do not see each other. What is kept is merged by descending score; equal scores
    by ascending box index, then ascending class.

    With `class_agnostic`, a box is one candidate: for the class of its greatest score (the first
    of equal ones; NaN is passed over), and candidates suppress each other whatever their class.

    Boxes and scores are computed with, and returned, in float32. Gradients flow through the
    returned boxes and scores to the ones that were given, as through any gather.

    Args:
        boxes: Float tensor of shape `(batch, num_boxes, 4)`, or `(batch, num_boxes, num_classes,
            4)` where every class has a box of its own; `xyxy` in any unit.
        scores: Float tensor of shape `(batch, num_boxes, num_classes)`.
        iou_threshold: Float in [0, 1]. Boxes are suppressed above it, not at it.
        score_threshold: Float or `None`. Only scores greater than it are candidates; NaN and
            -inf never are.
        max_output_size: Positive int: the number of detections an image, padding included.
        max_output_size_per_class: Positive int or `None`: keep at most so many of each class of
            an image. Refused with `class_agnostic`.
        class_agnostic: Whether boxes suppress each other across classes.

    Returns:
        A dictionary of tensors, `K = max_output_size`:

        - `boxes`: `(batch, K, 4)` float32, padded with 0.
        - `scores`: `(batch, K)` float32, padded with 0.
        - `labels`: `(batch, K)` int32, the class, padded with -1.
        - `indices`: `(batch, K)` int32, the box's index in `boxes`, padded with -1.
        - `num_detections`: `(batch,)` int32.

    Raises:
        TypeError: If boxes or scores are not floating point.
        ValueError: If an argument has a wrong value, or a tensor a wrong rank or size.
    """
    return call_operation(
        BatchedNMSOperation,
        (boxes, scores),
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        max_output_size=max_output_size,
        max_output_size_per_class=max_output_size_per_class,
        class_agnostic=class_agnostic,
    )


@keras.saving.register_keras_serializable("kvision")
class BatchedNMSOperation(keras.Operation):
    """`batched_nms` as a node of a functional model. Arguments as there."""

    def __init__(
        self,
        *,
        iou_threshold,
        score_threshold=None,
        max_output_size=100,
        max_output_size_per_class=None,
        class_agnostic=False,
        name=None,
    ):
        super().__init__(name=name)
        check_thresholds("batched_nms", iou_threshold, score_threshold)
        if max_output_size is None:
            raise ValueError("batched_nms: `max_output_size` must be a positive integer.")
        check_size("batched_nms", "max_output_size", max_output_size)
        check_size("batched_nms", "max_output_size_per_class", max_output_size_per_class)
        if class_agnostic and max_output_size_per_class is not None:
            raise ValueError(
                "batched_nms: `max_output_size_per_class` has no meaning with `class_agnostic`."
            )
        self.iou_threshold = float(iou_threshold)
        self.score_threshold = score_threshold
        self.max_output_size = int(max_output_size)
        self.max_output_size_per_class = max_output_size_per_class
        self.class_agnostic = bool(class_agnostic)

    def call(self, boxes, scores):
        boxes = float32_tensor("batched_nms", "boxes", boxes)
        scores = float32_tensor("batched_nms", "scores", scores)
        check_shapes("batched_nms", boxes.shape, scores.shape)
        classes = None
        if self.class_agnostic and scores.shape[2] not in (0, 1):
            boxes, scores, classes = _best_class(boxes, scores)
        if len(boxes.shape) == 3:
            boxes = ops.expand_dims(boxes, 2)
        indices, labels, count = (_native if native.use_native() else _reference)(
            boxes,
            scores,
            float32_threshold(self.iou_threshold),
            -math.inf if self.score_threshold is None else self.score_threshold,
            self.max_output_size,
            self.max_output_size_per_class or self.max_output_size,
        )
        detections = {
            **_gather(boxes, scores, indices, labels),
            "labels": labels,
            "indices": indices,
            "num_detections": count,
        }
        if classes is not None:
            detections["labels"] = _take_padded(classes, indices, -1)
        return detections

    def compute_output_spec(self, boxes, scores):
        check_shapes("batched_nms", boxes.shape, scores.shape)
        shapes = output_shapes(boxes.shape, scores.shape, self.max_output_size)
        floating = ("boxes", "scores")
        return {
            name: keras.KerasTensor(shape, dtype="float32" if name in floating else "int32")
            for name, shape in shapes.items()
        }


def output_shapes(boxes_shape, scores_shape, max_output_size):
    """The shapes of what `batched_nms` returns, by name; `None` stands for what is unknown."""
    batch = boxes_shape[0] if boxes_shape[0] is not None else scores_shape[0]
    return {
        "boxes": (batch, max_output_size, 4),
        "scores": (batch, max_output_size),
        "labels": (batch, max_output_size),
        "indices": (batch, max_output_size),
        "num_detections": (batch,),
    }


def check_shapes(name, boxes, scores):
    """Raises `ValueError` for ranks or static sizes that `batched_nms` does not take."""
    boxes, scores = tuple(boxes), tuple(scores)
    if len(boxes) not in (3, 4) or boxes[-1] not in (4, None):
        raise ValueError(
            f"{name}: `boxes` must have shape (batch, num_boxes, 4) or "
            f"(batch, num_boxes, num_classes, 4). Received: {boxes}."
        )
    if len(scores) != 3:
        raise ValueError(
            f"{name}: `scores` must have shape (batch, num_boxes, num_classes). Received: {scores}."
        )
    sizes = zip(("batch", "num_boxes", "num_classes"), boxes[:-1], scores, strict=False)
    for dimension, box_size, score_size in sizes:
        if None not in (box_size, score_size) and box_size != score_size:
            raise ValueError(
                f"{name}: `boxes` and `scores` must have the same {dimension}. "
                f"Received: {boxes} and {scores}."
            )


def _native(boxes, scores, iou_threshold, score_threshold, max_output_size, max_per_class):
    """Box indices (B, K), labels (B, K) and number of detections (B,), all int32."""
    return native.call(
        "batched_nms",
        boxes,
        scores,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        max_output_size=max_output_size,
        max_output_size_per_class=max_per_class,
    )


def _reference(boxes, scores, iou_threshold, score_threshold, max_output_size, max_per_class):
    """As `_native`, in `keras.ops`."""
    scores = candidate_scores(scores, score_threshold)
    limit = min(max_per_class, max_output_size)
    keep = kept_boxes(boxes, scores, iou_threshold, limit)
    batch, num_boxes, num_classes = ops.shape(scores)
    pairs = (batch, num_boxes * num_classes)
    positions, count = best_first(
        ops.reshape(scores, pairs), ops.reshape(keep, pairs), max_output_size
    )
    found = positions >= 0
    divisor = ops.maximum(num_classes, 1)
    indices = ops.where(found, positions // divisor, -1)
    return indices, ops.where(found, positions % divisor, -1), count


def _best_class(boxes, scores):
    """One candidate a box: its boxes (B, N, 4), best scores (B, N, 1) and their class (B, N)."""
    if scores.shape[2] is None:  # there may be no class: one more, that is nobody's
        scores = ops.pad(scores, [(0, 0), (0, 0), (0, 1)], "constant", -math.inf)
        if len(boxes.shape) == 4:
            boxes = ops.pad(boxes, [(0, 0), (0, 0), (0, 1), (0, 0)])
    classes = ops.cast(ops.argmax(ops.where(ops.isnan(scores), -math.inf, scores), axis=2), "int32")
    scores = ops.take_along_axis(scores, classes[..., None], axis=2)
    if len(boxes.shape) == 4:
        boxes = ops.take_along_axis(boxes, classes[..., None, None], axis=2)[:, :, 0]
    return boxes, scores, classes


def _gather(boxes, scores, indices, labels):
    """The detections' boxes (B, K, 4) and scores (B, K), from boxes (B, N, C or 1, 4)."""
    batch, num_boxes, num_classes = ops.shape(scores)
    pairs = indices * num_classes + labels
    # By their own sizes: of wrong ones in a graph the kernel speaks, not this; and whether classes
    # share boxes may be known only there.
    own_batch, own_boxes, own_classes, _ = ops.shape(boxes)
    box_labels = ops.where(ops.equal(own_classes, 1), ops.minimum(labels, 0), labels)
    boxes = ops.reshape(boxes, (own_batch, own_boxes * own_classes, 4))
    scores = ops.reshape(scores, (batch, num_boxes * num_classes))
    return {
        "boxes": _take_padded(boxes, indices * own_classes + box_labels, 0.0),
        "scores": _take_padded(scores, pairs, 0.0),
    }


def _take_padded(values, positions, padding):
    """`values[b, positions[b, k]]`, and `padding` where the position is negative."""
    batch, _, *rest = ops.shape(values)
    values = ops.concatenate(
        [ops.full((batch, 1, *rest), padding, dtype=values.dtype), values], axis=1
    )
    positions = ops.maximum(positions + 1, 0)
    if rest:
        positions = ops.expand_dims(positions, 2)
    return ops.take_along_axis(values, positions, axis=1)
