"""Areas, overlaps and clipping of `xyxy` boxes."""

from keras import ops


def box_area(boxes):
    """Areas of boxes; a box with a reversed side has area 0.

    Args:
        boxes: Float tensor `(..., 4)`, xyxy.

    Returns:
        Float tensor `(...)`.
    """
    size = ops.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return size[..., 0] * size[..., 1]


def pairwise_intersection(boxes1, boxes2):
    """Areas of the intersections of every box of one set with every box of another.

    Args:
        boxes1: Float tensor `(..., M, 4)`, xyxy.
        boxes2: Float tensor `(..., N, 4)`, xyxy, in the same unit.

    Returns:
        Float tensor `(..., M, N)`.
    """
    x1, y1, x2, y2 = (boxes1[..., :, None, i] for i in range(4))
    u1, v1, u2, v2 = (boxes2[..., None, :, i] for i in range(4))
    width = ops.minimum(x2, u2) - ops.maximum(x1, u1)
    height = ops.minimum(y2, v2) - ops.maximum(y1, v1)
    return ops.maximum(width, 0.0) * ops.maximum(height, 0.0)


def pairwise_iou(boxes1, boxes2):
    """Intersection over union of every box of one set with every box of another.

    Args:
        boxes1: Float tensor `(..., M, 4)`, xyxy.
        boxes2: Float tensor `(..., N, 4)`, xyxy, in the same unit.

    Returns:
        Float tensor `(..., M, N)` of values in [0, 1]; 0 where both boxes are empty.
    """
    intersection = pairwise_intersection(boxes1, boxes2)
    union = box_area(boxes1)[..., :, None] + box_area(boxes2)[..., None, :] - intersection
    return ops.where(union > 0.0, intersection / ops.where(union > 0.0, union, 1.0), 0.0)


def clip_boxes(boxes, image_size):
    """Boxes cut to the image they lie in.

    Args:
        boxes: Float tensor `(..., 4)`, xyxy pixels.
        image_size: `(height, width)`, numbers or tensors that broadcast to `(...)`.

    Returns:
        Float tensor `(..., 4)`: x in [0, width], y in [0, height].
    """
    height, width = (ops.cast(side, boxes.dtype) for side in image_size)
    x1, y1, x2, y2 = (boxes[..., i] for i in range(4))
    return ops.stack(
        [
            ops.minimum(ops.maximum(x1, 0.0), width),
            ops.minimum(ops.maximum(y1, 0.0), height),
            ops.minimum(ops.maximum(x2, 0.0), width),
            ops.minimum(ops.maximum(y2, 0.0), height),
        ],
        axis=-1,
    )


def shortest_side(boxes):
    """The smaller of width and height.

    Args:
        boxes: Float tensor `(..., 4)`, xyxy.

    Returns:
        Float tensor `(...)`, negative for a box with a reversed side.
    """
    return ops.minimum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])
