"""Residual networks (He, Zhang, Ren, Sun, CVPR 2016) as pyramid backbones."""

import keras
from keras import layers

from kvision.layers import FeatureSpec, FrozenBatchNormalization
from kvision.layers.freezing import frozen_layers, make_frozen

_PIXEL_MEAN = (123.675, 116.28, 103.53)
_PIXEL_STDDEV = (58.395, 57.12, 57.375)
_FREEZABLE_STAGES = 5
# oneDNN, at least up to TensorFlow 2.21, writes past its memory in the filter gradient of a strided
# 1x1 convolution whose input has fewer channels than a vector register has floats (its issue 6035).
_FEW_CHANNELS = 16


@keras.saving.register_keras_serializable("kvision")
class ResNet(keras.Model):
    """Residual network giving a pyramid of feature maps.

    Stage 1 is a 7x7 convolution of stride 2 and a 3x3 max-pooling of stride 2; stages 2 to 5 are
    residual blocks and end in the levels P2 to P5. Every convolution is padded symmetrically, so
    a map's cells lie where a padded convolution of PyTorch puts them. Weights start from
    He's normal distribution by fan-out, normalisations from the identity.

    Input: `(B, H, W, 3)` RGB images, 0..255, any real or uint8 dtype.
    Output: `{"P2": (B, H/4, W/4, C2), ..., "P5": (B, H/s, W/s, C5)}`, sizes rounded up, `s` being
    `output_stride`.

    Args:
        depths: Number of blocks of the stages 2 to 5.
        block: `"basic"`, two 3x3 convolutions, or `"bottleneck"`, 1x1, 3x3, 1x1 with four times
            as many channels at its end.
        widths: Channels of the 3x3 convolutions of the stages 2 to 5; the first of them is also
            the width of stage 1.
        version: Where a bottleneck has its stride: `"v1"`, the paper's, in the first 1x1
            convolution; `"v1.5"`, torchvision's, in the 3x3. The weights have the same shapes
            but are not interchangeable. Of no effect on basic blocks.
        output_stride: 32, or 16 or 8: the last one or two stages then dilate instead of striding.
        normalization: `"batch"`, `"frozen_batch"` (constant statistics and affine weights, for
            weights trained elsewhere) or `"group"` (for training from scratch in small batches;
            Wu and He, ECCV 2018; as many groups of equal size, of two channels or more, as there
            can be up to 32).
        epsilon: Added to the variance by each normalisation, at least 0.
        frozen_stages: How many of the first stages, 0 to 5, are not trainable; their batch
            normalisations keep their statistics too. 2 is usual in detection.
        normalize_pixels: Whether the images are first standardised by ImageNet's mean and
            standard deviation of each channel, (123.675, 116.28, 103.53) and
            (58.395, 57.12, 57.375). Without it they go to the convolutions as they come.
        dtype: Dtype policy of the layers; Keras' global one by default. Pixels are standardised
            in float32 under each.
        name: Name of the model.

    Attributes:
        feature_specs: `FeatureSpec` of every output level, finest first.

    Raises:
        ValueError: For an argument out of its range.
    """

    def __init__(
        self,
        depths,
        *,
        block="bottleneck",
        widths=(64, 128, 256, 512),
        version="v1",
        output_stride=32,
        normalization="batch",
        epsilon=1e-5,
        frozen_stages=0,
        normalize_pixels=True,
        dtype=None,
        name=None,
    ):
        _check_choice("block", block, ("basic", "bottleneck"))
        _check_choice("version", version, ("v1", "v1.5"))
        _check_choice("output_stride", output_stride, (8, 16, 32))
        _check_choice("normalization", normalization, ("batch", "frozen_batch", "group"))
        _check_choice("frozen_stages", frozen_stages, range(_FREEZABLE_STAGES + 1))
        if len(depths) != 4 or len(widths) != 4:
            raise ValueError(
                "ResNet: `depths` and `widths` must have one value for each of the stages 2 to 5. "
                f"Received: depths={depths}, widths={widths}."
            )
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        parts = _Parts(normalization, epsilon, policy)

        images = keras.Input((None, None, 3), name="images")
        x = images
        if normalize_pixels:
            x = layers.Rescaling(
                scale=[1 / stddev for stddev in _PIXEL_STDDEV],
                offset=[-mean / s for mean, s in zip(_PIXEL_MEAN, _PIXEL_STDDEV, strict=True)],
                dtype="float32",
                name="pixel_normalization",
            )(x)
        x = parts.conv_norm(x, widths[0], 7, strides=2, names=("stage1_conv", "stage1_norm"))
        x = parts.relu(x, "stage1_relu")
        x = layers.ZeroPadding2D(1, dtype=policy, name="stage1_pool_pad")(x)
        x = layers.MaxPooling2D(3, 2, dtype=policy, name="stage1_pool")(x)

        add_block = _bottleneck_block if block == "bottleneck" else _basic_block
        pyramid, specs = {}, {}
        stride, dilation = 4, 1
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=2):
            for index in range(depth):
                stage_strides, next_dilation = 1, dilation
                if stage > 2 and index == 0:
                    if stride < output_stride:
                        stage_strides, stride = 2, stride * 2
                    else:
                        next_dilation = dilation * 2
                x = add_block(
                    parts,
                    x,
                    width,
                    strides=stage_strides,
                    dilations=(dilation, next_dilation),
                    version=version,
                    prefix=f"stage{stage}_block{index}_",
                )
                dilation = next_dilation
            pyramid[f"P{stage}"] = x
            specs[f"P{stage}"] = FeatureSpec(x.shape[-1], stride)

        super().__init__(inputs=images, outputs=pyramid, name=name)
        self.autocast = False
        self.feature_specs = specs
        self.depths = tuple(depths)
        self.block = block
        self.widths = tuple(widths)
        self.version = version
        self.output_stride = output_stride
        self.normalization = normalization
        self.epsilon = epsilon
        self.frozen_stages = frozen_stages
        self.normalize_pixels = normalize_pixels
        self._policy = policy
        frozen_prefixes = tuple(f"stage{stage}_" for stage in range(1, frozen_stages + 1))
        for layer in self.layers:
            if layer.name.startswith(frozen_prefixes):
                layer.trainable = False

    def get_config(self):
        return {
            "depths": list(self.depths),
            "block": self.block,
            "widths": list(self.widths),
            "version": self.version,
            "output_stride": self.output_stride,
            "normalization": self.normalization,
            "epsilon": self.epsilon,
            "frozen_stages": self.frozen_stages,
            "normalize_pixels": self.normalize_pixels,
            "dtype": keras.dtype_policies.serialize(self._policy),
            "name": self.name,
            "frozen_layers": frozen_layers(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return make_frozen(cls, config)


class _Parts:
    """The layers that all blocks are made of."""

    def __init__(self, normalization, epsilon, dtype):
        self.normalization = normalization
        self.epsilon = epsilon
        self.dtype = dtype

    def conv_norm(self, x, filters, kernel_size, *, names, strides=1, dilation=1):
        """Convolution padded by half its extent on every side, then normalisation."""
        conv_name, norm_name = names
        if kernel_size == 1 and strides > 1 and x.shape[-1] < _FEW_CHANNELS:
            # The same numbers; with more channels slicing would only cost time.
            x, strides = x[:, ::strides, ::strides], 1
        padding = "same"
        if strides > 1 and kernel_size > 1:
            padding = "valid"
            extent = dilation * (kernel_size // 2)
            x = layers.ZeroPadding2D(extent, dtype=self.dtype, name=f"{conv_name}_pad")(x)
        x = layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            dilation_rate=dilation,
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(
                2.0, "fan_out", "untruncated_normal"
            ),
            dtype=self.dtype,
            name=conv_name,
        )(x)
        return self._norm(filters, norm_name)(x)

    def _norm(self, channels, name):
        shared = {"epsilon": self.epsilon, "dtype": self.dtype, "name": name}
        if self.normalization == "batch":
            return layers.BatchNormalization(momentum=0.9, **shared)
        if self.normalization == "frozen_batch":
            return FrozenBatchNormalization(**shared)
        return layers.GroupNormalization(_num_groups(channels), **shared)

    def relu(self, x, name):
        return layers.ReLU(dtype=self.dtype, name=name)(x)

    def residual(self, x, shortcut, prefix, *, strides, dilations):
        """Sum with the shortcut, projected where resolution or channels change, then ReLU."""
        resampled = strides > 1 or dilations[0] != dilations[1]
        if resampled or shortcut.shape[-1] != x.shape[-1]:
            names = (f"{prefix}shortcut_conv", f"{prefix}shortcut_norm")
            shortcut = self.conv_norm(shortcut, x.shape[-1], 1, strides=strides, names=names)
        x = layers.Add(dtype=self.dtype, name=f"{prefix}add")([shortcut, x])
        return self.relu(x, f"{prefix}relu")


def _basic_block(parts, inputs, width, *, strides, dilations, version, prefix):
    """Two 3x3 convolutions; the first strides."""
    del version
    names = [(f"{prefix}conv{i}", f"{prefix}norm{i}") for i in (1, 2)]
    x = parts.conv_norm(inputs, width, 3, strides=strides, dilation=dilations[0], names=names[0])
    x = parts.relu(x, f"{prefix}relu1")
    x = parts.conv_norm(x, width, 3, dilation=dilations[1], names=names[1])
    return parts.residual(x, inputs, prefix, strides=strides, dilations=dilations)


def _bottleneck_block(parts, inputs, width, *, strides, dilations, version, prefix):
    """1x1 reduction, 3x3, 1x1 expansion to four times the width.

    Where a stride was replaced by dilation, only the convolutions after it dilate further: the
    3x3 itself keeps the former dilation if it is the one that would have strided.
    """
    names = [(f"{prefix}conv{i}", f"{prefix}norm{i}") for i in (1, 2, 3)]
    first, second = (strides, 1) if version == "v1" else (1, strides)
    dilation = dilations[1] if version == "v1" else dilations[0]
    x = parts.conv_norm(inputs, width, 1, strides=first, names=names[0])
    x = parts.relu(x, f"{prefix}relu1")
    x = parts.conv_norm(x, width, 3, strides=second, dilation=dilation, names=names[1])
    x = parts.relu(x, f"{prefix}relu2")
    x = parts.conv_norm(x, 4 * width, 1, names=names[2])
    return parts.residual(x, inputs, prefix, strides=strides, dilations=dilations)


def _num_groups(channels):
    """The most groups of equal size, at most 32, that have two channels each where that can be."""
    most = max(1, min(32, channels // 2))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def _check_choice(argument, value, choices):
    if value not in choices:
        raise ValueError(
            f"ResNet: `{argument}` must be one of {list(choices)}. Received: {value!r}."
        )


def ResNet18(**kwargs):
    """ResNet-18: basic blocks (2, 2, 2, 2).

    Args:
        **kwargs: Of `ResNet`, but `depths`, `block` and `widths`.

    Returns:
        A `ResNet`.
    """
    return ResNet((2, 2, 2, 2), block="basic", **{"name": "resnet18", **kwargs})


def ResNet34(**kwargs):
    """ResNet-34: basic blocks (3, 4, 6, 3).

    Args:
        **kwargs: Of `ResNet`, but `depths`, `block` and `widths`.

    Returns:
        A `ResNet`.
    """
    return ResNet((3, 4, 6, 3), block="basic", **{"name": "resnet34", **kwargs})


def ResNet50(**kwargs):
    """ResNet-50: bottleneck blocks (3, 4, 6, 3).

    Args:
        **kwargs: Of `ResNet`, but `depths`, `block` and `widths`.

    Returns:
        A `ResNet`.
    """
    return ResNet((3, 4, 6, 3), block="bottleneck", **{"name": "resnet50", **kwargs})


def ResNet101(**kwargs):
    """ResNet-101: bottleneck blocks (3, 4, 23, 3).

    Args:
        **kwargs: Of `ResNet`, but `depths`, `block` and `widths`.

    Returns:
        A `ResNet`.
    """
    return ResNet((3, 4, 23, 3), block="bottleneck", **{"name": "resnet101", **kwargs})


def ResNet152(**kwargs):
    """ResNet-152: bottleneck blocks (3, 8, 36, 3).

    Args:
        **kwargs: Of `ResNet`, but `depths`, `block` and `widths`.

    Returns:
        A `ResNet`.
    """
    return ResNet((3, 8, 36, 3), block="bottleneck", **{"name": "resnet152", **kwargs})


def ResNetTiny(**kwargs):
    """One basic block a stage, half of ResNet-18's widths: 1.2 million parameters.

    No published network; small enough to train from scratch on a CPU in minutes.

    Args:
        **kwargs: Of `ResNet`, but `depths`, `block` and `widths`.

    Returns:
        A `ResNet`.
    """
    return ResNet(
        (1, 1, 1, 1),
        block="basic",
        widths=(32, 64, 128, 256),
        **{"name": "resnet_tiny", **kwargs},
    )
