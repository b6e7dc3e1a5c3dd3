"""Clipping and sides of `xyxy` boxes."""

from keras import ops


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
