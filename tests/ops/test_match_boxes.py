"""Matching against worked examples and a plain loop."""

import numpy as np
import pytest
from keras import ops

from kvision.ops import match, match_boxes

QUALITY = np.array(
    [
        (0.9, 0.6, 0.2, 0.35, 0.1),
        (0.3, 0.55, 0.25, 0.35, 0.05),
        (0.1, 0.1, 0.29, 0.1, 0.29),
    ],
    "float32",
)


def assigned(quality, valid, **thresholds):
    """Index of the ground truth, -1 for negatives and -2 for ignored candidates."""
    matches, status = match(quality, valid, **thresholds)
    matches, status = ops.convert_to_numpy(matches), ops.convert_to_numpy(status)
    assert matches.dtype == status.dtype == np.int32
    return np.where(status == 1, matches, np.where(status == 0, -1, -2)).tolist()


@pytest.mark.parametrize(
    ("high", "low", "low_quality", "expected"),
    [
        (0.7, 0.3, True, [0, 0, 2, -2, 2]),
        (0.5, 0.4, True, [0, 0, 2, -1, 2]),
        (0.5, 0.5, False, [0, 0, -1, -1, -1]),
    ],
)
def test_match_of_a_worked_example(high, low, low_quality, expected):
    actual = assigned(
        QUALITY,
        np.ones(3, bool),
        positive_threshold=high,
        negative_threshold=low,
        allow_low_quality=low_quality,
    )
    assert actual == expected


def test_thresholds_belong_to_positive_and_to_ignored():
    quality = np.array([(0.7, 0.3, 0.29)], "float32")
    actual = assigned(quality, np.ones(1, bool), positive_threshold=0.7, negative_threshold=0.3)
    assert actual == [0, -2, -1]


def test_padding_matches_nothing():
    thresholds = {"positive_threshold": 0.5, "negative_threshold": 0.4, "allow_low_quality": True}
    valid = np.array([False, True, False])
    assert assigned(QUALITY, valid, **thresholds) == [-1, 1, -1, -1, -1]
    assert assigned(QUALITY, np.zeros(3, bool), **thresholds) == [-1] * 5


def test_ground_truth_without_overlap_makes_nothing_positive():
    quality = np.array([(0.0, 0.0, 0.0), (0.0, 0.8, 0.0)], "float32")
    actual = assigned(
        quality,
        np.ones(2, bool),
        positive_threshold=0.7,
        negative_threshold=0.3,
        allow_low_quality=True,
    )
    assert actual == [-1, 1, -1]


def random_boxes(rng, *shape):
    corner = rng.integers(0, 24, (*shape, 2))
    return np.concatenate([corner, corner + rng.integers(1, 16, (*shape, 2))], -1).astype("float32")


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = np.float32(max(width, 0) * max(height, 0))
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def looped(candidates, boxes, valid, high, low):
    """The rule, written out anchor by anchor."""
    overlaps = {
        m: [iou(boxes[m], candidate) for candidate in candidates]
        for m in range(len(boxes))
        if valid[m]
    }
    result = []
    for n in range(len(candidates)):
        best = max(overlaps, key=lambda m: overlaps[m][n], default=None)
        if best is None or overlaps[best][n] < low:
            result.append(-1)
        elif overlaps[best][n] >= high:
            result.append(best)
        else:
            result.append(-2)
        if any(row[n] > 0 and row[n] == max(row) for row in overlaps.values()):
            result[-1] = best
    return result


@pytest.mark.parametrize("shared", [True, False])
def test_match_boxes_equals_a_loop(implementation, shared):
    rng = np.random.default_rng(1)
    boxes, valid = random_boxes(rng, 3, 5), rng.random((3, 5)) < 0.7
    valid[2] = False
    candidates = random_boxes(rng, 80) if shared else random_boxes(rng, 3, 80)
    matches, status = match_boxes(
        candidates,
        boxes,
        valid,
        positive_threshold=0.6,
        negative_threshold=0.3,
        allow_low_quality=True,
    )
    matches, status = ops.convert_to_numpy(matches), ops.convert_to_numpy(status)
    actual = np.where(status == 1, matches, np.where(status == 0, -1, -2))
    for b in range(3):
        own = candidates if shared else candidates[b]
        assert actual[b].tolist() == looped(own, boxes[b], valid[b], 0.6, 0.3)


def test_negatives_in_crowd_are_ignored_and_positives_are_not(implementation):
    boxes = np.array([[(0, 0, 20, 20), (10, 0, 50, 20), (0, 0, 9, 9)]], "float32")
    valid = np.array([[True, False, False]])
    crowd = np.array([[False, True, False]])
    candidates = np.array(
        [
            (0, 0, 20, 20),  # the object itself
            (20, 0, 30, 20),  # inside the crowd
            (6, 0, 18, 20),  # 8 / 12 of it inside, and half an object: negative
            (6, 0, 24, 20),  # 14 / 18 of it inside
            (40, 40, 50, 50),  # elsewhere
            (0, 0, 9, 9),  # inside a box that is padding
        ],
        "float32",
    )
    _, status = match_boxes(
        candidates, boxes, valid, crowd, positive_threshold=0.7, negative_threshold=0.7
    )
    assert ops.convert_to_numpy(status).tolist() == [[1, -1, 0, -1, 0, 0]]
