"""The rules that `soft_nms` and `matrix_nms` have in common."""

import functools

import keras
import numpy as np
import pytest

from kvision.ops import matrix_nms, soft_nms
from tests.ops import score_decay_cases
from tests.ops.score_decay_cases import BOXES, INF, NAN, SCORES

BACKEND = keras.backend.backend()
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


@pytest.fixture(params=[soft_nms, matrix_nms], ids=lambda function: function.__name__)
def function(request):
    return request.param


@pytest.fixture
def run(function, implementation):
    return functools.partial(score_decay_cases.run, function)


def test_nan_and_minus_infinity_are_never_returned(run):
    scores = [NAN, 0.8, -INF, INF, 0.1, NAN]
    assert run(BOXES[[0, 0, 0, 3, 0, 0]], scores, score_threshold=None)[0] == [3, 1, 4]
    assert run(BOXES, [NAN] * 6) == ([], [])


def test_score_threshold_is_strict(run):
    scores = [0.6, 0.7, 0.6, 0.8, 0.1, 0.6]
    apart = BOXES + np.arange(6, dtype="float32")[:, None] * 100
    assert run(apart, scores, score_threshold=0.6)[0] == [3, 1]
    boxes = [(0, 0, 2, 1), (0, 0, 1, 1)]
    assert run(boxes, [1, 0.5], method="linear", score_threshold=0.25)[0] == [0]
    assert run(boxes, [1, 0.5], method="linear", score_threshold=0.2499)[0] == [0, 1]


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["", "reversed"])
def test_boxes_without_an_area_decay_nothing(function, run, method, order):
    scores = np.linspace(1, 0.1, len(WITHOUT_AREA), dtype="float32")
    every_overlap = {"iou_threshold": 0.0} if function is soft_nms else {}
    indices, decayed = run(WITHOUT_AREA[order], scores, method=method, **every_overlap)
    assert indices == list(range(len(WITHOUT_AREA)))
    assert decayed == scores.tolist()


def test_labels_do_not_see_each_other(run):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 40, (200, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 20, (200, 2))], 1).astype("float32")
    scores = (rng.permutation(200) / 200).astype("float32")
    labels = rng.choice([-(2**31), -1, 0, 7, 2**31 - 1], 200).astype("int32")
    expected = {}
    for label in np.unique(labels):
        (own,) = np.nonzero(labels == label)
        indices, decayed = run(boxes[own], scores[own])
        expected |= dict(zip(own[indices].tolist(), decayed, strict=True))
    indices, decayed = run(boxes, scores, labels=labels)
    assert set(indices) == set(expected)
    np.testing.assert_allclose(decayed, [expected[i] for i in indices], rtol=1e-6)
    assert decayed == sorted(decayed, reverse=True)


@pytest.mark.skipif(BACKEND not in ("tensorflow", "jax"), reason="XLA is theirs")
def test_a_compiler_requires_max_output_size(function):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(function, jit_compile=True, autograph=False)
    else:
        compiled = pytest.importorskip("jax").jit(function)
    required = f"{function.__name__}: `max_output_size` is required"
    with pytest.raises(ValueError, match=required):
        compiled(BOXES, SCORES)
    with pytest.raises(ValueError, match=required):
        function(keras.KerasTensor((2, 4)), keras.KerasTensor((2,)))
