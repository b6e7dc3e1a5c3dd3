"""Depthwise atrous pyramid pooling: depthwise atrous convolutions of one input, side by side.

Source: Chen, Zhu, Papandreou, Schroff, Adam, "Encoder-Decoder with Atrous Separable Convolution for
Semantic Image Segmentation", 2018, section 3.1.
"""

import functools

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.atrous_branches import AtrousBranches, call_branches, product_of_tap

_NAME = "depthwise_atrous_pyramid_pooling"
_MAX_KERNEL_SIZE = 63  # of the native kernel; the reference keeps to it too
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
    return call_branches(
        DepthwiseAtrousPyramidPoolingOperation, x, kernels, dilation_rates, biases, activation
    )


@keras.saving.register_keras_serializable("kvision")
class DepthwiseAtrousPyramidPoolingOperation(AtrousBranches):
    """`depthwise_atrous_pyramid_pooling` as a node of a functional model. Arguments as there."""

    op = _NAME

    def check_kernel(self, name, shape, x_shape):
        channels = x_shape[3]
        fits = len(shape) == 4 and shape[3] in (1, None) and None not in shape[:2]
        fits = fits and shape[0] == shape[1] and shape[0] % 2 == 1 and shape[0] <= _MAX_KERNEL_SIZE
        if not fits or (None not in (channels, shape[2]) and channels != shape[2]):
            raise ValueError(
                f"{_NAME}: `{name}` must have shape (size, size, channels, 1), size odd and at "
                f"most {_MAX_KERNEL_SIZE}, and channels {channels}. Received: {shape}."
            )

    def filters(self, x, kernels):
        return [x.shape[3]] * len(kernels)

    def native(self, x, kernels, biases, dilation_rates, activation):
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

    def reference(self, x, kernels, biases, dilation_rates, activation):
        """A product for every tap.

        Not by `keras.ops.depthwise_conv`: TensorFlow has it of no empty tensor and of no
        unknown number of channels, and pads by the rate.
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
