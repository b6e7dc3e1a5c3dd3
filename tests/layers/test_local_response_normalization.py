from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.layers import LocalResponseNormalization
from kvision.testing import to_numpy

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "segnet.npz")
RAMP = np.arange(10, 81, 10, "float32")[None, None, None]


def test_the_conventions_of_caffe_and_of_the_paper():
    caffe = to_numpy(LocalResponseNormalization()(RAMP)).ravel()
    np.testing.assert_allclose(caffe, GOLDEN["normalization/caffe"], 1e-6)
    np.testing.assert_allclose(caffe[[0, 1, -1]], [9.79502, 19.14479, 65.78608], 1e-6)
    paper = to_numpy(LocalResponseNormalization(alpha=5 * 1e-4, bias=2.0)(RAMP)).ravel()
    np.testing.assert_allclose(paper, GOLDEN["normalization/paper"], 1e-6)
    table = [5.65184, 10.70864, 14.86675, 17.99954, 20.19233, 21.61986, 26.02821, 31.33076]
    np.testing.assert_allclose(paper, table, 1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow has it too")
@pytest.mark.parametrize("size", [1, 3, 7, 15])
def test_it_is_that_of_tensorflow(size):
    import tensorflow as tf

    x = np.random.default_rng(0).normal(scale=20, size=(2, 3, 4, 6)).astype("float32")
    options = {"bias": 1.5, "beta": 0.6}
    expected = tf.nn.local_response_normalization(x, size // 2, alpha=0.01, **options)
    layer = LocalResponseNormalization(size, alpha=0.01 * size, **options)
    np.testing.assert_allclose(layer(x), expected, 1e-5)


def test_half_precision_is_computed_in_float32():
    layer = LocalResponseNormalization(dtype="mixed_float16")
    x = np.full((1, 1, 1, 3), 250, "float32")  # whose squares float16 cannot hold
    output = layer(x)
    assert keras.backend.standardize_dtype(output.dtype) == "float16"
    expected = 250 * (1 + 1e-4 / 5 * 3 * 250**2) ** -0.75
    np.testing.assert_allclose(to_numpy(output).astype("float32"), expected, 1e-3)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`size` must be odd and positive. Received: 4"):
        LocalResponseNormalization(4)
    with pytest.raises(ValueError, match="`bias` must be positive. Received: 0"):
        LocalResponseNormalization(bias=0)
