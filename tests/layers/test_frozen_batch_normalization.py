import keras
import numpy as np
import pytest

from kvision.layers import FrozenBatchNormalization

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4, 5)).astype("float32")
VECTORS = [RNG.uniform(0.5, 1.5, 5).astype("float32") for _ in range(4)]


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def built(**arguments):
    layer = FrozenBatchNormalization(**arguments)
    layer.build(X.shape)
    layer.set_weights(VECTORS)
    return layer


@pytest.mark.parametrize("epsilon", [0.0, 1e-5, 0.1])
def test_formula(epsilon):
    gamma, beta, mean, variance = (vector.astype("float64") for vector in VECTORS)
    expected = gamma * (X - mean) / np.sqrt(variance + epsilon) + beta
    np.testing.assert_allclose(to_numpy(built(epsilon=epsilon)(X)), expected, atol=1e-6)


def test_equals_batch_normalization_in_inference():
    other = keras.layers.BatchNormalization(epsilon=1e-5)
    other.build(X.shape)
    other.set_weights(built().get_weights())
    expected = to_numpy(other(X, training=False))
    np.testing.assert_allclose(to_numpy(built()(X, training=True)), expected, atol=1e-6)


def test_never_trains():
    layer = built()
    layer.trainable = True
    assert layer.trainable_weights == []
    layer(X, training=True)
    for before, after in zip(VECTORS, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(after, before)


def test_mixed_precision_folds_in_float32():
    layer = built(dtype="mixed_bfloat16")
    layer.moving_mean.assign(np.full(5, 1000.25))
    layer.beta.assign(np.full(5, 1000.25))
    layer.gamma.assign(np.ones(5))
    layer.moving_variance.assign(np.ones(5))
    y = to_numpy(keras.ops.cast(layer(X), "float32"))
    np.testing.assert_allclose(y, X, atol=0.03)


def test_config():
    layer = FrozenBatchNormalization.from_config(built(epsilon=0.25, name="norm").get_config())
    assert (layer.epsilon, layer.name) == (0.25, "norm")


def test_refuses_negative_epsilon():
    with pytest.raises(ValueError, match="epsilon=-1"):
        FrozenBatchNormalization(epsilon=-1)
