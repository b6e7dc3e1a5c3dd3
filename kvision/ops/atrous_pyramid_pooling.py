"""Atrous pyramid pooling: convolutions of one map at several dilation rates, side by side.

Source: Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image
Segmentation", 2017, section 3.3.
"""

import functools
import itertools

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.arguments import is_int
from kvision.ops.operation import call_operation
from kvision.ops.taps import product_of_tap

_NAME = "atrous_pyramid_pooling"
_ACTIVATIONS = (None, "relu")
_MAX_BRANCHES = 16
_MAX_RATE = 2**31 - 1


def atrous_pyramid_pooling(x, kernels, *, dilation_rates, biases=None, activation=None):
    """Convolves a map with several kernels, each at its own dilation rate, into one result.

    Branch `n` is the convolution of `x` with `kernels[n]`, whose taps lie `dilation_rates[n]`
    pixels apart, of stride 1 and with zeros around the map. Its filters are channels of the
    result, behind those of the branches before it: the parallel branches of ASPP without its
    image pooling. A tap that falls off the map costs nothing.

    Gradients flow to `x`, `kernels` and `biases`.

    Args:
        x: Float tensor of shape `(batch, height, width, in_channels)`.
        kernels: List of at most 16 tensors of shape `(size, size, in_channels, filters)`, of the
            dtype of `x`, each of its own odd size and number of filters.
        dilation_rates: List of an int for each kernel, at least 1.
        biases: List of a tensor of shape `(filters,)` for each kernel, or `None`.
        activation: `"relu"`, or `None` for none.

    Returns:
        Tensor of shape `(batch, height, width, all filters)` of the dtype of `x`. Half types are
        accumulated in float32.

    Raises:
        ValueError: If an argument has a wrong value, or a tensor a wrong rank, size or dtype.
    """
    lists = {"kernels": kernels, "dilation_rates": dilation_rates, "biases": biases}
    for name, value in lists.items():
        if not isinstance(value, list | tuple) and not (name == "biases" and value is None):
            raise TypeError(f"{_NAME}: `{name}` must be a list. Received: {type(value).__name__}.")
    return call_operation(
        AtrousPyramidPoolingOperation,
        (x, list(kernels), None if biases is None else list(biases)),
        dilation_rates=tuple(dilation_rates),
        activation=activation,
    )


@keras.saving.register_keras_serializable("kvision")
class AtrousPyramidPoolingOperation(keras.Operation):
    """`atrous_pyramid_pooling` as a node of a functional model. Arguments as there."""

    def __init__(self, *, dilation_rates, activation=None, name=None):
        super().__init__(name=name)
        for rate in dilation_rates:
            if not is_int(rate) or not 1 <= rate <= _MAX_RATE:
                raise ValueError(
                    f"{_NAME}: `dilation_rates` must be ints between 1 and {_MAX_RATE}. "
                    f"Received: {list(dilation_rates)}."
                )
        if activation not in _ACTIVATIONS:
            raise ValueError(
                f"{_NAME}: `activation` must be one of {_ACTIVATIONS}. Received: {activation!r}."
            )
        self.dilation_rates = [int(rate) for rate in dilation_rates]
        self.activation = activation

    def call(self, x, kernels, biases=None):
        x = ops.convert_to_tensor(x)
        kernels = [ops.convert_to_tensor(kernel) for kernel in kernels]
        if biases is not None:
            biases = [ops.convert_to_tensor(bias) for bias in biases]
        self._check(x, kernels, biases)
        if biases is None:
            biases = [ops.zeros(kernel.shape[3:], x.dtype) for kernel in kernels]
        return (_native if native.use_native() else _reference)(
            x, kernels, biases, self.dilation_rates, self.activation
        )

    def compute_output_spec(self, x, kernels, biases=None):
        self._check(x, kernels, biases)
        filters = sum(kernel.shape[3] for kernel in kernels)
        return keras.KerasTensor((*x.shape[:3], filters), dtype=x.dtype)

    def _check(self, x, kernels, biases):
        lengths = [len(kernels), len(self.dilation_rates)]
        lengths += [] if biases is None else [len(biases)]
        if not 1 <= len(kernels) <= _MAX_BRANCHES or len(set(lengths)) > 1:
            raise ValueError(
                f"{_NAME}: `kernels`, `dilation_rates` and `biases` must have one element for each "
                f"branch, 1 to {_MAX_BRANCHES}. Received: {' and '.join(map(str, lengths))}."
            )
        if len(x.shape) != 4:
            raise ValueError(
                f"{_NAME}: `x` must have shape (batch, height, width, in_channels). "
                f"Received: {tuple(x.shape)}."
            )
        dtype = keras.backend.standardize_dtype(x.dtype)
        if dtype not in ("float16", "bfloat16", "float32", "float64"):
            raise ValueError(
                f"{_NAME}: `x` must be float16, bfloat16, float32 or float64. Received: {dtype}."
            )
        for index, kernel in enumerate(kernels):
            _check_kernel(index, kernel, x.shape[3], dtype)
        for index, bias in enumerate(biases or []):
            _check_bias(index, bias, kernels[index].shape[3], dtype)


def _check_kernel(index, kernel, in_channels, dtype):
    shape = tuple(kernel.shape)
    fits = len(shape) == 4 and None not in (shape[0], shape[3])
    fits = fits and shape[0] == shape[1] and shape[0] % 2 == 1
    if not fits or (None not in (in_channels, shape[2]) and in_channels != shape[2]):
        raise ValueError(
            f"{_NAME}: `kernels[{index}]` must have shape (size, size, in_channels, filters), size "
            f"odd and in_channels {in_channels}. Received: {shape}."
        )
    _check_dtype(f"kernels[{index}]", kernel, dtype)


def _check_bias(index, bias, filters, dtype):
    if tuple(bias.shape) != (filters,):
        raise ValueError(
            f"{_NAME}: `biases[{index}]` must have shape ({filters},). "
            f"Received: {tuple(bias.shape)}."
        )
    _check_dtype(f"biases[{index}]", bias, dtype)


def _check_dtype(name, tensor, dtype):
    found = keras.backend.standardize_dtype(tensor.dtype)
    if found != dtype:
        raise ValueError(f"{_NAME}: `{name}` must be {dtype}, as `x` is. Received: {found}.")


def _reference(x, kernels, biases, dilation_rates, activation):
    """`atrous_pyramid_pooling` in plain `keras.ops`, a product for every tap that finds the map."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    computed_in = "float64" if dtype == "float64" else "float32"
    x = ops.cast(x, computed_in)
    branches = []
    for kernel, bias, rate in zip(kernels, biases, dilation_rates, strict=True):
        kernel = ops.cast(kernel, computed_in)
        size = kernel.shape[0]
        branch = ops.zeros((*ops.shape(x)[:3], kernel.shape[3]), computed_in)
        for i, j in itertools.product(range(size), repeat=2):
            down, right = ((tap - size // 2) * rate for tap in (i, j))
            multiply = functools.partial(_multiply, weights=kernel[i, j])
            branch = branch + product_of_tap(multiply, x, down, right)
        branches.append(branch + ops.cast(bias, computed_in))
    output = ops.concatenate(branches, axis=-1)
    return ops.cast(ops.relu(output) if activation == "relu" else output, dtype)


def _multiply(x, weights):
    return ops.einsum("bhwc,cf->bhwf", x, weights)


def _native(x, kernels, biases, dilation_rates, activation):
    return native.call(
        _NAME,
        x,
        kernels,
        ops.concatenate(biases),
        dilation_rates=dilation_rates,
        relu=activation == "relu",
    )


# The three native ops without the ReLU are each other's derivatives.


@native.gradient("atrous_pyramid_pooling", keeps=("x", "kernels", "output"))
def _gradient(call, output_gradient):
    if call.attributes["relu"]:
        zero = ops.zeros((), output_gradient.dtype)
        output_gradient = ops.where(call.tensors["output"] > 0, output_gradient, zero)
    return {
        "x": _to_x(call, call.tensors["kernels"], output_gradient),
        "kernels": _to_kernels(call, call.tensors["x"], output_gradient, call.shapes["kernels"]),
        "biases": _to_biases(output_gradient),
    }


@native.gradient("atrous_pyramid_pooling_gradient", keeps=("kernels", "output_gradient"))
def _gradient_of_x_gradient(call, x_gradient):
    output_gradient = call.tensors["output_gradient"]
    return {
        "kernels": _to_kernels(call, x_gradient, output_gradient, call.shapes["kernels"]),
        "output_gradient": _to_output(call, x_gradient, call.tensors["kernels"]),
    }


@native.gradient("atrous_pyramid_pooling_kernel_gradient", keeps=("x", "output_gradient"))
def _gradient_of_kernel_gradient(call, kernel_gradients):
    kernel_gradients = list(kernel_gradients)
    return {
        "x": _to_x(call, kernel_gradients, call.tensors["output_gradient"]),
        "output_gradient": _to_output(call, call.tensors["x"], kernel_gradients),
    }


def _to_x(call, kernels, output_gradient):
    return native.call(
        "atrous_pyramid_pooling_gradient",
        list(kernels),
        output_gradient,
        dilation_rates=call.attributes["dilation_rates"],
    )


def _to_kernels(call, x, output_gradient, kernel_shapes):
    return native.call(
        "atrous_pyramid_pooling_kernel_gradient",
        x,
        output_gradient,
        dilation_rates=call.attributes["dilation_rates"],
        kernel_shapes=kernel_shapes,
    )


def _to_biases(output_gradient):
    dtype = keras.backend.standardize_dtype(output_gradient.dtype)
    summed = ops.cast(output_gradient, "float64" if dtype == "float64" else "float32")
    return ops.cast(ops.sum(summed, axis=(0, 1, 2)), dtype)


def _to_output(call, x, kernels):
    filters = sum(kernel.shape[3] for kernel in kernels)
    return native.call(
        _NAME,
        x,
        list(kernels),
        ops.zeros((filters,), x.dtype),
        dilation_rates=call.attributes["dilation_rates"],
        relu=False,
    )
