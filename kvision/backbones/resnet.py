"""Residual networks (He, Zhang, Ren, Sun, CVPR 2016) as pyramid backbones."""

import keras
from keras import layers

from kvision.backbones.backbone import Backbone
from kvision.backbones.parts import Parts


@keras.saving.register_keras_serializable("kvision")
class ResNet(Backbone):
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
        multi_grid: Factors on the dilation of the blocks of stage 5, taken in turn: (1, 2, 4) in
            DeepLab v3 (Chen, Papandreou, Schroff, Adam, 2017), which needs a smaller output
            stride. With it the first block dilates as the others do; without it, None, that block
            reads what the network of output stride 32 reads.
        normalization: `"batch"`, `"frozen_batch"` (constant statistics and affine weights, for
            weights trained elsewhere) or `"group"` (for training from scratch in small batches;
            Wu and He, ECCV 2018; as many groups of equal size, of two channels or more, as there
            can be up to 32).
        epsilon: Added to the variance by each normalisation, at least 0.
        frozen_stages: How many of the first stages, 0 to 5, are not trainable; their batch
            normalisations keep their statistics too. 2 is usual in detection.
        normalize_pixels: Whether the images are first standardised by ImageNet's mean and
            standard deviation of each channel, (123.675, 116.28, 103.53) and
            (58.395, 57.12, 57.375). Without it they go to the convolutions as they come. A name
            chooses another convention: `"caffe"` (BGR minus the means (103.939, 116.779, 123.68),
            as keras.applications' ResNets have it) or `"inception"` (-1..1).
        dtype: Dtype policy of the layers; Keras' global one by default. Pixels are standardised
            in float32 under each.
        name: Name of the model.

    Attributes:
        feature_specs: `FeatureSpec` of every output level, finest first.
        smallest_image: Shortest side of an image, in pixels, of which no map is empty.

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
        multi_grid=None,
        normalization="batch",
        epsilon=1e-5,
        frozen_stages=0,
        normalize_pixels=True,
        dtype=None,
        name=None,
    ):
        parts = Parts(
            "ResNet",
            output_stride=output_stride,
            normalization=normalization,
            epsilon=epsilon,
            frozen_stages=frozen_stages,
            normalize_pixels=normalize_pixels,
            pixel_convention="imagenet",
            dtype=dtype,
        )
        parts.check_choice("block", block, ("basic", "bottleneck"))
        parts.check_choice("version", version, ("v1", "v1.5"))
        if len(depths) != 4 or len(widths) != 4:
            raise ValueError(
                "ResNet: `depths` and `widths` must have one value for each of the stages 2 to 5. "
                f"Received: depths={depths}, widths={widths}."
            )
        if multi_grid is not None and output_stride == 32:
            raise ValueError(
                "ResNet: `multi_grid` multiplies the dilation of stage 5, which an output stride "
                f"of 32 has not. Received: multi_grid={multi_grid}, output_stride=32."
            )

        images, x = parts.images()
        x = parts.conv_norm(x, widths[0], 7, strides=2, names=("stage1_conv", "stage1_norm"))
        x = parts.relu(x, "stage1_relu")
        x = layers.ZeroPadding2D(1, dtype=parts.policy, name="stage1_pool_pad")(x)
        x = parts.max_pool(x, 3, strides=2, padding="valid", name="stage1_pool")

        add_block = _bottleneck_block if block == "bottleneck" else _basic_block
        pyramid, level_strides = {}, {}
        stride, dilation = 4, 1
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=2):
            for index in range(depth):
                halves = stage > 2 and index == 0
                strides, dilations = 1, (dilation, dilation)
                if halves:
                    strides, stride, dilation = parts.halve(stride, dilation)
                    dilations = (dilations[0], dilation)
                if stage == 5 and multi_grid is not None:
                    dilations = (dilation * multi_grid[index % len(multi_grid)],) * 2
                x = add_block(
                    parts,
                    x,
                    width,
                    strides=strides,
                    dilations=dilations,
                    version=version,
                    projects=halves,
                    prefix=f"stage{stage}_block{index}_",
                )
            pyramid[f"P{stage}"] = x
            level_strides[f"P{stage}"] = stride

        super().__init__(parts, images, pyramid, level_strides, name=name)
        self.depths = tuple(depths)
        self.block = block
        self.widths = tuple(widths)
        self.version = version
        self.multi_grid = None if multi_grid is None else tuple(multi_grid)

    def get_config(self):
        return {
            "depths": list(self.depths),
            "block": self.block,
            "widths": list(self.widths),
            "version": self.version,
            "multi_grid": self.multi_grid and list(self.multi_grid),
            **super().get_config(),
        }


def _basic_block(parts, inputs, width, *, strides, dilations, version, projects, prefix):
    """Two 3x3 convolutions; the first strides."""
    del version
    names = [(f"{prefix}conv{i}", f"{prefix}norm{i}") for i in (1, 2)]
    x = parts.conv_norm(inputs, width, 3, strides=strides, dilation=dilations[0], names=names[0])
    x = parts.relu(x, f"{prefix}relu1")
    x = parts.conv_norm(x, width, 3, dilation=dilations[1], names=names[1])
    return _residual(parts, x, inputs, prefix, strides=strides, projects=projects)


def _bottleneck_block(parts, inputs, width, *, strides, dilations, version, projects, prefix):
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
    return _residual(parts, x, inputs, prefix, strides=strides, projects=projects)


def _residual(parts, x, shortcut, prefix, *, strides, projects):
    """Sum with the shortcut, projected where resolution or channels change, then ReLU."""
    if projects or shortcut.shape[-1] != x.shape[-1]:
        names = (f"{prefix}shortcut_conv", f"{prefix}shortcut_norm")
        shortcut = parts.conv_norm(shortcut, x.shape[-1], 1, strides=strides, names=names)
    x = parts.add([shortcut, x], f"{prefix}add")
    return parts.relu(x, f"{prefix}relu")


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
