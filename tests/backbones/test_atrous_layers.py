"""Dilated pooling against its definition, one window at a time."""

import keras
import numpy as np
import pytest

from kvision.backbones.atrous_layers import AtrousAveragePooling2D, AtrousMaxPooling2D
from kvision.backbones.grid import Window


def pooled(x, size, strides, padding, spacing, reduce):
    """Every window of the strided net, begun at every position of the dense map as well.

    The strided map has ceil(N / spacing) positions; its padding, in its own positions, is
    TensorFlow's; the dense map has all positions up to the next strided one.
    """
    grid = []
    for length, k, s, gap in zip(x.shape[:2], size, strides, spacing, strict=True):
        n = -(-length // gap)
        windows = -(-n // s) if padding == "same" else -(-(n - k + 1) // s)
        before = max((windows - 1) * s + k - n, 0) // 2 if padding == "same" else 0
        grid.append(
            [
                [p for p in (start - before * gap + t * gap for t in range(k)) if 0 <= p < length]
                for start in range(windows * s * gap)
            ]
        )
    result = np.zeros((len(grid[0]), len(grid[1]), x.shape[2]))
    for row, ys in enumerate(grid[0]):
        for column, xs in enumerate(grid[1]):
            if ys and xs:
                result[row, column] = reduce(x[np.ix_(ys, xs)], axis=(0, 1))
    return result


@pytest.mark.parametrize("spacing", [(1, 1), (2, 3)])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("size", "strides"), [((2, 2), (2, 2)), ((3, 3), (2, 2)), ((3, 1), (1, 3)), ((2, 3), (3, 4))]
)
def test_pooling_is_its_definition(size, strides, padding, spacing):
    x = np.random.default_rng(0).normal(size=(1, 17, 22, 3)).astype("float32")
    for layer_class, reduce in ((AtrousMaxPooling2D, np.max), (AtrousAveragePooling2D, np.mean)):
        layer = layer_class(size, strides, window_padding=padding, spacing=spacing)
        expected = pooled(x[0], size, strides, padding, spacing, reduce)
        result = keras.ops.convert_to_numpy(layer(x))[0]
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)
        assert layer.compute_output_shape(x.shape) == (1, *expected.shape)
        assert layer.compute_output_shape((None, None, 22, 3)) == (None, None, *expected.shape[1:])


def test_average_of_half_precision_is_summed_in_float():
    x = np.full((1, 64, 64, 1), 1.0 + 2**-7)
    layer = AtrousAveragePooling2D((32, 32), (1, 1), spacing=(2, 2), dtype="bfloat16")
    result = keras.ops.convert_to_numpy(keras.ops.cast(layer(x), "float32"))
    assert (result[0, :2, :2] == 1.0 + 2**-7).all()


# Dumoulin and Visin, arXiv 1603.07285: size, kernel, stride, padding on both sides -> size.
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "expected"),
    [(227, 11, 4, 0, 55), (224, 7, 2, 3, 112), (112, 3, 2, 1, 56), (5, 3, 2, 1, 3)],
)
def test_convolution_arithmetic(size, kernel, stride, padding, expected):
    pads = ((padding, padding),) * 2
    window = Window((kernel, kernel), (stride, stride), padding=pads)
    assert window.output_size(size, 0) == expected


@pytest.mark.parametrize(("size", "pads"), [(6, (0, 1)), (7, (1, 1))])
def test_tensorflows_same_padding(size, pads):
    assert Window((3, 3), (2, 2), padding="same").pads(size, 1) == pads
