"""Where Keras' geometric layers put a box, computed from the transformation that they sampled.

Keras 3.15's own box transforms are not used: `RandomCrop` swaps the axes, others clip in another
unit than the boxes', and all of them move padding. Here every layer is one affine map from the
pixels of its output to those of its input, and one piece of arithmetic moves the boxes.
"""

import keras

from kvision.data.scaled_crop import RandomScaledCrop

_CROPS = (keras.layers.CenterCrop, keras.layers.RandomCrop)


def _flip(layer, sampled, size):
    height, width = size
    flip = layer.backend.cast(sampled["flips"][:, 0, 0], "float32")
    across = flip if "horizontal" in layer.mode else 0.0
    down = flip if "vertical" in layer.mode else 0.0
    return 1 - 2 * across, 0.0, across * (width - 1), 0.0, 1 - 2 * down, down * (height - 1)


def _translation(layer, sampled, size):
    shift = sampled["translations"]
    return 1.0, 0.0, -shift[:, :1], 0.0, 1.0, -shift[:, 1:]


def _zoom(layer, sampled, size):
    height, width = size
    across, down = sampled["width_zoom"], sampled["height_zoom"]
    return (
        across,
        0.0,
        (1 - across) * (width - 1) / 2,
        0.0,
        down,
        (1 - down) * (height - 1) / 2,
    )


def _rotation(layer, sampled, size):
    matrix = sampled["rotation_matrix"]
    return tuple(matrix[:, i : i + 1] for i in range(6))


def _scaled_crop(layer, sampled, size):
    return tuple(sampled[:, i : i + 1] for i in range(6))


def _random_crop(layer, sampled, size):
    top, left = (layer.backend.cast(start, "float32") for start in sampled)
    return 1.0, 0.0, left, 0.0, 1.0, top


def _center_crop(layer, sampled, size):
    return 1.0, 0.0, (size[1] - layer.width) // 2, 0.0, 1.0, (size[0] - layer.height) // 2


_MAPS = {
    RandomScaledCrop: _scaled_crop,  # before the layer that it derives from
    keras.layers.CenterCrop: _center_crop,
    keras.layers.RandomCrop: _random_crop,
    keras.layers.RandomFlip: _flip,
    keras.layers.RandomRotation: _rotation,
    keras.layers.RandomTranslation: _translation,
    keras.layers.RandomZoom: _zoom,
}

GEOMETRIC_LAYERS = tuple(_MAPS)
"""Layers that move pixels and whose maps are known here."""


def output_size(layer, size):
    """Size of the images that a geometric layer gives.

    Args:
        layer: one of `GEOMETRIC_LAYERS`.
        size: ``(height, width)`` of the images it takes.

    Returns:
        ``(height, width)``.

    Raises:
        ValueError: a crop that is not smaller than the images (Keras would enlarge them).
    """
    if not isinstance(layer, _CROPS):
        return size
    if isinstance(layer, RandomScaledCrop):
        return layer.height, layer.width
    exact = isinstance(layer, keras.layers.CenterCrop)
    if any(
        have < want or (have == want and not exact)
        for have, want in zip(size, (layer.height, layer.width), strict=True)
    ):
        raise ValueError(
            f"augment: {type(layer).__name__} of {layer.height} x {layer.width} must be smaller "
            f"than the images, which are {size[0]} x {size[1]} (height x width)."
        )
    return layer.height, layer.width


def transform_boxes(layer, sampled, boxes, size):
    """Move boxes as a geometric layer moves the pixels.

    Args:
        layer: one of `GEOMETRIC_LAYERS`; its ``backend`` computes.
        sampled: what its ``get_random_transformation`` gave.
        boxes: float32 ``(B, M, 4)``, xyxy in pixels of the images it takes.
        size: ``(height, width)`` of those images.

    Returns:
        ``(B, M, 4)``: the upright boxes around the moved corners, xyxy in pixels of the images it
        gives, not clipped.
    """
    xp = layer.backend.numpy
    move = next(move for kind, move in _MAPS.items() if isinstance(layer, kind))
    # Keras' maps are from output to input and count pixel centres as integers.
    a0, a1, a2, b0, b1, b2 = move(layer, sampled, size)
    determinant = a0 * b1 - a1 * b0
    x1, y1, x2, y2 = (boxes[..., i] - 0.5 for i in range(4))
    corners = [(x - a2, y - b2) for x in (x1, x2) for y in (y1, y2)]
    x = xp.stack([(b1 * x - a1 * y) / determinant for x, y in corners], -1) + 0.5
    y = xp.stack([(a0 * y - b0 * x) / determinant for x, y in corners], -1) + 0.5
    edges = [xp.min(x, -1), xp.min(y, -1), xp.max(x, -1), xp.max(y, -1)]
    return xp.stack(edges, -1)


def boxes_around_ids(ids, num_objects, backend):
    """Find the boxes around the objects of label maps.

    Args:
        ids: int32 ``(B, H, W)`` of 0..M.
        num_objects: int M.
        backend: Keras' backend that computes.

    Returns:
        float32 ``(B, M, 4)``, xyxy in pixels, 0 where an id has no pixels; and bool ``(B, M)``,
        whether it has any.
    """
    xp = backend.numpy
    batch_size, height, width = backend.shape(ids)
    y = xp.arange(height, dtype="int32")[:, None]
    x = xp.arange(width, dtype="int32")[None]
    # Counted from all four edges, each side is a maximum.
    reach = [width - x + 0 * y, height - y + 0 * x, x + 1 + 0 * y, y + 1 + 0 * x]
    reach = xp.broadcast_to(xp.stack(reach, -1)[None], (batch_size, height, width, 4))
    first = (num_objects + 1) * xp.arange(batch_size, dtype="int32")[:, None, None]
    most = backend.math.segment_max(
        xp.reshape(reach, (-1, 4)), xp.reshape(ids + first, (-1,)), batch_size * (num_objects + 1)
    )
    most = xp.reshape(xp.maximum(most, 0), (batch_size, num_objects + 1, 4))[:, 1:]
    left, top, right, bottom = (most[..., i] for i in range(4))
    has_pixels = right > 0
    boxes = xp.stack([width - left, height - top, right, bottom], -1)
    return backend.cast(xp.where(has_pixels[..., None], boxes, 0), "float32"), has_pixels
