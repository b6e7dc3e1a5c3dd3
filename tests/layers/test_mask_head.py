"""The mask head."""

import keras
import numpy as np
import pytest
from keras import ops

from kvision.layers import MaskHead
from kvision.testing.vjp import vjp

CLASSES = np.array([[2, 0, 1], [1, 1, -1]], "int32")


def head(num_convs=1, **kwargs):
    layer = MaskHead(3, filters=6, num_convs=num_convs, **kwargs)
    layer.build((None, None, 4, 5, 7))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=w.shape).astype("float32") for w in layer.get_weights()])
    return layer


def regions():
    return np.random.default_rng(1).normal(size=(2, 3, 4, 5, 7)).astype("float32")


def by_definition(layer, regions, classes):
    """The masks of all classes, by NumPy, of which the asked ones are picked."""
    *convs, (up, up_bias), (last, last_bias) = zip(*[iter(layer.get_weights())] * 2, strict=True)
    x = regions.reshape(-1, *regions.shape[2:])
    for kernel, bias in convs:
        height, width = x.shape[1:3]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = bias + sum(
            padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in np.ndindex(3, 3)
        )
        x = np.maximum(x, 0)
    large = np.zeros((len(x), 2 * x.shape[1], 2 * x.shape[2], up.shape[2]))
    for i, j in np.ndindex(2, 2):
        large[:, i::2, j::2] = x @ up[i, j].T
    masks = np.maximum(large + up_bias, 0) @ last[0, 0] + last_bias
    chosen = masks[np.arange(len(x)), :, :, np.maximum(classes.ravel(), 0)]
    return chosen.reshape(*classes.shape, *masks.shape[1:3])


@pytest.mark.parametrize("num_convs", [0, 2])
def test_each_region_gets_the_mask_of_its_class(num_convs):
    layer = head(num_convs)
    masks = ops.convert_to_numpy(layer(regions(), CLASSES))
    expected = by_definition(layer, regions(), CLASSES)
    np.testing.assert_allclose(masks, expected, rtol=1e-4, atol=1e-3)


def test_the_enlargement_is_keras_transposed_convolution():
    layer = head(0)
    pixels = regions().reshape(6, 4, 5, 7)
    hidden = ops.relu(layer.upsampling(pixels))
    expected = ops.convert_to_numpy(layer.predictor(hidden))
    expected = expected[np.arange(6), :, :, np.maximum(CLASSES.ravel(), 0)]
    masks = ops.convert_to_numpy(layer(regions(), CLASSES)).reshape(6, 8, 10)
    np.testing.assert_allclose(masks, expected, rtol=1e-4, atol=1e-3)


def test_no_other_class_gets_a_gradient():
    layer = head()
    classes = np.array([[2, 0, 2], [0, 2, 2]], "int32")
    predictor = layer.predictor.kernel

    def masks(kernel):
        with keras.StatelessScope(state_mapping=[(predictor, kernel)]):
            return layer(regions(), classes)

    _, gradient = vjp(masks, predictor.value, np.ones((2, 3, 8, 10), "float32"))
    assert (np.abs(gradient[0, 0]).max(axis=0) > 0).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("num_convs", "channels", "parameters"), [(4, 256, 2_643_280), (0, 2048, 2_117_968)]
)
def test_parameters(num_convs, channels, parameters):
    """Of detectron2's heads of 80 classes, on a pyramid and on the last stage's features."""
    layer = MaskHead(80, num_convs=num_convs)
    layer.build((None, None, 14, 14, channels))
    assert layer.count_params() == parameters


def test_mixed_precision_gives_float32():
    masks = head(dtype="mixed_bfloat16")(regions(), CLASSES)
    assert keras.backend.standardize_dtype(masks.dtype) == "float32"


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="MaskHead: `num_masks`.*num_masks=0"):
        MaskHead(0)
