"""Losses of box offsets against worked values."""

import numpy as np
import pytest
from keras import ops

from kvision.losses import smooth_l1, squared_error

DISTANCES = np.array([0, 0.05, 0.1, 0.2, 0.5, 1, 2], "float32")[:, None]


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (1.0, [0, 0.00125, 0.005, 0.02, 0.125, 0.5, 1.5]),
        (1 / 9, [0, 0.01125, 0.045, 0.144444, 0.444444, 0.944444, 1.944444]),
        (0.5, [0, 0.0025, 0.01, 0.04, 0.25, 0.75, 1.75]),
        (0.0, [0, 0.05, 0.1, 0.2, 0.5, 1, 2]),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_smooth_l1_of_a_worked_table(beta, expected, sign):
    actual = smooth_l1(ops.convert_to_tensor(sign * DISTANCES), ops.zeros((7, 1)), beta)
    np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, atol=5e-7)


def test_losses_of_a_worked_box():
    target = ops.convert_to_tensor(np.array([(0.1875, -0.1, 0.117783, -0.356675)], "float32"))
    zero = ops.zeros((1, 4))
    for actual, expected in [
        (squared_error(target, zero), 0.186246),
        (smooth_l1(target, zero, 1.0), 0.093123),
        (smooth_l1(target, zero, 1 / 9), 0.540291),
        (smooth_l1(target, zero, 0.0), 0.761958),
    ]:
        np.testing.assert_allclose(ops.convert_to_numpy(actual), [expected], atol=1e-6)
