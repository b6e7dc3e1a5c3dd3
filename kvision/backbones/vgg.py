"""VGG networks (Simonyan and Zisserman, ICLR 2015) as pyramid backbones."""

import keras

from kvision.backbones.backbone import Backbone
from kvision.backbones.parts import Parts


@keras.saving.register_keras_serializable("kvision")
class VGG(Backbone):
    """3x3 convolutions with ReLU in five stages, each followed by a 2x2 max-pooling.

    Stage n ends in level P(n-1), the map before its pooling; P5 is what the last pooling gives.
    Sizes are rounded down, as pooling drops an odd last row or column. A pooling that does not
    stride takes its maxima at every position, of cells as far apart as the dilation of the
    convolutions after it; so the network of any output stride computes the same function of the
    pixels, at more positions.

    Input: `(B, H, W, 3)` RGB images, 0..255, any real or uint8 dtype.
    Output: `{"P0": (B, H, W, C1), "P1": (B, H/2, W/2, C2), ..., "P4": (B, H/16, W/16, C5),
    "P5": (B, H/32, W/32, C5)}`, no stride larger than `output_stride`.

    Args:
        depths: Number of convolutions of the stages 1 to 5.
        widths: Channels of the stages 1 to 5.
        output_stride: 32, or 16 or 8: the last one or two poolings then do not stride, and what
            follows dilates.
        normalization: None as published, or `"batch"` (torchvision's networks of names in `_bn`),
            `"frozen_batch"` (constant statistics and affine weights) or `"group"`, between
            convolution and ReLU. The convolutions have biases with and without.
        epsilon: Added to the variance by each normalisation, at least 0.
        frozen_stages: How many of the first stages, 0 to 5, are not trainable; their batch
            normalisations keep their statistics too.
        normalize_pixels: Whether the images are first standardised by ImageNet's mean and
            standard deviation of each channel, (123.675, 116.28, 103.53) and
            (58.395, 57.12, 57.375), as in torchvision. Without it they go to the convolutions as
            they come. A name chooses another convention: `"caffe"` (BGR minus the means
            (103.939, 116.779, 123.68), as published and in keras.applications) or `"inception"`
            (-1..1).
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
        widths=(64, 128, 256, 512, 512),
        output_stride=32,
        normalization=None,
        epsilon=1e-5,
        frozen_stages=0,
        normalize_pixels=True,
        dtype=None,
        name=None,
    ):
        parts = Parts(
            "VGG",
            output_stride=output_stride,
            normalization=normalization,
            normalizations=(None, "batch", "frozen_batch", "group"),
            epsilon=epsilon,
            frozen_stages=frozen_stages,
            normalize_pixels=normalize_pixels,
            pixel_convention="imagenet",
            dtype=dtype,
        )
        if len(depths) != 5 or len(widths) != 5:
            raise ValueError(
                "VGG: `depths` and `widths` must have one value for each of the stages 1 to 5. "
                f"Received: depths={depths}, widths={widths}."
            )
        images, x = parts.images()
        pyramid, level_strides = {}, {}
        stride, dilation = 1, 1
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            for index in range(1, depth + 1):
                prefix = f"stage{stage}_"
                names = (f"{prefix}conv{index}", f"{prefix}norm{index}")
                x = parts.conv_norm(x, width, 3, dilation=dilation, use_bias=True, names=names)
                x = parts.relu(x, f"{prefix}relu{index}")
            pyramid[f"P{stage - 1}"], level_strides[f"P{stage - 1}"] = x, stride
            pool_dilation = dilation
            strides, stride, dilation = parts.halve(stride, dilation)
            x = parts.max_pool(
                x,
                2,
                strides=strides,
                dilation=pool_dilation,
                padding="valid" if strides > 1 else "same",
                name=f"{prefix}pool",
            )
        pyramid["P5"], level_strides["P5"] = x, stride

        super().__init__(parts, images, pyramid, level_strides, smallest_image=stride, name=name)
        self.depths = tuple(depths)
        self.widths = tuple(widths)

    def get_config(self):
        return {
            "depths": list(self.depths),
            "widths": list(self.widths),
            **super().get_config(),
        }


def VGG11(**kwargs):
    """VGG-11, configuration A: (1, 1, 2, 2, 2) convolutions.

    Args:
        **kwargs: Of `VGG`, but `depths`.

    Returns:
        A `VGG`.
    """
    return VGG((1, 1, 2, 2, 2), **{"name": "vgg11", **kwargs})


def VGG13(**kwargs):
    """VGG-13, configuration B: (2, 2, 2, 2, 2) convolutions.

    Args:
        **kwargs: Of `VGG`, but `depths`.

    Returns:
        A `VGG`.
    """
    return VGG((2, 2, 2, 2, 2), **{"name": "vgg13", **kwargs})


def VGG16(**kwargs):
    """VGG-16, configuration D: (2, 2, 3, 3, 3) convolutions.

    Args:
        **kwargs: Of `VGG`, but `depths`.

    Returns:
        A `VGG`.
    """
    return VGG((2, 2, 3, 3, 3), **{"name": "vgg16", **kwargs})


def VGG19(**kwargs):
    """VGG-19, configuration E: (2, 2, 4, 4, 4) convolutions.

    Args:
        **kwargs: Of `VGG`, but `depths`.

    Returns:
        A `VGG`.
    """
    return VGG((2, 2, 4, 4, 4), **{"name": "vgg19", **kwargs})
