"""Anchor boxes of a feature pyramid, as constants.

Source: Ren, He, Girshick, Sun, "Faster R-CNN", 2015; one size a level, Lin et al., "Feature
Pyramid Networks", 2017. The rounding, the order and the centres are torchvision's, so that its
weights keep their meaning.
"""

import functools

import numpy as np


def cell_anchors(sizes, aspect_ratios):
    """Anchors of one position, centred on the origin.

    An anchor of size `s` and ratio `r` (height over width) has width `s / sqrt(r)` and height
    `s * sqrt(r)`; half sides are rounded to whole pixels, half to even.

    Args:
        sizes: Sequence of square roots of areas, in pixels.
        aspect_ratios: Sequence of heights over widths.

    Returns:
        Float32 array `(len(aspect_ratios) * len(sizes), 4)`, xyxy pixels, ratio-major.
    """
    heights = np.sqrt(np.asarray(aspect_ratios, np.float32))
    widths = np.float32(1.0) / heights
    half = np.stack([np.outer(side, np.asarray(sizes, np.float32)) for side in (widths, heights)])
    half = half.reshape(2, -1).T / np.float32(2.0)
    return np.round(np.concatenate([-half, half], axis=1)) + np.float32(0.0)


def grid_anchors(feature_size, stride, cell):
    """Anchors of every position of one feature map.

    Args:
        feature_size: `(height, width)` of the map.
        stride: `(vertical, horizontal)` pixels between positions. The centre of position
            `(i, j)` is `(j * horizontal, i * vertical)`, without half a pixel.
        cell: Array `(A, 4)` of `cell_anchors`.

    Returns:
        Float32 array `(height * width * A, 4)`, xyxy pixels, in the order (y, x, anchor).
    """
    y, x = (
        np.arange(n, dtype=np.float32) * np.float32(s)
        for n, s in zip(feature_size, stride, strict=True)
    )
    x, y = np.meshgrid(x, y)
    centres = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
    return (centres + cell).reshape(-1, 4)


@functools.lru_cache(maxsize=32)
def pyramid_anchors(image_size, feature_sizes, anchor_sizes, aspect_ratios):
    """Anchors of every level of a pyramid.

    The stride of a level is the image's side divided by the map's, rounded down.

    Args:
        image_size: Tuple `(height, width)` of the image in pixels.
        feature_sizes: Tuple of the `(height, width)` of each map, finest first.
        anchor_sizes: Tuple with a tuple of sizes in pixels for each level.
        aspect_ratios: Tuple of heights over widths, the same at all levels.

    Returns:
        Tuple of one read-only float32 array `(height * width * A, 4)` a level.
    """
    levels = []
    for feature_size, sizes in zip(feature_sizes, anchor_sizes, strict=True):
        stride = tuple(side // cells for side, cells in zip(image_size, feature_size, strict=True))
        anchors = grid_anchors(feature_size, stride, cell_anchors(sizes, aspect_ratios))
        anchors.flags.writeable = False
        levels.append(anchors)
    return tuple(levels)
