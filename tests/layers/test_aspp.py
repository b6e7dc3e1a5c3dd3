"""Atrous spatial pyramid pooling, against the boxes of the paper's figure one by one."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kvision.layers import ASPP


def randomised(layer, shape):
    layer.build(shape)
    rng = np.random.default_rng(0)
    for variable in layer.variables:
        if "seed" not in variable.path:
            low = 0.5 if "variance" in variable.path or "gamma" in variable.path else -0.5
            variable.assign(rng.uniform(low, 1.0, variable.shape))
    return layer


def convolved(x, kernel, rate=1, depthwise=False):
    """Keras' own layers, for the sake of independence."""
    size, _, channels, filters = kernel.shape
    shared = {"padding": "same", "dilation_rate": rate, "use_bias": False}
    if depthwise:
        layer = layers.DepthwiseConv2D(size, **shared)
    else:
        layer = layers.Conv2D(filters, size, **shared)
    layer.build((None, None, None, channels))
    layer.set_weights([ops.convert_to_numpy(kernel)])
    return layer(x)


def normalised(x, norm, start, stop):
    scale, shift, mean, variance = (ops.convert_to_numpy(v)[start:stop] for v in norm.weights)
    x = ops.convert_to_numpy(x)
    return np.maximum((x - mean) / np.sqrt(variance + norm.epsilon) * scale + shift, 0)


def expected(layer, x):
    filters = layer.filters
    branches = [convolved(x, layer.point_kernel)]
    for index, (rate, kernel) in enumerate(
        zip(layer.dilation_rates, layer.branch_kernels, strict=True)
    ):
        if layer.separable:
            channels = x.shape[-1]
            depthwise = convolved(x, layer.depthwise_kernels[index], rate, depthwise=True)
            part = (index * channels, (index + 1) * channels)
            branches.append(convolved(normalised(depthwise, layer.depthwise_norm, *part), kernel))
        else:
            branches.append(convolved(x, kernel, rate))
    branches = [
        normalised(branch, layer.branch_norm, index * filters, (index + 1) * filters)
        for index, branch in enumerate(branches)
    ]
    if layer.image_pooling:
        mean = convolved(x.mean((1, 2), keepdims=True), layer.pooling_kernel)
        mean = normalised(mean, layer.pooling_norm, 0, filters)
        branches.append(np.broadcast_to(mean, branches[0].shape))
    projection = convolved(np.concatenate(branches, -1), layer.projection_kernel)
    return normalised(projection, layer.projection_norm, 0, filters)


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("image_pooling", [False, True])
@pytest.mark.parametrize("rates", [(6, 12, 18), (1, 2)])
def test_the_figure(separable, image_pooling, rates):
    layer = ASPP(5, dilation_rates=rates, separable=separable, image_pooling=image_pooling)
    x = np.random.default_rng(1).normal(size=(2, 9, 13, 7)).astype("float32")
    randomised(layer, x.shape)
    received = ops.convert_to_numpy(layer(x, training=False))
    assert layer.compute_output_shape(x.shape) == received.shape == (2, 9, 13, 5)
    np.testing.assert_allclose(received, expected(layer, x), rtol=2e-4, atol=2e-4)


def test_the_papers_parameters():
    layer = ASPP(256, dilation_rates=(6, 12, 18), dropout=0.0)
    layer.build((None, None, None, 2048))
    assert sum(int(np.prod(v.shape)) for v in layer.trainable_variables) == 15_535_104
    assert sum(int(np.prod(v.shape)) for v in layer.non_trainable_variables) == 3_072


def test_training_uses_the_batch_and_drops():
    layer = ASPP(6, dilation_rates=(2,), dropout=0.5)
    x = np.random.default_rng(1).normal(3.0, 2.0, size=(4, 8, 8, 3)).astype("float32")
    before = ops.convert_to_numpy(layer.branch_norm.moving_mean) if layer.built else None
    assert before is None
    received = ops.convert_to_numpy(layer(x, training=True))
    assert 0.4 < (received == 0).mean() < 0.95
    assert np.abs(ops.convert_to_numpy(layer.branch_norm.moving_mean)).max() > 0


def test_rates_are_checked():
    with pytest.raises(ValueError, match=r"`dilation_rates` must be positive.*Received: \(0,\)"):
        ASPP(dilation_rates=(0,))
    for wrong in (6, (6, 1.5), "6", None):
        with pytest.raises(ValueError, match="ASPP: `dilation_rates` must be positive integers in"):
            ASPP(dilation_rates=wrong)
    with pytest.raises(ValueError, match=r"one at least. Received: \(\)"):
        ASPP(dilation_rates=())


def test_in_a_functional_model():
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, ASPP(3, dilation_rates=(2, 4))(inputs))
    assert model(np.zeros((1, 5, 6, 4), "float32")).shape == (1, 5, 6, 3)
