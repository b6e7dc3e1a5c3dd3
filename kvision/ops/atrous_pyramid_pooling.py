"""Atrous pyramid pooling: convolutions of one map at several dilation rates, side by side.

Source: Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image
Segmentation", 2017, section 3.3.
"""

import functools
import itertools

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.atrous_branches import AtrousBranches, call_branches, product_of_tap

_NAME = "atrous_pyramid_pooling"


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
        TypeError: If kernels, rates or biases are no lists.
        ValueError: If an argument has a wrong value, or a tensor a wrong rank, size or dtype.
    """
    return call_branches(
        AtrousPyramidPoolingOperation, x, kernels, dilation_rates, biases, activation
    )


@keras.saving.register_keras_serializable("kvision")
class AtrousPyramidPoolingOperation(AtrousBranches):
    """`atrous_pyramid_pooling` as a node of a functional model. Arguments as there."""

    op = _NAME

    def check_kernel(self, name, shape, x_shape):
        channels = x_shape[3]
        fits = len(shape) == 4 and None not in (shape[0], shape[3])
        fits = fits and shape[0] == shape[1] and shape[0] % 2 == 1
        if not fits or (None not in (channels, shape[2]) and channels != shape[2]):
            raise ValueError(
                f"{_NAME}: `{name}` must have shape (size, size, in_channels, filters), size odd "
                f"and in_channels {channels}. Received: {shape}."
            )

    def filters(self, x, kernels):
        return [kernel.shape[3] for kernel in kernels]

    def native(self, x, kernels, biases, dilation_rates, activation):
        return native.call(
            _NAME,
            x,
            kernels,
            ops.concatenate(_or_zeros(biases, x, kernels)),
            dilation_rates=dilation_rates,
            relu=activation == "relu",
        )

    def reference(self, x, kernels, biases, dilation_rates, activation):
        """A product for every tap that finds the map."""
        biases = _or_zeros(biases, x, kernels)
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


def _or_zeros(biases, x, kernels):
    if biases is not None:
        return biases
    return [ops.zeros(kernel.shape[3:], x.dtype) for kernel in kernels]


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
