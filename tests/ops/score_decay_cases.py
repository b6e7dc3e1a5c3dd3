"""Boxes for the tests of `soft_nms` and `matrix_nms`, and their IoUs written out."""

import numpy as np

from tests.golden import nms_cases

# The worked example of both ops.
BOXES = np.array(
    [
        (0, 0, 10, 10),
        (1, 1, 11, 11),
        (0, 0, 10, 5),
        (20, 20, 30, 30),
        (21, 21, 31, 31),
        (0, 0, 5, 10),
    ],
    "float32",
)
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.95, 0.5], "float32")

NAN, INF = np.nan, np.inf
WITHOUT_AREA = np.array(
    [
        (5, 5, 5, 5),
        (5, 5, 5, 5),
        (10, 0, 0, 10),
        (10, 10, 0, 0),
        (10, 10, 0, 0),
        (NAN, 0, 10, 10),
        (0, 0, 10, NAN),
        (-INF, -INF, INF, INF),
        (-INF, -INF, INF, INF),
        (0, 0, 1e30, 1e30),
        (0, 0, 1e30, 1e30),
        (0, 0, 10, 10),
    ],
    "float32",
)


def ious(boxes, labels=None):
    """(N, N) float32, 0 without an area and between labels."""
    zero = np.float32(0)
    found = np.zeros((len(boxes), len(boxes)), "float32")
    with np.errstate(all="ignore"):
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        for i, j in np.ndindex(found.shape):
            width = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            height = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            positive = 0 < areas[i] < INF and 0 < areas[j] < INF and width > 0 and height > 0
            same = labels is None or labels[i] == labels[j]
            inter = width * height if positive and same else zero
            found[i, j] = inter / (areas[i] + areas[j] - inter) if inter > 0 else zero
    return found


def cases(method):
    """Yields boxes, scores, labels or None, and a generator for arguments.

    On grids, equal scores can decay to what only the rounding of `exp` tells apart, so that the
    Gaussian gets boxes of any coordinates and distinct scores.
    """
    seeds = range(2, 240, 4) if method == "gaussian" else range(60)
    for seed in seeds:
        boxes, scores, _ = nms_cases.nms_case(seed)
        rng = np.random.default_rng(seed)
        labels = rng.integers(-1, 2, len(boxes)).astype("int32") if seed % 3 == 0 else None
        yield boxes, scores, labels, rng
