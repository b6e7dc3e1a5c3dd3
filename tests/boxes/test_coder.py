"""Box offsets against worked values."""

import numpy as np
import pytest
from keras import ops

from kvision.boxes import decode_boxes, encode_boxes

ANCHOR = np.array([(10, 10, 50, 50)], "float32")
BOX = np.array([(15, 12, 60, 40)], "float32")


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((1, 1, 1, 1), (0.1875, -0.1, 0.117783, -0.356675)),
        ((10, 10, 5, 5), (1.875, -1.0, 0.588915, -1.783375)),
    ],
)
def test_encode_of_a_worked_example(weights, expected):
    actual = ops.convert_to_numpy(encode_boxes(BOX, ANCHOR, weights))
    np.testing.assert_allclose(actual, [expected], atol=5e-7)
    decoded = ops.convert_to_numpy(decode_boxes(actual, ANCHOR, weights))
    np.testing.assert_allclose(decoded, BOX, atol=1e-5)


def test_decode_limits_growth():
    deltas = np.array([(0, 0, 10, 0)], "float32")
    actual = ops.convert_to_numpy(decode_boxes(deltas, ANCHOR))
    np.testing.assert_allclose(actual, [(-1220, 10, 1280, 50)], rtol=1e-6)


def test_decode_does_not_limit_shrinking():
    deltas = np.array([(0, 0, -10, 0)], "float32")
    actual = ops.convert_to_numpy(decode_boxes(deltas, ANCHOR))
    np.testing.assert_allclose(actual[0, 2] - actual[0, 0], 40 * np.exp(-10), rtol=1e-2)


def test_round_trip_broadcasts():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (2, 7, 1, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 40, (2, 7, 1, 2))], -1)
    boxes = boxes.astype("float32")
    anchors = np.tile(ANCHOR, (2, 7, 3, 1)) + np.arange(3, dtype="float32")[:, None]
    deltas = encode_boxes(boxes, anchors)
    assert tuple(deltas.shape) == (2, 7, 3, 4)
    decoded = ops.convert_to_numpy(decode_boxes(deltas, anchors))
    np.testing.assert_allclose(decoded, np.tile(boxes, (1, 1, 3, 1)), atol=1e-4)


def test_empty_boxes_have_finite_offsets():
    empty = np.array([(0, 0, 0, 0), (5, 5, 4, 4)], "float32")
    assert np.isfinite(ops.convert_to_numpy(encode_boxes(empty, ANCHOR))).all()
    assert np.isfinite(ops.convert_to_numpy(encode_boxes(BOX, empty))).all()
