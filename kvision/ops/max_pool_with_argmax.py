"""Max pooling that tells where each maximum was, so that `max_unpool` can undo it.

Source: Badrinarayanan, Kendall and Cipolla, "SegNet", 2017, section 3.
"""

import math

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.arguments import standardize_pair
from kvision.ops.operation import call_operation

_NAME = "max_pool_with_argmax"
_MAX_INDEX = 2**31 - 1
_PADDINGS = ("valid", "same")


def max_pool_with_argmax(x, pool_size=2, *, strides=None, padding="valid"):
    """Pools windows of a map by their maximum, and tells where in the map each one was.

    A value is the first of the largest in row-major order. A NaN is larger than every number.
    Windows may overlap, or leave cells between them out. The gradient of a value goes to the cell
    that it came from, and is summed where windows share one: it is `max_unpool`.

    Argmax is counted as PyTorch and Caffe do, in the map of its own image and channel. For
    `tf.nn.max_pool_with_argmax` it is `argmax * channels + channel`.

    Args:
        x: Float tensor of shape `(batch, height, width, channels)`, fewer than 2^31 cells a map.
        pool_size: Size of a window, an int or a pair `(height, width)`.
        strides: From one window to the next, an int or a pair; by default `pool_size`.
        padding: `"valid"`: the windows that lie on the map; none, and an empty result, where it is
            smaller than one. `"same"`: as many windows as strides begin in the map, centred as in
            Keras, whose cells beyond the map count for nothing; windows of 2 by 2, 2 apart, begin
            at the first cell, and that of an odd last row has one row, as in Caffe.

    Returns:
        Tuple `(pooled, argmax)` of shape `(batch, pooled_height, pooled_width, channels)`: values
        of the dtype of `x`, and int32 cells `y * width + x`. Gradients of half types are
        accumulated in float32.

    Raises:
        ValueError: If an argument has a wrong value, or `x` a wrong rank, size or dtype.
    """
    return call_operation(
        MaxPoolWithArgmaxOperation, (x,), pool_size=pool_size, strides=strides, padding=padding
    )


@keras.saving.register_keras_serializable("kvision")
class MaxPoolWithArgmaxOperation(keras.Operation):
    """`max_pool_with_argmax` as a node of a functional model. Arguments as there."""

    def __init__(self, *, pool_size=2, strides=None, padding="valid", name=None):
        super().__init__(name=name)
        self.pool_size = standardize_pair(_NAME, "pool_size", pool_size)
        self.strides = (
            self.pool_size if strides is None else standardize_pair(_NAME, "strides", strides)
        )
        for argument, pair in (("pool_size", self.pool_size), ("strides", self.strides)):
            if max(pair) > _MAX_INDEX:
                raise ValueError(f"{_NAME}: `{argument}` must be below 2^31. Received: {pair}.")
        if padding not in _PADDINGS:
            raise ValueError(f"{_NAME}: `padding` must be one of {_PADDINGS}. Received: {padding}.")
        self.padding = padding

    def call(self, x):
        x = ops.convert_to_tensor(x)
        _check(x)
        pooled, argmax = (_native if native.use_native() else _reference)(
            x, self.pool_size, self.strides, self._windows(ops.shape(x))
        )
        return pooled, argmax

    def compute_output_spec(self, x):
        _check(x)
        shape = self.compute_output_shape(x.shape)
        return keras.KerasTensor(shape, dtype=x.dtype), keras.KerasTensor(shape, dtype="int32")

    def compute_output_shape(self, x_shape):
        """The shape of each result; `None` stands for what is unknown."""
        (rows, _), (columns, _) = self._windows(x_shape)
        return x_shape[0], rows, columns, x_shape[3]

    def _windows(self, shape):
        """Number and offset of the windows of each axis; sizes may be `None`, or tensors."""
        axes = zip(shape[1:3], self.pool_size, self.strides, strict=True)
        return tuple(_windows_of_axis(*axis, self.padding) for axis in axes)


def _windows_of_axis(size, length, stride, padding):
    if size is None:
        return None, None
    larger = max if isinstance(size, int) else ops.maximum
    if padding == "valid":
        return larger((size - length) // stride + 1, 0), 0
    number = (size + stride - 1) // stride
    return number, larger((number - 1) * stride + length - size, 0) // 2


def _check(x):
    shape = tuple(x.shape)
    if len(shape) != 4:
        raise ValueError(
            f"{_NAME}: `x` must have shape (batch, height, width, channels). Received: {shape}."
        )
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(
            f"{_NAME}: `x` must be float16, bfloat16, float32 or float64. Received: {dtype}."
        )
    if None not in shape[1:3] and math.prod(shape[1:3]) > _MAX_INDEX:
        raise ValueError(f"{_NAME}: `x` must have fewer than 2^31 cells a map. Received: {shape}.")


def _reference(x, pool_size, strides, windows):
    """`max_pool_with_argmax` in plain `keras.ops`: a loop over the cells of all windows in step.

    It visits the cells on the map, from each window's first one: never more than the map has,
    however large the windows are. All of `x` must have fewer than 2^31 elements: indices are int32.
    """
    if None not in x.shape and math.prod(x.shape) > _MAX_INDEX:
        raise ValueError(
            f"{_NAME}: without its native op, `x` must have fewer than 2^31 elements. "
            f"Received: {tuple(x.shape)}."
        )
    batch, height, width, channels = ops.shape(x)
    (rows, top), (columns, left) = windows
    shape = (batch, rows, columns, channels)
    cells = ops.reshape(ops.stop_gradient(x), (batch, height * width, channels))
    first_y = ops.arange(rows, dtype="int32")[:, None] * strides[0] - top
    first_x = ops.arange(columns, dtype="int32") * strides[1] - left

    lines, steps = (_smaller(*pair) for pair in zip(pool_size, (height, width), strict=True))

    def visit(step, state):
        best, argmax = state
        y, x = ops.maximum(first_y, 0) + step // steps, ops.maximum(first_x, 0) + step % steps
        inside = (y - first_y < pool_size[0]) & (x - first_x < pool_size[1])
        on_map = inside & (y < height) & (x < width)
        cell = ops.where(on_map, y * width + x, 0)
        values = ops.reshape(ops.take(cells, ops.reshape(cell, (-1,)), axis=1), shape)
        larger = (values > best) | (ops.isnan(values) & ~ops.isnan(best)) | (argmax < 0)
        larger = larger & on_map[..., None]
        return ops.where(larger, values, best), ops.where(larger, cell[..., None], argmax)

    _, argmax = ops.fori_loop(
        0,
        lines * steps,
        visit,
        (ops.zeros(shape, x.dtype), ops.full(shape, -1, "int32")),
    )
    # In float32, for that is how the gradients of half types are to be summed.
    dtype = "float64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32"
    images = ops.arange(batch, dtype="int32")[:, None, None, None] * (height * width)
    index = (images + argmax) * channels + ops.arange(channels, dtype="int32")
    pooled = ops.take(ops.reshape(ops.cast(x, dtype), (-1,)), index)
    return ops.cast(ops.reshape(pooled, shape), x.dtype), argmax


def _smaller(length, size):
    return min(length, size) if isinstance(size, int) else ops.minimum(length, size)


def _native(x, pool_size, strides, windows):
    (rows, top), (columns, left) = windows
    batch, _, _, channels = ops.shape(x)
    return native.call(
        "max_pool_with_argmax",
        x,
        pool_size=pool_size,
        strides=strides,
        offset=(top, left),
        output_shape=(batch, rows, columns, channels),
    )


@native.gradient("max_pool_with_argmax", keeps=("argmax",))
def _gradient(call, pooled_gradient):
    argmax = call.tensors["argmax"]
    x_gradient = native.call("max_unpool", pooled_gradient, argmax, output_shape=call.shapes["x"])
    return {"x": x_gradient}
