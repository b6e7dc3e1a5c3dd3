"""Against Keras' layer."""

import keras
import numpy as np
import pytest

from kvision.layers import BatchNormalization
from kvision.testing.vjp import to_numpy, vjp

RNG = np.random.default_rng(0)
SHAPES = [(2, 3, 4, 5), (1, 1, 1, 3), (8, 17, 13, 1), (3, 1, 2, 64)]


def pair(shape, **arguments):
    """The layer and Keras', with the same random weights."""
    found = []
    for layer in (BatchNormalization(**arguments), keras.layers.BatchNormalization(**arguments)):
        layer.build(shape)
        rng = np.random.default_rng(1)
        layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.weights])
        found.append(layer)
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "arguments",
    [{}, {"momentum": 0.5, "epsilon": 0.1}, {"scale": False}, {"center": False}],
    ids=str,
)
def test_equals_keras(shape, arguments, training):
    x = RNG.normal(2, 3, shape).astype("float32")
    ours, theirs = pair(shape, **arguments)
    expected = to_numpy(theirs(x, training=training))
    np.testing.assert_allclose(to_numpy(ours(x, training=training)), expected, atol=2e-5)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float64"])
@pytest.mark.parametrize("arguments", [{}, {"renorm": True}, {"axis": 1}], ids=str)
def test_equals_keras_in_other_forms(dtype, arguments):
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("float64 is an option of JAX")
    x = RNG.normal(2, 3, (2, 3, 4, 5)).astype("float32")
    ours, theirs = pair(x.shape, dtype=dtype, **arguments)
    results = [layer(x, training=True) for layer in (ours, theirs)]
    assert results[0].dtype == results[1].dtype
    wide = "float32" if dtype == "mixed_bfloat16" else dtype
    ours_, theirs_ = (to_numpy(keras.ops.cast(result, wide)) for result in results)
    np.testing.assert_allclose(ours_, theirs_, atol=0.02 if dtype == "mixed_bfloat16" else 1e-12)


def test_a_mask_is_heeded():
    x = RNG.normal(2, 3, (2, 3, 4, 5)).astype("float32")
    mask = RNG.random((2, 3, 4)) < 0.5
    ours, theirs = pair(x.shape)
    expected = to_numpy(theirs(x, training=True, mask=mask))
    np.testing.assert_allclose(to_numpy(ours(x, training=True, mask=mask)), expected, atol=1e-5)


def test_without_training_nothing_moves():
    x = RNG.normal(2, 3, (2, 3, 4, 5)).astype("float32")
    ours, theirs = pair(x.shape)
    ours.trainable = theirs.trainable = False
    before = ours.get_weights()
    expected = to_numpy(theirs(x, training=True))
    np.testing.assert_allclose(to_numpy(ours(x, training=True)), expected, atol=1e-6)
    for mine, other in zip(ours.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_config_and_weights_are_those_of_keras():
    ours, theirs = pair((2, 3, 4, 5), momentum=0.7, name="norm")
    assert ours.get_config() == theirs.get_config()
    assert [w.path for w in ours.weights] == [w.path for w in theirs.weights]
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours))
    assert type(again) is BatchNormalization


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_equal_those_of_keras(shape):
    x = RNG.normal(2, 3, shape).astype("float32")
    upstream = RNG.normal(size=shape).astype("float32")
    found = []
    for layer in pair(shape):
        _, moved = vjp(lambda x, layer=layer: layer(x, training=True), x, upstream)
        found.append(moved)
    np.testing.assert_allclose(*found, atol=2e-5)


def test_training_moves_all_weights_as_with_keras():
    x = RNG.normal(2, 3, (16, 3, 4, 5)).astype("float32")
    y = RNG.normal(size=x.shape).astype("float32")
    trained = []
    for layer in pair((None, 3, 4, 5)):
        model = keras.Sequential([keras.Input((3, 4, 5)), layer])
        model.compile("sgd", "mse")
        model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
        trained.append(model.get_weights())
    for mine, other in zip(*trained, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
