"""The native kernel on layouts made to mislead a search by place, against every pair of boxes."""

import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import kvision

# Around the sizes from which boxes are sorted and searched in another way, and between them.
SIZES = (3, 63, 255, 256, 257, 700, 1023, 1025, 1500)
IOU_THRESHOLDS = (0.0, 0.01, 0.3, 0.5, 0.7, 1.0)


def _boxes(centre, side):
    return np.concatenate([centre - side / 2, centre + side / 2], axis=1)


def spread(rng, size):
    return _boxes(rng.uniform(-300, 300, (size, 2)), rng.uniform(4, 64, (size, 2)))


def one_place(rng, size):
    return _boxes(rng.uniform(0, 1, (size, 2)), rng.uniform(20, 400, (size, 2)))


def huge_range(rng, size):
    scale = 10 ** rng.uniform(-8, 18, (size, 1))
    return _boxes(rng.normal(size=(size, 2)) * scale, rng.uniform(0.5, 2, (size, 2)) * scale)


def far_outliers(rng, size):
    boxes = spread(rng, size)
    boxes[:: size // 3] *= 1e15
    return boxes


def one_giant(rng, size):
    boxes = spread(rng, size)
    boxes[size // 2] = -400, -400, 400, 400
    return boxes


def all_giant(rng, size):
    return _boxes(rng.uniform(-10, 10, (size, 2)), rng.uniform(900, 2000, (size, 2)))


def many_scales(rng, size):
    side = np.exp(rng.uniform(0, 6, (size, 1)) + rng.normal(0, 0.5, (size, 2)))
    return _boxes(rng.uniform(0, 500, (size, 2)), side)


def clusters(rng, size):
    centres = spread(rng, 20)[rng.integers(0, 20, size)]
    return centres + rng.normal(0, 2, (size, 4))


def duplicates(rng, size):
    return spread(rng, max(size // 5, 1))[rng.integers(0, max(size // 5, 1), size)]


def line(rng, size):
    centre = np.stack([rng.uniform(0, 30 * size, size), np.zeros(size)], axis=1)
    return _boxes(centre, rng.uniform(10, 60, (size, 2)))


def lattice(rng, size):
    """Small integers: IoUs at the thresholds, boxes that touch, empty ones, equal centres."""
    corner = rng.integers(-40, 40, (size, 2))
    return np.concatenate([corner, corner + rng.integers(0, 9, (size, 2))], axis=1)


def few_ulps(rng, size):
    """Sides of a few roundings of the coordinates."""
    corner = 2.0**20 + rng.integers(0, 40, (size, 2)) / 8
    return np.concatenate([corner, corner + rng.integers(1, 6, (size, 2)) / 8], axis=1)


def small_areas(rng, size):
    """Areas too small for a product with a threshold to tell."""
    return lattice(rng, size) * 2.0 ** rng.choice([-76, -74, -72, -60], (size, 1))


def subnormal_areas(rng, size):
    """Areas of one or two units of the smallest that float32 holds: IoUs are rounded to 0 or 1."""
    boxes = _boxes(rng.uniform(0, size**0.5 / 2, (size, 2)), rng.uniform(0.5, 1.5, (size, 2)))
    return boxes * 2.0**-74.5


def unordered(rng, size):
    """Corners drawn independently, some not finite."""
    boxes = rng.integers(0, 60, (size, 4)).astype("float32")
    special = rng.choice([np.nan, np.inf, -np.inf, 3e38, -3e38], boxes.shape)
    return np.where(rng.random(boxes.shape) < 0.05, special, boxes)


LAYOUTS = (
    *(spread, one_place, huge_range, far_outliers, one_giant, all_giant, many_scales, clusters),
    *(duplicates, line, lattice, few_ulps, small_areas, subnormal_areas, unordered),
)


def greedy(boxes, scores, iou_threshold):
    """The rule, with the IoUs of all pairs."""
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order]
    with np.errstate(all="ignore"):
        x1, y1, x2, y2 = boxes.T
        width = np.minimum(x2[:, None], x2) - np.maximum(x1[:, None], x1)
        height = np.minimum(y2[:, None], y2) - np.maximum(y1[:, None], y1)
        inter = np.where((width > 0) & (height > 0), width * height, np.float32(0))
        area = (x2 - x1) * (y2 - y1)
        iou = inter / (area[:, None] + area - inter)
        usable = (area > 0) & np.isfinite(area)
        overlap = (iou > np.float32(iou_threshold)) & usable & usable[:, None]
    kept = []
    for i in range(len(boxes)):
        if not overlap[i, kept].any():
            kept.append(i)
    return order[kept]


def check(nms):
    """Raises unless `nms` keeps what `greedy` keeps."""
    for layout in LAYOUTS:
        for size in SIZES:
            rng = np.random.default_rng(size)
            boxes = layout(rng, size).astype("float32")
            scores = rng.integers(0, 2 * size, size).astype("float32")
            for threshold in IOU_THRESHOLDS:
                threshold = float(np.float32(threshold))
                indices, count = nms(boxes, scores, iou_threshold=threshold)
                np.testing.assert_array_equal(
                    indices[:count],
                    greedy(boxes, scores, threshold),
                    f"{layout.__name__}, {size} boxes, IoU threshold {threshold}",
                )


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_layout_keeps_what_all_pairs_keep(isa):
    """Each instruction set runs in a process of its own, since the choice is made once."""
    native = pytest.importorskip("kvision._C")
    subprocess.run(
        [sys.executable, __file__, native.__file__],
        env={**os.environ, "KVISION_ISA": isa},
        cwd=Path(__file__).parents[2],
        check=True,
    )


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_threads_that_take_subnormals_for_zeros_decide_the_same(compiled):
    """Those of TensorFlow and XLA do, and areas would be 0."""
    size = 500
    rng = np.random.default_rng(size)
    boxes = subnormal_areas(rng, size).astype("float32")
    scores = rng.permutation(size).astype("float32")
    with kvision.ops.native.implementation("native"):
        nms = functools.partial(kvision.ops.nms, iou_threshold=0.3, max_output_size=size)
        if compiled:
            nms = _compiled(nms)
        indices = np.asarray(nms(*map(keras.ops.convert_to_tensor, (boxes, scores))))
    np.testing.assert_array_equal(indices[indices >= 0], greedy(boxes, scores, 0.3))


def _compiled(function):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import torch

    return torch.compile(function)


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("_C", sys.argv[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    check(module.nms)
