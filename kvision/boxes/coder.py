"""Boxes as offsets from anchors, and back.

Source: Girshick, Donahue, Darrell, Malik, "R-CNN", 2014, appendix C; the weights are those of
Fast R-CNN (Girshick, 2015), whose targets were divided by (0.1, 0.1, 0.2, 0.2).
"""

import math

from keras import ops

MAX_LOG_SCALE = math.log(1000.0 / 16.0)
"""Largest log of a scale that `decode_boxes` follows: a box grows at most 62.5 times."""


def encode_boxes(boxes, anchors, weights=(1.0, 1.0, 1.0, 1.0)):
    """Offsets that turn anchors into boxes.

    With centres `(cx, cy)` and sizes `(w, h)`: `weights * ((cx - cx_a) / w_a, (cy - cy_a) / h_a,
    log(w / w_a), log(h / h_a))`. Of an empty box or anchor the offsets are those of one with
    sides of 1e-6 pixel: finite, and of no meaning.

    Args:
        boxes: Float tensor `(..., 4)`, xyxy.
        anchors: Float tensor that broadcasts with `boxes`, xyxy.
        weights: Four factors of the offsets.

    Returns:
        Float tensor `(..., 4)`, in the order x, y, log width, log height.
    """
    centre, size = _centre_and_size(boxes)
    anchor_centre, anchor_size = _centre_and_size(anchors)
    size, anchor_size = ops.maximum(size, 1e-6), ops.maximum(anchor_size, 1e-6)
    offsets = [(centre - anchor_centre) / anchor_size, ops.log(size / anchor_size)]
    return ops.concatenate(offsets, axis=-1) * ops.convert_to_tensor(weights, size.dtype)


def decode_boxes(deltas, anchors, weights=(1.0, 1.0, 1.0, 1.0)):
    """Boxes that offsets make of anchors: the inverse of `encode_boxes`.

    Log scales above `MAX_LOG_SCALE` are cut to it, so that no box overflows.

    Args:
        deltas: Float tensor `(..., 4)`, offsets.
        anchors: Float tensor that broadcasts with `deltas`, xyxy.
        weights: The factors the offsets were multiplied by.

    Returns:
        Float tensor `(..., 4)`, xyxy, not clipped.
    """
    deltas = ops.convert_to_tensor(deltas)
    deltas = deltas / ops.convert_to_tensor(weights, deltas.dtype)
    anchor_centre, anchor_size = _centre_and_size(anchors)
    centre = deltas[..., :2] * anchor_size + anchor_centre
    half = 0.5 * ops.exp(ops.minimum(deltas[..., 2:], MAX_LOG_SCALE)) * anchor_size
    return ops.concatenate([centre - half, centre + half], axis=-1)


def _centre_and_size(boxes):
    boxes = ops.convert_to_tensor(boxes)
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size
