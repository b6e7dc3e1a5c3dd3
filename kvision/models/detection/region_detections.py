"""From what a box head says of regions to detections.

Source: Girshick, "Fast R-CNN", 2015, section 3. The order of the steps is torchvision's.
"""

from keras import ops

from kvision.boxes import clip_boxes, decode_boxes, shortest_side
from kvision.ops import batched_nms

BOX_CODE_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Weights of the offsets between regions and objects, see `kvision.boxes.encode_boxes`."""

MIN_DETECTION_SIDE = 1e-2
"""Detections with a shorter side, in pixels, are dropped."""


def detect_regions(
    class_logits,
    box_deltas,
    regions,
    num_regions,
    image_size,
    *,
    score_threshold,
    nms_threshold,
    max_detections,
):
    """Moves the regions, clips them to the image, and suppresses overlaps class by class.

    Args:
        class_logits: Float tensor `(B, R, K + 1)`, the background in column 0.
        box_deltas: Float tensor `(B, R, K + 1, 4)`, likewise.
        regions: Float tensor `(B, R, 4)`, xyxy pixels.
        num_regions: Int32 tensor `(B,)`: the regions after these are padding.
        image_size: Float tensor `(B, 2)`, heights and widths in pixels.
        score_threshold: Detections score more than this.
        nms_threshold: IoU above which detections of one class are suppressed.
        max_detections: Detections of each image, padding included.

    Returns:
        Dictionary of `boxes (B, D, 4)` float32 xyxy, `scores (B, D)` float32, `labels (B, D)`
        int32 padded with -1, and `num_detections (B,)` int32, with D = `max_detections`.
    """
    boxes = decode_boxes(box_deltas[:, :, 1:], regions[:, :, None], BOX_CODE_WEIGHTS)
    height, width = image_size[:, 0, None, None], image_size[:, 1, None, None]
    boxes = clip_boxes(boxes, (height, width))
    scores = ops.softmax(class_logits, axis=-1)[:, :, 1:]
    slots = ops.arange(regions.shape[1], dtype="int32")
    real = slots[None, :, None] < num_regions[:, None, None]
    real = real & (shortest_side(boxes) >= MIN_DETECTION_SIDE)
    detections = batched_nms(
        boxes,
        ops.where(real, scores, -1.0),
        iou_threshold=nms_threshold,
        score_threshold=score_threshold,
        max_output_size=max_detections,
    )
    return {name: detections[name] for name in ("boxes", "scores", "labels", "num_detections")}
