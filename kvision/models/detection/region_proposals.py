"""From what a region proposal network says of its anchors to the regions worth a second look.

Source: Ren, He, Girshick, Sun, "Faster R-CNN", 2015; level by level as in Lin et al., "Feature
Pyramid Networks", 2017. The order of the steps is torchvision's.
"""

import math

from keras import ops

from kvision.boxes import clip_boxes, decode_boxes, gather_rows, shortest_side
from kvision.ops import batched_nms


def propose_regions(
    logits,
    deltas,
    anchors,
    image_size,
    *,
    pre_nms_size,
    post_nms_size,
    nms_threshold,
    min_side,
):
    """Selects the regions of each image.

    Of each level the `pre_nms_size` best anchors are decoded and clipped to the image, boxes with
    a side shorter than `min_side` are dropped, and overlapping ones suppressed; the best
    `post_nms_size` of all levels together remain. No gradient flows through the result.

    Args:
        logits: Float tensor `(B, A)`, all levels one after another.
        deltas: Float tensor `(B, A, 4)`.
        anchors: Sequence of one array `(A_level, 4)` a level, xyxy pixels.
        image_size: `(height, width)` of the images, in pixels.
        pre_nms_size: Number of anchors of a level, positive.
        post_nms_size: Number of regions of an image, positive.
        nms_threshold: IoU above which regions of a level are suppressed.
        min_side: In pixels.

    Returns:
        `(proposals (B, R, 4), num_proposals (B,))`: float32 boxes by descending score, padded
        with 0, and int32. R is `post_nms_size`, or less where there are fewer anchors.
    """
    logits, deltas = ops.stop_gradient(logits), ops.stop_gradient(deltas)
    num_levels = len(anchors)
    width = min(pre_nms_size, max(len(level) for level in anchors))
    boxes, scores = [], []
    start = 0
    for level in anchors:
        end = start + len(level)
        best, indices = ops.top_k(logits[:, start:end], min(width, len(level)))
        candidates = decode_boxes(
            gather_rows(deltas[:, start:end], ops.cast(indices, "int32")),
            ops.take(ops.convert_to_tensor(level), indices, axis=0),
        )
        candidates = clip_boxes(candidates, image_size)
        score = ops.where(shortest_side(candidates) >= min_side, ops.sigmoid(best), -math.inf)
        padding = (0, width - min(width, len(level)))
        boxes.append(ops.pad(candidates, ((0, 0), padding, (0, 0))))
        scores.append(ops.pad(score, ((0, 0), padding), constant_values=-math.inf))
        start = end

    batch = ops.shape(logits)[0]
    kept = batched_nms(
        ops.reshape(ops.stack(boxes, axis=1), (batch * num_levels, width, 4)),
        ops.reshape(ops.stack(scores, axis=1), (batch * num_levels, width, 1)),
        iou_threshold=nms_threshold,
        max_output_size=min(width, post_nms_size),
    )
    return _merge_levels(kept, batch, num_levels, post_nms_size)


def _merge_levels(kept, batch, num_levels, size):
    width = kept["scores"].shape[1]
    total = num_levels * width
    found = ops.arange(width, dtype="int32")[None, :] < kept["num_detections"][:, None]
    scores = ops.where(found, kept["scores"], -math.inf)
    _, order = ops.top_k(ops.reshape(scores, (batch, total)), min(size, total))
    proposals = gather_rows(ops.reshape(kept["boxes"], (batch, total, 4)), ops.cast(order, "int32"))
    counts = ops.sum(ops.reshape(kept["num_detections"], (batch, num_levels)), axis=1)
    return proposals, ops.minimum(counts, min(size, total))
