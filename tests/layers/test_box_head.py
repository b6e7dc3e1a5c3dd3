"""The box head."""

import keras
import numpy as np
import pytest
from keras import ops

from kvision.layers import BoxHead


def head(**kwargs):
    layer = BoxHead(3, units=8, **kwargs)
    layer.build((None, None, 2, 2, 5))
    return layer


def test_outputs_of_each_region_are_its_own():
    layer = head()
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=w.shape).astype("float32") for w in layer.get_weights()])
    regions = rng.normal(size=(2, 6, 2, 2, 5)).astype("float32")
    logits, deltas = (ops.convert_to_numpy(x) for x in layer(regions))
    weights = iter(layer.get_weights())
    hidden = regions.reshape(12, 20)
    for _ in range(2):
        hidden = np.maximum(hidden @ next(weights) + next(weights), 0)
    expected = (hidden @ next(weights) + next(weights)).reshape(2, 6, 4)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    expected = (hidden @ next(weights) + next(weights)).reshape(2, 6, 4, 4)
    np.testing.assert_allclose(deltas, expected, rtol=1e-4, atol=1e-4)


def test_number_of_parameters_is_torchvisions():
    layer = BoxHead(90, units=1024)
    layer.build((None, None, 7, 7, 256))
    assert layer.count_params() == 13_895_680 + 466_375


def test_mixed_precision_gives_float32():
    outputs = head(dtype="mixed_bfloat16")(np.ones((1, 2, 2, 2, 5), "float32"))
    assert {keras.backend.standardize_dtype(x.dtype) for x in outputs} == {"float32"}


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="BoxHead: `num_classes`"):
        BoxHead(0)
