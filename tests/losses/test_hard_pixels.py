"""The largest values found without sorting, against sorting."""

import numpy as np
import pytest
from keras import ops

from kvision.losses.hard_pixels import hardest

SPECIAL = [0.0, -0.0, -1.0, 1e-45, 1e-38, 3e38, np.inf, np.inf]


def expected(values, valid, count):
    """Everything from the `count`-th largest valid value on."""
    values = np.maximum(values, 0)
    ordered = np.sort(values[valid])[::-1]
    if count == 0 or not ordered.size:
        return np.zeros(values.shape, bool)
    return valid & (values >= ordered[min(count, ordered.size) - 1])


@pytest.mark.parametrize("case", range(12))
def test_against_sorting(case):
    rng = np.random.default_rng(case)
    values = rng.exponential(2, 60)
    if case % 2:
        values = np.round(values)  # ties
    values[:8] = SPECIAL
    values = rng.permutation(values).astype("float32").reshape(3, 4, 5)
    valid = rng.random(values.shape) < (1.0, 0.5, 0.0)[case % 3]
    for count in (0, 1, 2, 7, 30, 59, 60, 1000):
        found = hardest(ops.convert_to_tensor(values), ops.convert_to_tensor(valid), count)
        subnormal = (values > 0) & (values < 1e-38)  # 0 where a processor flushes them
        right = (ops.convert_to_numpy(found) == expected(values, valid, count)) | subnormal
        assert right.all()


def test_equal_values_are_kept_or_passed_over_together():
    values = np.array([1.0, 2.0, 2.0, 2.0, 3.0], "float32")
    found = hardest(ops.convert_to_tensor(values), ops.ones(5, "bool"), 2)
    np.testing.assert_array_equal(ops.convert_to_numpy(found), [False, True, True, True, True])
