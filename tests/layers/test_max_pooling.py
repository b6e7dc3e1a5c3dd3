import keras
import numpy as np
import pytest
from keras import ops

from kvision.layers import MaxPoolingWithArgmax2D, MaxUnpooling2D
from kvision.ops import max_pool_with_argmax, max_unpool
from kvision.testing import to_numpy


def autoencoder():
    """Pools twice and restores, on maps of any size."""
    x = keras.Input((None, None, 3))
    once, first = MaxPoolingWithArgmax2D(padding="same")(x)
    twice, second = MaxPoolingWithArgmax2D(3, strides=2, padding="same")(once)
    restored = MaxUnpooling2D()(twice, second, once)
    return keras.Model(x, MaxUnpooling2D()(restored, first, x))


# Of these 45 gives 23, and 23 gives 12, as in SegNet.
@pytest.mark.parametrize("size", [(45, 60), (7, 5), (1, 1)])
def test_any_size_comes_back(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    model = autoencoder()
    assert model.output_shape == (None, None, None, 3)
    restored = to_numpy(model(x))
    assert restored.shape == x.shape
    once, first = max_pool_with_argmax(x, padding="same")
    twice, second = max_pool_with_argmax(once, 3, strides=2, padding="same")
    expected = to_numpy(max_unpool(max_unpool(twice, second, once), first, x))
    np.testing.assert_array_equal(restored, expected)
    # The greatest value of each channel survives everything, at its own place.
    greatest = x.reshape(2, -1, 3).argmax(axis=1)
    found = np.take_along_axis(restored.reshape(2, -1, 3), greatest[:, None], axis=1)
    assert (found[:, 0] != 0).all()


def test_a_model_is_saved_with_its_sizes(tmp_path):
    model = autoencoder()
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(1).normal(size=(1, 9, 6, 3)).astype("float32")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(x)), to_numpy(model(x)))


def test_known_shapes_are_told_before_the_call():
    pooling = MaxPoolingWithArgmax2D((2, 3), strides=2, padding="same")
    assert pooling.compute_output_shape((4, 7, None, 5)) == ((4, 4, None, 5),) * 2
    pooled, argmax = pooling(keras.Input((7, 9, 5), dtype="float16"))
    assert (pooled.shape, pooled.dtype) == ((None, 4, 5, 5), "float16")
    assert (argmax.shape, argmax.dtype) == ((None, 4, 5, 5), "int32")
    unpooling = MaxUnpooling2D()
    shapes = (None, 4, 5, 5), (4, 4, 5, 5), (4, 7, None, 1)
    assert unpooling.compute_output_shape(*shapes) == (4, 7, None, 5)
    assert MaxUnpooling2D((7, 9)).compute_output_shape(*shapes[:2]) == (4, 7, 9, 5)
    assert MaxUnpooling2D((7, 9))(pooled, argmax).shape == (None, 7, 9, 5)


@pytest.mark.parametrize("policy", ["float16", "mixed_bfloat16"])
def test_nothing_is_cast(policy):
    x = ops.ones((1, 4, 4, 1), "float32")
    pooled, argmax = MaxPoolingWithArgmax2D(dtype=policy)(x)
    restored = MaxUnpooling2D(dtype=policy)(pooled, argmax, x)
    assert {keras.backend.standardize_dtype(t.dtype) for t in (pooled, restored)} == {"float32"}


def test_wrong_arguments():
    with pytest.raises(ValueError, match="max_pool_with_argmax: `pool_size` must be a positive"):
        MaxPoolingWithArgmax2D(0)
    with pytest.raises(ValueError, match="max_pool_with_argmax: `padding` must be one of"):
        MaxPoolingWithArgmax2D(padding="full")
    with pytest.raises(ValueError, match="max_unpool: `output_size` must be a pair"):
        MaxUnpooling2D((1, 2, 3))
    x, argmax = ops.ones((1, 2, 2, 1)), ops.zeros((1, 2, 2, 1), "int32")
    with pytest.raises(ValueError, match="max_unpool: one of `output_size` and a tensor"):
        MaxUnpooling2D()(x, argmax)
