import functools

import keras
import numpy as np
import pytest

from kvision.ops import soft_nms
from kvision.ops.soft_nms import SoftNMSOperation
from kvision.ops.suppression import float32_threshold
from kvision.testing import Invalid, OpTests
from tests.ops import score_decay_cases
from tests.ops.score_decay_cases import (
    BOXES,
    INF,
    NAN,
    SCORES,
    cases,
    contract,
    ious,
    worked,
)

needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="runs on TensorFlow only"
)
run = functools.partial(score_decay_cases.run, soft_nms)


class TestSoftNMS(OpTests):
    contract = contract(
        soft_nms,
        arguments={
            "sigma": 0.5,
            "iou_threshold": float32_threshold(0.3),
            "score_threshold": 0.001,
        },
        cases={
            "linear": worked(
                "linear", [4, 0, 2, 3, 1, 5], [0.95, 0.9, 0.35, 0.191597, 0.17479, 0.114035]
            ),
            "gaussian": worked(
                "gaussian", [4, 0, 2, 1, 3, 5], [0.95, 0.9, 0.424571, 0.259443, 0.237531, 0.198927]
            ),
        },
        invalid=(
            Invalid({"iou_threshold": -0.1}, r"`iou_threshold` must be in \[0, 1\]"),
            Invalid({"iou_threshold": NAN}, r"`iou_threshold` must be in \[0, 1\]"),
        ),
        fuzzed_arguments={"iou_threshold": (0.0, 0.25, 0.3, 1.0, 1.5, NAN)},
    )


def select(boxes, scores, labels, factor, score_threshold):
    """The definition, one pair at a time; `factor` of a float32 IoU."""
    overlaps = ious(boxes, labels)
    left = {i: score for i, score in enumerate(scores) if score > score_threshold}
    indices, selected = [], []
    while left:
        best = max(left, key=lambda i: (left[i], -i))
        indices.append(best)
        selected.append(float(left.pop(best)))
        left = {i: score * factor(overlaps[best, i]) for i, score in left.items()}
        left = {i: score for i, score in left.items() if score > score_threshold}
    return indices, selected


def test_twice_the_sigma_of_tensorflow(implementation):
    scores = run(BOXES, SCORES, sigma=1.0)[1]
    expected = [0.95, 0.9, 0.545161, 0.455581, 0.377517, 0.315379]
    np.testing.assert_allclose(scores, expected, rtol=2e-6)


def test_linear_is_its_definition(implementation):
    for boxes, scores, labels, rng in cases("linear"):
        iou_threshold = float(rng.choice([0.0, 0.25, 0.5]))  # exact in float32
        score_threshold = float(rng.choice([0.0, 0.125, 0.5]))
        one = np.float32(1)
        expected = select(
            boxes,
            scores,
            labels,
            lambda iou: one - iou if iou > iou_threshold else one,  # noqa: B023
            score_threshold,
        )
        arguments = {"iou_threshold": iou_threshold, "score_threshold": score_threshold}
        assert run(boxes, scores, labels=labels, method="linear", **arguments) == expected


def test_gaussian_is_its_definition(implementation):
    for boxes, scores, labels, rng in cases("gaussian"):
        sigma = float(rng.choice([0.125, 0.5, 2.0]))
        expected = select(
            boxes,
            scores,
            labels,
            lambda iou: np.exp(-(iou**2) / np.float32(sigma)),  # noqa: B023
            0.0625,
        )
        found = run(boxes, scores, labels=labels, sigma=sigma, score_threshold=0.0625)
        assert found[0] == expected[0]
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)


@needs_tensorflow
@pytest.mark.parametrize("sigma", [0.2, 0.5, 1.5])
def test_gaussian_selects_as_tensorflow_does(implementation, sigma):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, 100, (400, 2)), rng.uniform(4, 40, (400, 2))
    boxes = np.concatenate([corner, corner + side], 1).astype("float32")
    scores = rng.permutation(400).astype("float32") / 400
    expected = tf.image.non_max_suppression_with_scores(
        boxes, scores, 400, iou_threshold=1.0, score_threshold=0.05, soft_nms_sigma=sigma / 2
    )
    indices, decayed = run(boxes, scores, sigma=sigma, score_threshold=0.05)
    assert 100 < len(indices) < 400
    assert indices == expected[0].numpy().tolist()
    np.testing.assert_allclose(decayed, expected[1].numpy(), rtol=1e-5)


def test_an_iou_at_the_threshold_does_not_decay(implementation):
    boxes = [(0, 0, 2, 1), (0, 0, 1, 1)]
    assert run(boxes, [1, 0.5], method="linear", iou_threshold=0.5)[1] == [1, 0.5]
    assert run(boxes, [1, 0.5], method="linear", iou_threshold=0.49)[1] == [1, 0.25]
    # float32(3 / 10) > 0.3, as in nms.
    boxes = np.array([(0, 0, 10, 1), (0, 0, 3, 1)], "float32")
    assert run(boxes, [1, 0.5], method="linear")[1][1] < 0.4


def test_equal_current_scores_select_the_lower_index(implementation):
    apart = np.arange(300, dtype="float32")[:, None] * 20 + np.array([0, 0, 10, 10], "float32")
    assert run(apart, np.full(300, 0.5))[0] == list(range(300))
    # Box 3 falls to .25 by box 1, and then precedes box 4.
    boxes = [(50, 0, 60, 10), (0, 0, 2, 1), (80, 0, 90, 10), (0, 0, 1, 1), (99, 0, 109, 10)]
    found = run(boxes, [0.25, 1, -0.0, 0.5, 0.25], method="linear", score_threshold=None)
    assert found == ([1, 0, 3, 4, 2], [1, 0.25, 0.25, 0.25, 0])


def test_infinite_scores(implementation):
    repeated = BOXES[[0, 0, 1]]
    assert run(repeated, [INF, INF, 1], sigma=0.5)[1][:2] == [INF, INF]
    # inf * 0 is NaN: no candidate any more. 1 * 0 is one without a score threshold.
    found = run(repeated, [INF, INF, 1], method="linear", iou_threshold=0.9)
    assert found == ([0, 2], [INF, 1])
    found = run(BOXES[[0, 0]], [1, 1], method="linear", score_threshold=None)
    assert found == ([0, 1], [1, 0])


def test_scores_that_are_not_positive_stay(implementation):
    found = run(BOXES[[0, 0, 0, 0]], [-2, -1, -0.5, 4], score_threshold=None, sigma=1e30)
    assert found == ([3, 2, 1, 0], [4, -0.5, -1, -2])
    assert run(BOXES[[0, 0, 0]], [-2, -1, -3], score_threshold=-2.5)[0] == [1, 0]


def test_max_output_size_cuts_and_pads(implementation):
    found = run(BOXES[3:], SCORES[3:], method="linear", max_output_size=2)
    assert found[0] == [1, 2]
    found = run(BOXES[3:], SCORES[3:], score_threshold=0.25, max_output_size=4)
    assert (found[0], found[1][2:]) == ([1, 2, -1, -1], [0, 0])
    assert run(BOXES[:0], SCORES[:0], max_output_size=2) == ([-1, -1], [0, 0])
    assert run(BOXES[:0], SCORES[:0]) == ([], [])


def test_operation_keeps_its_arguments():
    config = {
        "method": "linear",
        "sigma": 0.25,
        "iou_threshold": 0.4,
        "score_threshold": None,
        "max_output_size": 7,
        "name": "n",
    }
    assert SoftNMSOperation.from_config(SoftNMSOperation(**config).get_config()).get_config() == (
        config
    )
