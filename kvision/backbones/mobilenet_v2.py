"""MobileNet v2 (Sandler, Howard, Zhu, Zhmoginov, Chen, CVPR 2018) as a pyramid backbone."""

import keras

from kvision.backbones.backbone import Backbone
from kvision.backbones.parts import Parts, multiple_of_8

# Stage, expansion, channels and number of the inverted residuals; the first of each stage halves.
_BLOCKS = (
    (1, 1, 16, 1),
    (2, 6, 24, 2),
    (3, 6, 32, 3),
    (4, 6, 64, 4),
    (4, 6, 96, 3),
    (5, 6, 160, 3),
    (5, 6, 320, 1),
)


@keras.saving.register_keras_serializable("kvision")
class MobileNetV2(Backbone):
    """Inverted residuals: 1x1 expansion, 3x3 depthwise convolution, linear 1x1 projection.

    Stage n ends in level Pn, a linear bottleneck, but for the last convolution of stage 5, which
    ReLU follows. All ReLUs are cut off at 6. Where stages dilate instead of striding, with
    symmetric padding, the network computes what it computes with output stride 32, at more
    positions; with `padding="same"` so it does only where the maps that no longer stride have odd
    sizes, as in images of `32 k + 1` pixels.

    Input: `(B, H, W, 3)` RGB images, 0..255, any real or uint8 dtype.
    Output: `{"P1": (B, H/2, W/2, 16), "P2": (B, H/4, W/4, 24), "P3": (B, H/8, W/8, 32),
    "P4": (B, H/16, W/16, 96), "P5": (B, H/s, W/s, 1280)}`, channels at `alpha=1`, sizes rounded up,
    `s` being `output_stride`.

    Args:
        alpha: Factor on all numbers of channels, which are rounded to multiples of 8; the last
            convolution has 1280 at least.
        last_filters: Channels of the last 1x1 convolution at `alpha` of at most 1; None leaves it
            away, as DeepLab does: P5 then has 320.
        padding: Of the layers that stride: `"symmetric"`, one cell on every side, torchvision's;
            or `"same"`, TensorFlow's and keras.applications', in even maps one cell on the far
            sides only. The weights have the same shapes but are not interchangeable.
        output_stride: 32, or 16 or 8: the last one or two stages then dilate instead of striding.
        normalization: `"batch"`, `"frozen_batch"` (constant statistics and affine weights, for
            weights trained elsewhere) or `"group"` (for training from scratch in small batches).
        epsilon: Added to the variance by each normalisation, at least 0. In keras.applications it
            is 1e-3.
        frozen_stages: How many of the first stages, 0 to 5, are not trainable; their batch
            normalisations keep their statistics too.
        normalize_pixels: Whether the images are first standardised by ImageNet's mean and
            standard deviation of each channel, (123.675, 116.28, 103.53) and
            (58.395, 57.12, 57.375), as in torchvision. Without it they go to the convolutions as
            they come. A name chooses another convention: `"inception"` (-1..1, as in
            keras.applications) or `"caffe"` (BGR minus the means (103.939, 116.779, 123.68)).
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
        *,
        alpha=1.0,
        last_filters=1280,
        padding="symmetric",
        output_stride=32,
        normalization="batch",
        epsilon=1e-5,
        frozen_stages=0,
        normalize_pixels=True,
        dtype=None,
        name="mobilenet_v2",
    ):
        parts = Parts(
            "MobileNetV2",
            output_stride=output_stride,
            normalization=normalization,
            epsilon=epsilon,
            frozen_stages=frozen_stages,
            normalize_pixels=normalize_pixels,
            pixel_convention="imagenet",
            dtype=dtype,
            max_activation=6.0,
        )
        parts.check_choice("padding", padding, ("symmetric", "same"))
        parts.check_positive("alpha", alpha)
        images, x = parts.images()
        names = ("stage1_conv", "stage1_norm")
        filters = multiple_of_8(32 * alpha)
        x = parts.conv_norm(x, filters, 3, strides=2, padding=padding, names=names)
        x = parts.relu(x, "stage1_relu")

        pyramid, level_strides = {}, {}
        stride, dilation, index = 2, 1, 0
        for stage, expansion, filters, count in _BLOCKS:
            for _ in range(count):
                strides, block_dilation = 1, dilation
                halves = stage > 1 and f"P{stage}" not in pyramid
                if halves:
                    strides, stride, dilation = parts.halve(stride, dilation)
                x = _inverted_residual(
                    parts,
                    x,
                    multiple_of_8(filters * alpha),
                    expansion=expansion,
                    strides=strides,
                    dilation=block_dilation,
                    padding=padding,
                    halves=halves,
                    prefix=f"stage{stage}_block{index}_",
                )
                pyramid[f"P{stage}"], level_strides[f"P{stage}"] = x, stride
                index += 1
        if last_filters is not None:
            names = ("stage5_conv", "stage5_norm")
            x = parts.conv_norm(x, multiple_of_8(last_filters * max(1, alpha)), 1, names=names)
            pyramid["P5"] = parts.relu(x, "stage5_relu")

        super().__init__(parts, images, pyramid, level_strides, name=name)
        self.alpha = alpha
        self.last_filters = last_filters
        self.padding = padding

    def get_config(self):
        return {
            "alpha": self.alpha,
            "last_filters": self.last_filters,
            "padding": self.padding,
            **super().get_config(),
        }


def _inverted_residual(
    parts, inputs, filters, *, expansion, strides, dilation, padding, halves, prefix
):
    """Summed with its input unless it halves the resolution, if need be by later dilation."""
    x = inputs
    if expansion > 1:
        names = (f"{prefix}expand_conv", f"{prefix}expand_norm")
        x = parts.conv_norm(x, expansion * x.shape[-1], 1, names=names)
        x = parts.relu(x, f"{prefix}expand_relu")
    names = (f"{prefix}depthwise_conv", f"{prefix}depthwise_norm")
    shared = {"strides": strides, "dilation": dilation, "padding": padding}
    x = parts.depthwise_norm(x, 3, **shared, names=names)
    x = parts.relu(x, f"{prefix}depthwise_relu")
    x = parts.conv_norm(x, filters, 1, names=(f"{prefix}project_conv", f"{prefix}project_norm"))
    if not halves and x.shape[-1] == inputs.shape[-1]:
        return parts.add([inputs, x], f"{prefix}add")
    return x
