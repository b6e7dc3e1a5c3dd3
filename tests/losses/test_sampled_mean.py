"""Means over samples."""

import numpy as np
from keras import ops

from kvision.losses import sampled_mean


def test_images_weigh_the_same():
    losses = ops.convert_to_tensor(np.array([(1, 2, 3, 6), (8, 0, 0, 0)], "float32"))
    actual = sampled_mean(losses, ops.convert_to_tensor(np.array([4, 1], "int32")))
    assert float(actual) == (12 / 4 + 8 / 1) / 2


def test_an_image_without_samples_counts_zero():
    losses = ops.convert_to_tensor(np.array([(4, 4), (0, 0)], "float32"))
    assert float(sampled_mean(losses, ops.convert_to_tensor(np.array([2, 0], "int32")))) == 2
