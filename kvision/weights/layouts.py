"""From the memory layouts of checkpoints, PyTorch's above all, to Keras'."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """How an array of a checkpoint becomes a variable's value.

    Attributes:
        source_shape: Maps the variable's shape to the shape the checkpoint must hold.
        convert: Maps the checkpoint's array, of that shape, to the variable's value.
    """

    source_shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    convert: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda shape: shape, lambda array: array)

CONVOLUTION = Layout(
    lambda shape: (shape[3], shape[2], shape[0], shape[1]),
    lambda array: array.transpose(2, 3, 1, 0),
)

DEPTHWISE_CONVOLUTION = Layout(
    lambda shape: (shape[2], shape[3], shape[0], shape[1]),
    lambda array: array.transpose(2, 3, 0, 1),
)

DENSE = Layout(lambda shape: shape[::-1], lambda array: array.T)


def dense_after_flatten(height, width):
    """Dense kernel behind a flattened feature map.

    PyTorch flattens `(channels, height, width)`, Keras `(height, width, channels)`.

    Args:
        height: Rows of the map.
        width: Columns of the map.

    Returns:
        The `Layout`.
    """

    def convert(array):
        units = array.shape[0]
        maps = array.reshape(units, -1, height, width)
        return maps.transpose(2, 3, 1, 0).reshape(-1, units)

    return Layout(lambda shape: shape[::-1], convert)
