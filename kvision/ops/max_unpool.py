"""Max unpooling: each value at the place that `max_pool_with_argmax` took it from.

Source: Badrinarayanan, Kendall and Cipolla, "SegNet", 2017, section 3.
"""

import math
import numbers

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.arguments import is_int
from kvision.ops.operation import call_operation

_NAME = "max_unpool"
_MAX_INDEX = 2**31 - 1


def max_unpool(x, argmax, output_size):
    """Puts each value at its place in a larger map, and zeros elsewhere.

    Where several values fall on one place, as those of windows that overlap do, they are summed in
    row-major order. So it is the transpose of looking the values up, which is its gradient.

    Args:
        x: Float tensor of shape `(batch, pooled_height, pooled_width, channels)`.
        argmax: Int32 tensor of the shape of `x`: places `y * width + x` in the map of the value's
            image and channel, as `max_pool_with_argmax` and PyTorch count them. One off the map is
            an error; on a GPU, and without the native op, its value is left out instead.
        output_size: Size of the map, which the size of `x` does not tell: a pair
            `(height, width)`, or a tensor of shape `(batch, height, width, any)`, such as that
            which was pooled, of which nothing but the size is taken.

    Returns:
        Tensor of shape `(batch, height, width, channels)` of the dtype of `x`. Half types are
        accumulated in float32.

    Raises:
        ValueError: If a tensor has a wrong rank, size or dtype, or `output_size` is neither.
        tf.errors.InvalidArgumentError: If a place is off the map; the other backends' own error.
    """
    if hasattr(output_size, "dtype"):
        return call_operation(MaxUnpoolOperation, (x, argmax, output_size))
    if output_size is None or isinstance(output_size, numbers.Number):
        raise ValueError(_wrong_size(output_size))
    return call_operation(MaxUnpoolOperation, (x, argmax), output_size=tuple(output_size))


@keras.saving.register_keras_serializable("kvision")
class MaxUnpoolOperation(keras.Operation):
    """`max_unpool` as a node of a functional model.

    Called with `x`, `argmax` and, unless it has an `output_size` itself, a tensor of that size.

    Args:
        output_size: Pair `(height, width)`, or `None`.
        name: Of the operation.
    """

    def __init__(self, *, output_size=None, name=None):
        super().__init__(name=name)
        self.output_size = None if output_size is None else tuple(output_size)
        if output_size is not None and (
            len(self.output_size) != 2 or not all(map(_may_be_size, self.output_size))
        ):
            raise ValueError(_wrong_size(output_size))

    def call(self, x, argmax, like=None):
        x, argmax = ops.convert_to_tensor(x), ops.convert_to_tensor(argmax)
        like = like if like is None else ops.convert_to_tensor(like)
        self._check(x, argmax, like)
        size = self.output_size if like is None else ops.shape(like)[1:3]
        return (_native if native.use_native() else _reference)(x, argmax, *size)

    def compute_output_spec(self, x, argmax, like=None):
        self._check(x, argmax, like)
        like_shape = None if like is None else like.shape
        shape = self.compute_output_shape(x.shape, argmax.shape, like_shape)
        return keras.KerasTensor(shape, dtype=x.dtype)

    def compute_output_shape(self, x_shape, argmax_shape, like_shape=None):
        """The shape of the result; `None` stands for what is unknown."""
        size = self.output_size if like_shape is None else tuple(like_shape)[1:3]
        known = (x if x is not None else a for x, a in zip(x_shape, argmax_shape, strict=True))
        batch, _, _, channels = known
        if batch is None and like_shape is not None:
            batch = like_shape[0]
        return batch, *size, channels

    def _check(self, x, argmax, like):
        if (like is None) == (self.output_size is None):
            raise ValueError(f"{_NAME}: one of `output_size` and a tensor of that size is wanted.")
        for name, tensor in (("x", x), ("argmax", argmax)):
            if len(tensor.shape) != 4:
                raise ValueError(
                    f"{_NAME}: `{name}` must have shape (batch, pooled_height, pooled_width, "
                    f"channels). Received: {tuple(tensor.shape)}."
                )
        if any(None not in (a, b) and a != b for a, b in zip(x.shape, argmax.shape, strict=True)):
            raise ValueError(
                f"{_NAME}: `argmax` must have the shape of `x`. "
                f"Received: {tuple(argmax.shape)} and {tuple(x.shape)}."
            )
        dtype = keras.backend.standardize_dtype(x.dtype)
        if dtype not in ("float16", "bfloat16", "float32", "float64"):
            raise ValueError(
                f"{_NAME}: `x` must be float16, bfloat16, float32 or float64. Received: {dtype}."
            )
        dtype = keras.backend.standardize_dtype(argmax.dtype)
        if dtype != "int32":
            raise ValueError(f"{_NAME}: `argmax` must be int32. Received: {dtype}.")
        size = self.output_size
        if like is not None:
            if len(like.shape) != 4 or (
                None not in (like.shape[0], x.shape[0]) and like.shape[0] != x.shape[0]
            ):
                raise ValueError(_wrong_size(tuple(like.shape)))
            size = tuple(like.shape)[1:3]
        if all(isinstance(n, int) for n in size) and math.prod(size) > _MAX_INDEX:
            raise ValueError(
                f"{_NAME}: `output_size` must be fewer than 2^31 cells. Received: {tuple(size)}."
            )


def _may_be_size(value):
    """Whether it is a size, or stands for one that is not known yet: a tensor, a symbol, `None`."""
    if isinstance(value, numbers.Number):
        return is_int(value) and value >= 0
    return not isinstance(value, str)


def _wrong_size(received):
    return (
        f"{_NAME}: `output_size` must be a pair (height, width) that is not negative, or a tensor "
        f"(batch, height, width, any). Received: {received}."
    )


def _reference(x, argmax, height, width):
    """`max_unpool` in plain `keras.ops`; the result must have fewer than 2^31 - 1 elements."""
    batch, _, _, channels = ops.shape(x)
    cells = height * width
    dtype = keras.backend.standardize_dtype(x.dtype)
    images = ops.arange(batch, dtype="int32")[:, None, None, None] * cells
    index = (images + argmax) * channels + ops.arange(channels, dtype="int32")
    nowhere = batch * cells * channels
    index = ops.where((argmax >= 0) & (argmax < cells), index, nowhere)
    values = ops.cast(x, "float64" if dtype == "float64" else "float32")
    sums = ops.segment_sum(ops.reshape(values, (-1,)), ops.reshape(index, (-1,)), nowhere + 1)
    return ops.cast(ops.reshape(sums[:nowhere], (batch, height, width, channels)), dtype)


def _native(x, argmax, height, width):
    batch, _, _, channels = ops.shape(x)
    return native.call("max_unpool", x, argmax, output_shape=(batch, height, width, channels))


@native.gradient("max_unpool", keeps=("argmax",))
def _gradient(call, output_gradient):
    return {"x": native.call("max_unpool_gradient", output_gradient, call.tensors["argmax"])}


@native.gradient("max_unpool_gradient", keeps=("argmax",))
def _second_gradient(call, x_gradient):
    shape = call.shapes["output_gradient"]
    output_gradient = native.call(
        "max_unpool", x_gradient, call.tensors["argmax"], output_shape=shape
    )
    return {"output_gradient": output_gradient}
