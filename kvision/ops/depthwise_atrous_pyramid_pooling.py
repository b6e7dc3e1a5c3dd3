"""Depthwise atrous pyramid pooling: depthwise atrous convolutions of one input, side by side.

Source: Chen, Zhu, Papandreou, Schroff, Adam, "Encoder-Decoder with Atrous Separable Convolution for
Semantic Image Segmentation", 2018, section 3.1.
"""

import functools

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.arguments import is_int
from kvision.ops.operation import call_operation
from kvision.ops.taps import product_of_tap

_NAME = "depthwise_atrous_pyramid_pooling"
_ACTIVATIONS = (None, "relu")
# Of the native kernel; the reference keeps to them too.
_MAX_BRANCHES = 16
_MAX_KERNEL_SIZE = 63
_MAX_RATE = 2**31
# What the native op shares with its gradient.
_ATTRIBUTES = ("kernel_sizes", "dilation_rates", "activation")


def depthwise_atrous_pyramid_pooling(x, kernels, *, dilation_rates, biases=None, activation=None):
    """Convolves each channel by a kernel of its own for every dilation rate, in one pass.

    Branch `n` is the depthwise convolution of `x` by `kernels[n]`, whose taps lie
    `dilation_rates[n]` cells apart, of stride 1 and padded by zeros to the size of `x`. It fills
    the channels `[n * channels, (n + 1) * channels)` of the result: what the pointwise convolutions
    of separable atrous pyramid pooling are given.

    The input is read once for all branches, and taps in the padding cost nothing. Gradients flow to
    `x`, `kernels` and `biases`; that of ReLU is 0 where the result is.

    Args:
        x: Float tensor of shape `(batch, height, width, channels)`.
        kernels: List of tensors of shape `(size, size, channels, 1)`, one a branch and at most 16,
            of the dtype of `x`: kernels of `keras.layers.DepthwiseConv2D`. Sizes are odd, at most
            63, and may differ.
        dilation_rates: List of ints, at least 1: the distance in cells between the taps of each
            branch.
        biases: List of tensors of shape `(channels,)`, one a branch, or `None` for none.
        activation: `"relu"`, or `None` for none.

    Returns:
        Tensor of shape `(batch, height, width, num_branches * channels)` of the dtype of `x`. Half
        types are accumulated in float32.

    Raises:
        TypeError: If kernels, rates or biases are no lists.
        ValueError: If an argument has a wrong value, or a tensor a wrong shape or dtype.
    """
    lists = {
        "kernels": kernels,
        "dilation_rates": dilation_rates,
        "biases": [] if biases is None else biases,
    }
    for name, value in lists.items():
        if not isinstance(value, list | tuple):
            raise TypeError(f"{_NAME}: `{name}` must be a list. Received: {type(value).__name__}.")
    return call_operation(
        DepthwiseAtrousPyramidPoolingOperation,
        (x, list(kernels), None if biases is None else list(biases)),
        dilation_rates=tuple(dilation_rates),
        activation=activation,
    )


@keras.saving.register_keras_serializable("kvision")
class DepthwiseAtrousPyramidPoolingOperation(keras.Operation):
    """`depthwise_atrous_pyramid_pooling` as a node of a functional model. Arguments as there."""

    def __init__(self, *, dilation_rates, activation=None, name=None):
        super().__init__(name=name)
        for rate in dilation_rates:
            if not is_int(rate) or not 1 <= rate <= _MAX_RATE:
                raise ValueError(
                    f"{_NAME}: `dilation_rates` must be ints between 1 and 2^31. "
                    f"Received: {tuple(dilation_rates)}."
                )
        if activation not in _ACTIVATIONS:
            raise ValueError(
                f"{_NAME}: `activation` must be one of {_ACTIVATIONS}. Received: {activation!r}."
            )
        self.dilation_rates = tuple(map(int, dilation_rates))
        self.activation = activation

    def call(self, x, kernels, biases=None):
        x = ops.convert_to_tensor(x)
        kernels = [ops.convert_to_tensor(kernel) for kernel in kernels]
        if biases is not None:
            biases = [ops.convert_to_tensor(bias) for bias in biases]
        self._check(x, kernels, biases)
        return (_native if native.use_native() else _reference)(
            x, kernels, biases, self.dilation_rates, self.activation
        )

    def compute_output_spec(self, x, kernels, biases=None):
        self._check(x, kernels, biases)
        *leading, channels = x.shape
        outputs = None if channels is None else channels * len(kernels)
        return keras.KerasTensor((*leading, outputs), dtype=x.dtype)

    def _check(self, x, kernels, biases):
        """Raises `ValueError` for numbers of branches, shapes or dtypes that are not taken."""
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
        if not 1 <= len(kernels) <= _MAX_BRANCHES:
            raise ValueError(
                f"{_NAME}: `kernels` must be a list of 1 to {_MAX_BRANCHES}. "
                f"Received: {len(kernels)} of them."
            )
        if len(self.dilation_rates) != len(kernels):
            raise ValueError(
                f"{_NAME}: `dilation_rates` must be one a kernel. "
                f"Received: {self.dilation_rates} for {len(kernels)} kernels."
            )
        if biases is not None and len(biases) != len(kernels):
            raise ValueError(
                f"{_NAME}: `biases` must be one a kernel. "
                f"Received: {len(biases)} for {len(kernels)} kernels."
            )
        for index, kernel in enumerate(kernels):
            name = f"kernels[{index}]"
            _check_shape(name, kernel, "(size, size, channels, 1)", (None, None, shape[3], 1))
            height, width = kernel.shape[:2]
            if height != width or height is None or height % 2 == 0 or height > _MAX_KERNEL_SIZE:
                raise ValueError(
                    f"{_NAME}: `{name}` must be square, of an odd static size of at most "
                    f"{_MAX_KERNEL_SIZE}. Received: {tuple(kernel.shape)}."
                )
            _check_dtype(name, kernel, dtype)
        for index, bias in enumerate(biases or ()):
            _check_shape(f"biases[{index}]", bias, "(channels,)", (shape[3],))
            _check_dtype(f"biases[{index}]", bias, dtype)


def _check_shape(name, tensor, words, expected):
    shape = tuple(tensor.shape)
    if len(shape) != len(expected) or any(
        None not in (size, wanted) and size != wanted
        for size, wanted in zip(shape, expected, strict=True)
    ):
        channels = next(size for size in reversed(expected) if size != 1)
        where = "" if channels is None else f", where channels is {channels} in `x`"
        raise ValueError(f"{_NAME}: `{name}` must have shape {words}{where}. Received: {shape}.")


def _check_dtype(name, tensor, dtype):
    own = keras.backend.standardize_dtype(tensor.dtype)
    if own != dtype:
        raise ValueError(f"{_NAME}: `{name}` must be {dtype}, the dtype of `x`. Received: {own}.")


def _reference(x, kernels, biases, dilation_rates, activation):
    """`depthwise_atrous_pyramid_pooling` in plain `keras.ops`, a product for every tap.

    Not by `keras.ops.depthwise_conv`: TensorFlow has it of no empty tensor and of no unknown number
    of channels, and pads by the rate.
    """
    dtype = keras.backend.standardize_dtype(x.dtype)
    wide = "float64" if dtype == "float64" else "float32"
    x = ops.cast(x, wide)
    branches = []
    for index, (kernel, rate) in enumerate(zip(kernels, dilation_rates, strict=True)):
        branch = 0.0 if biases is None else ops.cast(biases[index], wide)
        radius = kernel.shape[0] // 2
        for i, weights_of_row in enumerate(ops.unstack(ops.cast(kernel[..., 0], wide))):
            for j, weights in enumerate(ops.unstack(weights_of_row)):
                down, right = ((tap - radius) * rate for tap in (i, j))
                multiply = functools.partial(ops.multiply, weights)
                branch = branch + product_of_tap(multiply, x, down, right)
        branches.append(branch)
    output = ops.concatenate(branches, axis=-1)
    return ops.cast(ops.relu(output) if activation == "relu" else output, dtype)


def _native(x, kernels, biases, dilation_rates, activation):
    if biases is None:
        biases = [ops.zeros((len(kernels) * ops.shape(x)[3],), x.dtype)]
    return native.call(
        _NAME,
        x,
        ops.concatenate([ops.reshape(kernel, (-1,)) for kernel in kernels]),
        ops.concatenate(biases),
        kernel_sizes=[kernel.shape[0] for kernel in kernels],
        dilation_rates=list(dilation_rates),
        activation=activation or "none",
    )


@native.gradient(_NAME, keeps=("x", "kernels", "output"))
def _gradient(call, output_gradient):
    gradients = native.call(
        f"{_NAME}_gradient",
        output_gradient,
        call.tensors["output"],
        call.tensors["x"],
        call.tensors["kernels"],
        **{name: call.attributes[name] for name in _ATTRIBUTES},
    )
    return dict(zip(("x", "kernels", "biases"), gradients, strict=True))


@native.gradient(f"{_NAME}_gradient", keeps=("output_gradient", "output", "x", "kernels"))
def _second_gradient(call, x_gradient, kernel_gradient, bias_gradient):
    attributes = {name: call.attributes[name] for name in _ATTRIBUTES}
    linear = {**attributes, "activation": "none"}
    output_gradient, output, x, kernels = (
        call.tensors[name] for name in ("output_gradient", "output", "x", "kernels")
    )
    # Each gradient is linear in what arrives and in the other tensor.
    of_x = native.call(_NAME, x_gradient, kernels, bias_gradient, **linear)
    of_kernels = native.call(_NAME, x, kernel_gradient, ops.zeros_like(bias_gradient), **linear)
    slope = of_x + of_kernels
    if attributes["activation"] == "relu":
        slope = ops.where(output > 0, slope, ops.zeros_like(slope))
    of_x, of_kernels, _ = native.call(
        f"{_NAME}_gradient", output_gradient, output, x_gradient, kernel_gradient, **attributes
    )
    return {"output_gradient": slope, "x": of_x, "kernels": of_kernels}
