"""Matching against worked examples and a plain loop."""

import numpy as np
import pytest
from keras import ops

from kvision.ops import match, match_boxes
from kvision.testing import (
    Input,
    Invalid,
    KernelCall,
    OpContract,
    OpTests,
    Output,
    RawOp,
    Variant,
    draws,
)

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


BOXES = Input("batch num_boxes 4", draws.boxes(), "float32")
VALID = Input("batch num_boxes", draws.booleans(0.8), "bool")
CROWD = Input("batch num_boxes", draws.booleans(0.2), "bool")
CANDIDATES = Input("batch num_candidates 4", draws.boxes(), "float32")
OUTPUTS = {
    "matches": Output("batch num_candidates", "int32"),
    "status": Output("batch num_candidates", "int32"),
}
THRESHOLDS = {"positive_threshold": 0.5, "negative_threshold": 0.3}


def kernels(inputs, arguments, output_gradients):
    crowd = inputs.get("crowd", np.zeros_like(inputs["valid"]))
    candidates = inputs["candidates"].reshape(-1, inputs["candidates"].shape[-2], 4)
    given = {**inputs, **arguments, "crowd": crowd, "candidates": candidates}
    return [KernelCall("match_boxes", given, {0: "matches", 1: "status"})]


class TestMatchBoxes(OpTests):
    contract = OpContract(
        name="match_boxes",
        function=match_boxes,
        inputs={
            "candidates": Input("batch num_candidates 4", draws.boxes()),
            "boxes": Input("batch num_boxes 4", draws.boxes()),
            "valid": VALID,
            "crowd": CROWD,
        },
        outputs=OUTPUTS,
        computes_in="float32",
        arguments={**THRESHOLDS, "allow_low_quality": True},
        sizes={"batch": 2, "num_candidates": 9, "num_boxes": 4},
        variants={
            "candidates of each image": Variant(),
            "shared candidates": Variant(axes={"candidates": "num_candidates 4"}),
            "no crowd": Variant({"allow_low_quality": False}, without=("crowd",)),
        },
        invalid=(
            Invalid({"positive_threshold": 0.1}, "`positive_threshold` must be at least"),
            Invalid({"positive_threshold": np.nan}, "`positive_threshold` must be at least"),
            Invalid({"candidates": np.ones((9, 5), "float32")}, "`candidates` must have shape"),
            Invalid({"candidates": np.ones((3, 9, 4), "float32")}, "the same batch size"),
            Invalid(
                {"candidates": np.ones((2, 9, 4), int)}, "`candidates` must be floating", TypeError
            ),
            Invalid({"boxes": np.ones((4, 4), "float32")}, "`boxes` must have shape"),
            Invalid({"valid": np.ones((2, 3), bool)}, "`valid` must have shape"),
            Invalid({"crowd": np.ones(4, bool)}, "`crowd` must have shape"),
        ),
        raw=(
            RawOp(
                name="match_boxes",
                op="kvision_match_boxes",
                inputs={"boxes": BOXES, "valid": VALID, "crowd": CROWD, "candidates": CANDIDATES},
                outputs=OUTPUTS,
                arguments=THRESHOLDS,
                dtypes=("float32",),
                variants={
                    "candidates of each image": Variant(),
                    "shared candidates": Variant(axes={"candidates": "1 num_candidates 4"}),
                },
                invalid=(
                    Invalid({"boxes": np.ones((3, 3, 3), "float32")}, "`boxes` must have shape"),
                    Invalid({"valid": np.ones((3, 2), bool)}, "`valid` .* where num_boxes is 3"),
                    Invalid({"crowd": np.ones(3, bool)}, "`crowd` must have shape"),
                    Invalid(
                        {"candidates": np.ones((2, 3, 4), "float32")},
                        r"`candidates` must have shape \(batch or 1, num_candidates, 4\)",
                    ),
                    Invalid(
                        {"positive_threshold": 0.1},
                        "`positive_threshold` must be at least",
                        static=False,
                    ),
                ),
                fuzzed_arguments={
                    "positive_threshold": (0.7, 0.0, np.inf, np.nan),
                    "negative_threshold": (0.3, 0.7, -1.0, -np.inf, np.nan),
                    "allow_low_quality": (True, False),
                    "crowd_overlap": (0.7, 0.0, -1.0, np.nan),
                },
            ),
        ),
        kernels=kernels,
        kernel_sizes={"num_candidates": 3000, "num_boxes": 40},
        fuzzed_arguments={
            "positive_threshold": (0.7, 0.0, np.inf, np.nan),
            "negative_threshold": (0.3, 0.7, -1.0),
            "allow_low_quality": (True, False),
            "crowd_overlap": (0.7, 0.0, -1.0),
        },
    )


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
