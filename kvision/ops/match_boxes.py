"""Which ground truth, if any, a candidate box stands for.

Source: Ren, He, Girshick, Sun, "Faster R-CNN", 2015, section 3.1.2.
"""

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.arguments import check_number
from kvision.ops.operation import call_operation
from kvision.ops.suppression import float32_tensor

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
"""What a candidate is to a loss."""


def match(quality, valid, *, positive_threshold, negative_threshold, allow_low_quality=False):
    """Assigns each candidate to the ground truth it fits best, and says what it is.

    A candidate is positive if its best quality is at least `positive_threshold`, negative if it
    is less than `negative_threshold`, ignored between. With `allow_low_quality` each ground truth
    also makes its best candidates positive, all of equal ones, unless their quality is 0; they
    stay assigned to the ground truth that they themselves fit best.

    Args:
        quality: Float tensor `(..., M, N)`: how well ground truth m and candidate n fit, >= 0.
        valid: Bool tensor `(..., M)`: false marks padding.
        positive_threshold: Number, at least `negative_threshold`.
        negative_threshold: Number.
        allow_low_quality: Whether the best candidates of a ground truth are always positive.

    Returns:
        `(matches, status)`, int32 tensors `(..., N)`: the index of the ground truth (of no
        meaning unless positive), and `POSITIVE`, `NEGATIVE` or `IGNORED`.
    """
    quality = ops.where(valid[..., None], quality, -1.0)
    # One more that fits nothing, for where there is none.
    quality = ops.pad(
        quality, [(0, 0)] * (len(quality.shape) - 2) + [(0, 1), (0, 0)], "constant", -1
    )
    matches = ops.cast(ops.argmax(quality, axis=-2), "int32")
    best = ops.max(quality, axis=-2, initial=-1.0)
    status = ops.where(best < negative_threshold, NEGATIVE, IGNORED)
    positive = best >= positive_threshold
    if allow_low_quality:
        highest = ops.max(quality, axis=-1, keepdims=True, initial=-1.0)
        positive = positive | ops.any((quality == highest) & (highest > 0.0), axis=-2)
    return matches, ops.cast(ops.where(positive, POSITIVE, status), "int32")


def match_boxes(
    candidates,
    boxes,
    valid,
    crowd=None,
    *,
    positive_threshold,
    negative_threshold,
    allow_low_quality=False,
    crowd_overlap=0.7,
):
    """Which ground truth each candidate stands for, by IoU, without a matrix of all IoUs.

    A candidate is positive if its greatest IoU with a valid box is at least `positive_threshold`,
    negative if it is less than `negative_threshold`, ignored between. With `allow_low_quality` each
    valid box also makes its best candidates positive, all of equal ones, unless their IoU is 0.

    IoU is computed in float32 as `intersection / (area + candidate's area - intersection)`, where
    reversed sides are 0 and what is not a number is 0. There is no gradient.

    Args:
        candidates: Float tensor `(N, 4)`, the same for all images, or `(B, N, 4)`; xyxy.
        boxes: Float tensor `(B, M, 4)` of the ground truth, xyxy in the same unit.
        valid: Bool tensor `(B, M)`: the boxes that candidates may stand for.
        crowd: Bool tensor `(B, M)` or `None`: boxes of regions that teach nothing. Negative
            candidates that lie in one of them by more than `crowd_overlap` of their own area
            become ignored.
        positive_threshold: Number, at least `negative_threshold`.
        negative_threshold: Number.
        allow_low_quality: Whether the best candidates of a ground truth are always positive.
        crowd_overlap: Number, a fraction of a candidate's area.

    Returns:
        `(matches, status)`, int32 tensors `(B, N)`: the index of the box with the greatest IoU, the
        first of equal ones (0 where no box is valid), and `POSITIVE`, `NEGATIVE` or `IGNORED`.

    Raises:
        TypeError: If candidates or boxes are not floating point, or masks not bool.
        ValueError: If the thresholds are in the wrong order, or a shape does not fit.
    """
    return call_operation(
        MatchBoxesOperation,
        (candidates, boxes, valid, *([] if crowd is None else [crowd])),
        positive_threshold=positive_threshold,
        negative_threshold=negative_threshold,
        allow_low_quality=allow_low_quality,
        crowd_overlap=crowd_overlap,
    )


@keras.saving.register_keras_serializable("kvision")
class MatchBoxesOperation(keras.Operation):
    """`match_boxes` as a node of a functional model. Arguments as there."""

    def __init__(
        self,
        *,
        positive_threshold,
        negative_threshold,
        allow_low_quality=False,
        crowd_overlap=0.7,
        name=None,
    ):
        super().__init__(name=name)
        thresholds = {
            "positive_threshold": positive_threshold,
            "negative_threshold": negative_threshold,
            "crowd_overlap": crowd_overlap,
        }
        for threshold, value in thresholds.items():
            check_number("match_boxes", threshold, value)
        if not positive_threshold >= negative_threshold:
            raise ValueError(
                "match_boxes: `positive_threshold` must be at least `negative_threshold`. "
                f"Received: {positive_threshold} and {negative_threshold}."
            )
        self.positive_threshold = float(positive_threshold)
        self.negative_threshold = float(negative_threshold)
        self.allow_low_quality = bool(allow_low_quality)
        self.crowd_overlap = float(crowd_overlap)

    def call(self, candidates, boxes, valid, crowd=None):
        candidates = float32_tensor("match_boxes", "candidates", candidates)
        boxes = float32_tensor("match_boxes", "boxes", boxes)
        valid = _bool_tensor("valid", valid)
        crowd = ops.zeros_like(valid) if crowd is None else _bool_tensor("crowd", crowd)
        _check_shapes(candidates.shape, boxes.shape, valid.shape, crowd.shape)
        if len(candidates.shape) == 2:
            candidates = ops.expand_dims(candidates, 0)
        run = _native if native.use_native() else _reference
        return run(
            ops.stop_gradient(candidates),
            ops.stop_gradient(boxes),
            valid,
            crowd,
            crowd_overlap=self.crowd_overlap,
            positive_threshold=self.positive_threshold,
            negative_threshold=self.negative_threshold,
            allow_low_quality=self.allow_low_quality,
        )

    def compute_output_spec(self, candidates, boxes, valid, crowd=None):
        _check_shapes(
            candidates.shape, boxes.shape, valid.shape, (valid if crowd is None else crowd).shape
        )
        batch = [boxes.shape[0], *([candidates.shape[0]] if len(candidates.shape) == 3 else [])]
        known = next((size for size in batch if size is not None), None)
        shape = (known, candidates.shape[-2])
        return keras.KerasTensor(shape, dtype="int32"), keras.KerasTensor(shape, dtype="int32")


def _bool_tensor(name, value):
    """Labels in place of a mask would be taken for one: class 0 as false, padding as true."""
    value = ops.convert_to_tensor(value)
    dtype = keras.backend.standardize_dtype(value.dtype)
    if dtype != "bool":
        raise TypeError(f"match_boxes: `{name}` must be bool. Received: {dtype}.")
    return value


def _check_shapes(candidates, boxes, valid, crowd):
    candidates, boxes, valid, crowd = map(tuple, (candidates, boxes, valid, crowd))
    if len(candidates) not in (2, 3) or candidates[-1] not in (4, None):
        raise ValueError(
            "match_boxes: `candidates` must have shape (num_candidates, 4) or "
            f"(batch, num_candidates, 4). Received: {candidates}."
        )
    if len(boxes) != 3 or boxes[-1] not in (4, None):
        raise ValueError(
            f"match_boxes: `boxes` must have shape (batch, num_boxes, 4). Received: {boxes}."
        )
    for name, shape in (("valid", valid), ("crowd", crowd)):
        if len(shape) != 2 or not _agree(shape, boxes[:2]):
            raise ValueError(
                f"match_boxes: `{name}` must have shape (batch, num_boxes) of `boxes`. "
                f"Received: {shape} for {boxes}."
            )
    if len(candidates) == 3 and not _agree(candidates[:1], boxes[:1]):
        raise ValueError(
            "match_boxes: `candidates` and `boxes` must have the same batch size. "
            f"Received: {candidates} and {boxes}."
        )


def _agree(sizes1, sizes2):
    return all(None in pair or pair[0] == pair[1] for pair in zip(sizes1, sizes2, strict=True))


def _native(candidates, boxes, valid, crowd, **attributes):
    matches, status = native.call("match_boxes", boxes, valid, crowd, candidates, **attributes)
    return matches, status


def _reference(candidates, boxes, valid, crowd, *, crowd_overlap, **thresholds):
    """As `_native`, in `keras.ops`: image by image, so that one image's IoUs are in memory."""
    per_image = {"boxes": boxes, "valid": valid, "crowd": crowd}
    shared = candidates.shape[0] == 1
    if not shared:
        per_image["candidates"] = candidates
    # One more image: a loop over none has no result to take a shape from.
    per_image = {
        name: ops.pad(values, [(0, 1)] + [(0, 0)] * (len(values.shape) - 1))
        for name, values in per_image.items()
    }

    def match_image(image):
        own = candidates[0] if shared else image["candidates"]
        intersection = _intersection(image["boxes"], own)
        union = _area(image["boxes"])[:, None] + _area(own)[None] - intersection
        iou = ops.where(intersection > 0.0, intersection / union, 0.0)
        matches, status = match(ops.where(iou > 0.0, iou, 0.0), image["valid"], **thresholds)
        inside = (intersection > crowd_overlap * _area(own)) & image["crowd"][:, None]
        inside = ops.any(inside, axis=0) & (status == NEGATIVE)
        return matches, ops.where(inside, IGNORED, status)

    matches, status = ops.map(match_image, per_image)
    return matches[:-1], status[:-1]


def _area(boxes):
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return ops.where(width > 0.0, width, 0.0) * ops.where(height > 0.0, height, 0.0)


def _intersection(boxes, candidates):
    (x1, y1, x2, y2) = (boxes[:, None, i] for i in range(4))
    (u1, v1, u2, v2) = (candidates[None, :, i] for i in range(4))
    width = ops.minimum(x2, u2) - ops.maximum(x1, u1)
    height = ops.minimum(y2, v2) - ops.maximum(y1, v1)
    return ops.where((width > 0.0) & (height > 0.0), width * height, 0.0)
