"""The kernel with which a transposed convolution enlarges bilinearly."""

import keras
import numpy as np
import pytest
from keras import ops

from kvision.layers import BilinearKernel


@pytest.mark.parametrize(
    ("size", "line"),
    [
        (4, [0.25, 0.75, 0.75, 0.25]),
        (8, [0.125, 0.375, 0.625, 0.875, 0.875, 0.625, 0.375, 0.125]),
    ],
)
def test_the_published_values(size, line):
    kernel = ops.convert_to_numpy(BilinearKernel()((size, size, 3, 2)))
    for i, j in np.ndindex(3, 2):
        np.testing.assert_allclose(kernel[:, :, i, j], (i == j) * np.outer(line, line), atol=1e-7)


@pytest.mark.parametrize("factor", [2, 4])
def test_it_enlarges_bilinearly(factor):
    """A ramp stays one, but for the outermost cells, which see zeros beyond."""
    layer = keras.layers.Conv2DTranspose(
        1,
        2 * factor,
        strides=factor,
        padding="same",
        use_bias=False,
        kernel_initializer=BilinearKernel(),
    )
    rows, columns = np.mgrid[0:6, 0:7].astype("float32")
    small = (3 * rows + 2 * columns + 1)[None, :, :, None]
    large = ops.convert_to_numpy(layer(small))[0, :, :, 0]
    y, x = (np.mgrid[0 : 6 * factor, 0 : 7 * factor] + 0.5) / factor - 0.5
    inner = (slice(factor, -factor),) * 2
    np.testing.assert_allclose(large[inner], (3 * y + 2 * x + 1)[inner], rtol=1e-5)
