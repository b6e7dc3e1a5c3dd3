"""The arguments that all families share, and the layers they are made of."""

import functools

import keras
from keras import layers, ops

from kvision.backbones.pixels import CONVENTIONS, normalize_pixels
from kvision.layers import BatchNormalization, FrozenBatchNormalization

FREEZABLE_STAGES = 5
# oneDNN, at least up to TensorFlow 2.21, writes past its memory in the filter gradient of a strided
# 1x1 convolution whose input has fewer channels than a vector register has floats (its issue 6035).
FEW_CHANNELS = 16


class Parts:
    """Makes the layers of a backbone from the arguments that all families share.

    Every kernel starts from He's normal distribution by fan-out, normalisations from the identity.
    Moving averages have momentum 0.9, as in torchvision.

    Args:
        family: Name of the class, for error messages.
        output_stride: 8, 16 or 32.
        normalization: `"batch"`, `"frozen_batch"`, `"group"`, or None where `normalizations`
            allows it.
        epsilon: Added to the variance by each normalisation.
        frozen_stages: How many of the first stages are not trainable, 0 to 5.
        normalize_pixels: True for the family's own convention, False for none, or one's name.
        pixel_convention: The family's own convention.
        dtype: Dtype policy, or None for the global one.
        normalizations: What `normalization` may be.
        max_activation: Where ReLU is cut off, or None.

    Raises:
        ValueError: For an argument out of its range.
    """

    def __init__(
        self,
        family,
        *,
        output_stride,
        normalization,
        epsilon,
        frozen_stages,
        normalize_pixels,
        pixel_convention,
        dtype,
        normalizations=("batch", "frozen_batch", "group"),
        max_activation=None,
    ):
        self.family = family
        self.check_choice("output_stride", output_stride, (8, 16, 32))
        self.check_choice("normalization", normalization, normalizations)
        self.check_choice("frozen_stages", frozen_stages, range(FREEZABLE_STAGES + 1))
        self.check_choice("normalize_pixels", normalize_pixels, (True, False, *CONVENTIONS))
        self.output_stride = output_stride
        self.normalization = normalization
        self.epsilon = epsilon
        self.frozen_stages = frozen_stages
        self.normalize_pixels = normalize_pixels
        self.policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        self._convention = pixel_convention if normalize_pixels is True else normalize_pixels
        self._max_activation = max_activation

    def check_choice(self, argument, value, choices):
        """Raises a ValueError unless `value` is one of `choices`."""
        if value not in choices:
            raise ValueError(
                f"{self.family}: `{argument}` must be one of {list(choices)}. Received: {value!r}."
            )

    def check_positive(self, argument, value):
        """Raises a ValueError unless `value` is above 0."""
        if value <= 0:
            raise ValueError(f"{self.family}: `{argument}` must be positive. Received: {value!r}.")

    def halve(self, stride, dilation):
        """What becomes of a layer that halves the resolution: it strides, or what follows dilates.

        Args:
            stride: Stride of the layer's input.
            dilation: Dilation so far, with which the layer itself reads its input.

        Returns:
            The layer's strides, then stride and dilation of its output.
        """
        if stride < self.output_stride:
            return 2, 2 * stride, dilation
        return 1, stride, 2 * dilation

    def images(self):
        """Input of images, and what the first convolution reads."""
        images = keras.Input((None, None, 3), name="images")
        if not self._convention:
            return images, images
        return images, normalize_pixels(images, self._convention)

    def conv_norm(
        self,
        x,
        filters,
        kernel_size,
        *,
        names,
        strides=1,
        dilation=1,
        padding="symmetric",
        use_bias=False,
    ):
        """Convolution and normalisation.

        `names` are those of the two layers. `padding` is `"symmetric"` (half the kernel's extent on
        every side), `"same"` (TensorFlow's: of an even map that is halved, the far sides alone) or
        `"valid"`.
        """
        conv_name, norm_name = names
        if kernel_size == 1 and strides > 1 and x.shape[-1] < FEW_CHANNELS:
            # The same numbers; with more channels slicing would only cost time.
            x, strides = x[:, ::strides, ::strides], 1
        x, padding = self._pad(x, kernel_size, strides, dilation, padding, conv_name)
        x = layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            dilation_rate=dilation,
            use_bias=use_bias,
            kernel_initializer=_he(),
            dtype=self.policy,
            name=conv_name,
        )(x)
        return self.norm(x, norm_name)

    def depthwise(self, x, kernel_size, *, name, strides=1, dilation=1, padding="symmetric"):
        """Depthwise convolution, padded as in `conv_norm`."""
        x, padding = self._pad(x, kernel_size, strides, dilation, padding, name)
        return layers.DepthwiseConv2D(
            kernel_size,
            strides=strides,
            padding=padding,
            dilation_rate=dilation,
            use_bias=False,
            depthwise_initializer=_he(),
            dtype=self.policy,
            name=name,
        )(x)

    def depthwise_norm(self, x, kernel_size, *, names, **kwargs):
        """Depthwise convolution and normalisation, of the two `names`."""
        return self.norm(self.depthwise(x, kernel_size, name=names[0], **kwargs), names[1])

    def _pad(self, x, kernel_size, strides, dilation, padding, name):
        """The input padded as far as the layer cannot do it, and the layer's own padding."""
        if padding != "symmetric":
            return x, padding
        if strides == 1 or kernel_size == 1:
            return x, "same"  # symmetric without strides
        extent = dilation * (kernel_size // 2)
        return layers.ZeroPadding2D(extent, dtype=self.policy, name=f"{name}_pad")(x), "valid"

    def norm(self, x, name):
        """Normalisation of the kind that was asked for."""
        if self.normalization is None:
            return x
        shared = {"epsilon": self.epsilon, "dtype": self.policy, "name": name}
        if self.normalization == "batch":
            layer = BatchNormalization(momentum=0.9, **shared)
        elif self.normalization == "frozen_batch":
            layer = FrozenBatchNormalization(**shared)
        else:
            layer = layers.GroupNormalization(_num_groups(x.shape[-1]), **shared)
        return layer(x)

    def relu(self, x, name):
        """ReLU, cut off where the family does."""
        return layers.ReLU(self._max_activation, dtype=self.policy, name=name)(x)

    def add(self, tensors, name):
        """Sum of two maps."""
        return layers.Add(dtype=self.policy, name=name)(tensors)

    def max_pool(self, x, size, *, name, strides=1, dilation=1, padding="same"):
        """Max-pooling; without strides its windows' cells may lie `dilation` apart."""
        if dilation == 1 or strides > 1:
            return layers.MaxPooling2D(size, strides, padding, dtype=self.policy, name=name)(x)
        extent = dilation * (size - 1)
        before = dilation * ((size - 1) // 2)
        borders = ((before, extent - before),) * 2
        x = ops.pad(x, ((0, 0), *borders, (0, 0)), constant_values=-float("inf"))
        shifts = [slice(start, start - extent or None) for start in range(0, extent + 1, dilation)]
        x = functools.reduce(ops.maximum, [x[:, shift] for shift in shifts])
        return functools.reduce(ops.maximum, [x[:, :, shift] for shift in shifts])


def _he():
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def _num_groups(channels):
    """The most groups of equal size, at most 32, that have two channels each where that can be."""
    most = max(1, min(32, channels // 2))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def multiple_of_8(channels):
    """The nearest multiple of 8, at least 8, that is no more than a tenth smaller."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
