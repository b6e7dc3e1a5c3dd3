import functools

import numpy as np
import pytest

from kvision.ops import matrix_nms
from kvision.ops.matrix_nms import MatrixNMSOperation
from kvision.testing import OpTests
from tests.ops import score_decay_cases
from tests.ops.score_decay_cases import (
    BOXES,
    INF,
    SCORES,
    cases,
    contract,
    ious,
    worked,
)

run = functools.partial(score_decay_cases.run, matrix_nms)


class TestMatrixNMS(OpTests):
    contract = contract(
        matrix_nms,
        arguments={"sigma": 2.0, "score_threshold": 0.0},
        cases={
            "linear": worked(
                "linear", [4, 0, 2, 1, 5, 3], [0.95, 0.9, 0.35, 0.255462, 0.25, 0.191597]
            ),
            "gaussian": worked(
                "gaussian", [4, 0, 2, 1, 5, 3], [0.95, 0.9, 0.424571, 0.316709, 0.303265, 0.237531]
            ),
        },
    )


def published(boxes, scores, labels, method, sigma):
    """Decayed scores by index: the paper's matrices in float64, x / 0 and 0 / 0 left out."""
    order = np.argsort(-scores, kind="stable")
    overlaps = np.triu(ious(boxes, labels).astype("float64")[np.ix_(order, order)], 1)
    greatest = np.max(overlaps, axis=0, initial=0.0)[:, None]
    with np.errstate(all="ignore"):
        if method == "linear":
            quotients = (1 - overlaps) / (1 - greatest)
        else:
            quotients = np.exp(-sigma * overlaps**2) / np.exp(-sigma * greatest**2)
    before = np.triu(np.ones(overlaps.shape, bool), 1) & np.isfinite(quotients)
    decay = np.min(np.where(before, quotients, 1.0), axis=0, initial=1.0)
    decayed = np.empty(len(scores))
    decayed[order] = scores[order] * decay
    return decayed


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_it_is_the_published_matrix_form(implementation, method):
    for boxes, scores, labels, rng in cases(method):
        sigma = float(rng.choice([0.5, 2.0, 8.0]))
        expected = published(boxes, scores, labels, method, sigma)
        indices, decayed = run(boxes, scores, labels=labels, method=method, sigma=sigma)
        assert sorted(indices) == np.nonzero(expected)[0].tolist()
        np.testing.assert_allclose(decayed, expected[indices], rtol=2e-5)
        order = sorted(zip(decayed, indices, strict=True), key=lambda pair: (-pair[0], pair[1]))
        assert indices == [index for _, index in order]


def test_more_boxes_than_a_tile(implementation):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 100, (600, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 20, (600, 2))], 1).astype("float32")
    scores = (rng.permutation(600) / 600).astype("float32")
    expected = published(boxes, scores, None, "gaussian", 2.0)
    indices, decayed = run(boxes, scores)
    assert len(indices) == 599
    np.testing.assert_allclose(decayed, expected[indices], rtol=2e-5)


def test_a_box_that_repeats_a_better_one_decays_no_other(implementation):
    # Boxes 0 and 1 are the same, box 2 meets them by half: 1 gets 0, 2 what 0 gives it, not 0 / 0.
    boxes = [(0, 0, 2, 1), (0, 0, 2, 1), (0, 0, 1, 1), (0, 0, 2, 1)]
    scores = [1, 0.9, 0.8, 0.7]
    found = run(boxes, scores, method="linear", score_threshold=None)
    assert found[0] == [0, 2, 1, 3]
    np.testing.assert_allclose(found[1], [1, 0.4, 0, 0], rtol=1e-6)
    assert run(boxes, scores, method="linear")[0] == [0, 2]
    # The Gaussian has no such quotient, nor an exp that underflows: the boxes that repeat box 0
    # get exp(-2), and box 2 exp(-1 / 2) by box 0, the least.
    found = run(boxes, scores)
    np.testing.assert_allclose(found[1], [1, 0.8 * 0.606531, 0.9 * 0.135335, 0.7 * 0.135335], 1e-5)
    assert run(boxes, scores, sigma=1e4, score_threshold=None)[1] == [1, 0, 0, 0]


def test_equal_scores_are_ordered_by_index(implementation):
    apart = np.arange(300, dtype="float32")[:, None] * 20 + np.array([0, 0, 10, 10], "float32")
    assert run(apart, np.full(300, 0.5))[0] == list(range(300))
    # Of equal scores the first is the better box; after decay the lower index comes first again.
    boxes = [(0, 0, 1, 1), (0, 0, 2, 1), (50, 0, 60, 10)]
    found = run(boxes, [0.5, 1, 0.25], method="linear")
    assert found == ([1, 0, 2], [1, 0.25, 0.25])
    assert run(BOXES[[0, 0]], [0.5, 0.5], method="linear")[0] == [0]
    assert run(BOXES[[0, 0]], [-0.0, 0.0], score_threshold=None)[0] == [0, 1]


def test_infinite_scores(implementation):
    assert run(BOXES[[0, 0, 3]], [INF, INF, 1])[1] == [INF, INF, 1]
    # inf * 0 is NaN.
    assert run(BOXES[[0, 0, 3]], [INF, INF, 1], method="linear") == ([0, 2], [INF, 1])


def test_scores_that_are_not_positive_stay(implementation):
    found = run(BOXES[[0, 0, 0, 0]], [-2, 0, -0.5, 4], score_threshold=None)
    assert found == ([3, 1, 2, 0], [4, 0, -0.5, -2])


def test_max_output_size_cuts_and_pads(implementation):
    assert run(BOXES[3:], SCORES[3:], max_output_size=2)[0] == [1, 2]
    found = run(BOXES[3:], SCORES[3:], score_threshold=0.25, max_output_size=4)
    assert (found[0], found[1][2:]) == ([1, 2, -1, -1], [0, 0])
    assert run(BOXES[:0], SCORES[:0], max_output_size=2) == ([-1, -1], [0, 0])
    assert run(BOXES[:0], SCORES[:0]) == ([], [])


def test_operation_keeps_its_arguments():
    config = {
        "method": "linear",
        "sigma": 0.25,
        "score_threshold": None,
        "max_output_size": 7,
        "name": "n",
    }
    operation = MatrixNMSOperation(**config)
    assert MatrixNMSOperation.from_config(operation.get_config()).get_config() == config
