"""The distance transform against SciPy, OpenCV, the package edt and TensorFlow Addons.

No instance fills its image: how far it then is to a pixel outside is a convention.
"""

import numpy as np

from kvision import ops
from tests.conformance.comparison import Row


def draw_instances(rng):
    """Two label maps: noise, or patches of one size, of few ids."""
    height, width = rng.integers(2, [40, 140])
    high, wide = rng.choice([1, 2, 5, 30], 2)
    ids = rng.integers(0, rng.integers(2, 6), (2, -(-height // high), -(-width // wide)))
    instances = ids.repeat(high, 1).repeat(wide, 2)[:, :height, :width].astype("int32")
    instances[:, rng.integers(height), rng.integers(width)] = 0
    return {"instances": instances, "border_is_outside": bool(rng.integers(2))}


def draw_masks(rng):
    """What TensorFlow Addons takes: bytes, and nothing beyond the border."""
    return {"instances": (draw_instances(rng)["instances"] > 0).astype("uint8")}


def distances(call):
    border_is_outside = call.get("border_is_outside", False)
    return ops.distance_transform(call["instances"], image_border_is_outside=border_is_outside)


def definition(call):
    """The distances to all pixels outside, of which the least is taken."""
    mode = "constant" if call.get("border_is_outside", False) else "edge"
    framed = np.pad(call["instances"].astype(int), [(0, 0), (1, 1), (1, 1)], mode=mode)
    points = np.stack(np.mgrid[: framed.shape[1], : framed.shape[2]], axis=-1).reshape(-1, 2)
    result = np.zeros((len(framed), len(points)))
    for ids, distance in zip(framed.reshape(len(framed), -1), result, strict=True):
        for instance in np.unique(ids[ids > 0]):
            inside, outside = points[ids == instance], points[ids != instance]
            for start in range(0, len(inside), 256):
                squares = ((inside[start : start + 256, None] - outside) ** 2).sum(axis=-1)
                distance[np.flatnonzero(ids == instance)[start : start + 256]] = squares.min(axis=1)
    return np.sqrt(result).reshape(framed.shape)[:, 1:-1, 1:-1]


def images_of(call):
    return len(call["instances"])


def row(peer, function, draw=draw_instances):
    return Row(peer, function, "distance_transform", draw, distances, definition,
               lambda call, answer: 1e-6, "1e-6", cost=20, size=images_of)  # fmt: skip


ROWS = (
    row("imaging", "scipy.ndimage.distance_transform_edt"),
    row("imaging", "cv2.distanceTransform, precise"),
    row("imaging", "edt.edt"),
    row("addons", "tfa.image.euclidean_dist_transform", draw_masks),
)
