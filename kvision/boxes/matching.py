"""Which ground truth, if any, a candidate box stands for.

Source: Ren, He, Girshick, Sun, "Faster R-CNN", 2015, section 3.1.2.
"""

from keras import ops

from kvision.boxes.geometry import box_area, pairwise_intersection, pairwise_iou

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
    matches = ops.cast(ops.argmax(quality, axis=-2), "int32")
    best = ops.max(quality, axis=-2)
    status = ops.where(best < negative_threshold, NEGATIVE, IGNORED)
    positive = best >= positive_threshold
    if allow_low_quality:
        highest = ops.max(quality, axis=-1, keepdims=True)
        positive = positive | ops.any((quality == highest) & (highest > 0.0), axis=-2)
    return matches, ops.cast(ops.where(positive, POSITIVE, status), "int32")


def match_boxes(candidates, boxes, valid, crowd=None, *, crowd_overlap=0.7, **thresholds):
    """`match` by IoU, image by image, so that one image's overlaps are in memory at a time.

    Args:
        candidates: Float tensor `(N, 4)`, the same for all images, or `(B, N, 4)`; xyxy.
        boxes: Float tensor `(B, M, 4)` of the ground truth, xyxy.
        valid: Bool tensor `(B, M)`: the boxes that candidates may stand for.
        crowd: Bool tensor `(B, M)` or `None`: boxes of regions that teach nothing. Negative
            candidates that lie in one of them by more than `crowd_overlap` of their own area
            become ignored.
        crowd_overlap: Fraction in [0, 1].
        **thresholds: Arguments of `match`.

    Returns:
        `(matches, status)`, int32 tensors `(B, N)` as `match` gives them.
    """
    per_image = {"boxes": boxes, "valid": valid}
    if crowd is not None:
        per_image["crowd"] = crowd
    if len(candidates.shape) == 3:
        per_image["candidates"] = candidates

    def match_image(image):
        own = image.get("candidates", candidates)
        quality = pairwise_iou(image["boxes"], own)
        matches, status = match(quality, image["valid"], **thresholds)
        if crowd is not None:
            inside = pairwise_intersection(image["boxes"], own) > crowd_overlap * box_area(own)
            inside = ops.any(inside & image["crowd"][:, None], axis=0)
            status = ops.where(inside & (status == NEGATIVE), IGNORED, status)
        return matches, status

    return ops.map(match_image, per_image)
