"""Xception (Chollet, CVPR 2017) and its aligned form of DeepLab v3+, as pyramid backbones."""

import keras

from kvision.backbones.backbone import Backbone
from kvision.backbones.parts import Parts, multiple_of_8

_STEM_FILTERS = (32, 64)
# Stage -> channels of the first two separable convolutions of the block that halves.
_HALVING_FILTERS = {2: (128, 128), 3: (256, 256), 4: (728, 728), 5: (728, 1024)}
_MIDDLE_CONVOLUTIONS = 3
_SMALLEST_UNPADDED = 7
_EXIT_FILTERS = (1536, 2048)
_ALIGNED_EXIT_FILTERS = (1536, 1536, 2048)


@keras.saving.register_keras_serializable("kvision")
class Xception(Backbone):
    """Depthwise separable convolutions in residual blocks.

    Stage 1 are two convolutions; each of the stages 2 to 5 begins with a block that halves the
    resolution. The levels P1 to P4 are the last maps of their resolution, which in these blocks
    come after the second separable convolution: normalised, and without ReLU.

    The published network, which keras.applications has, does not pad its first two convolutions:
    P1 has `(H - 5) // 2` rows, and each level half of the last, rounded up. It halves by
    max-pooling with TensorFlow's padding `"same"`, in even maps one cell on the far sides only.
    The aligned one (Chen, Zhu, Papandreou, Schroff, Adam, ECCV 2018) halves by a third separable
    convolution that strides, pads symmetrically everywhere, normalises after depthwise convolutions
    too, and has three separable convolutions at its end instead of two.

    Where blocks dilate instead of striding, the aligned network computes what it computes with
    output stride 32, at more positions. The published one does where the maps that are no longer
    halved have odd sizes, as in images of 299 pixels.

    Input: `(B, H, W, 3)` RGB images, 0..255, any real or uint8 dtype; 7 pixels or more a side
    unless aligned.
    Output: `{"P1": (B, H/2, W/2, 128), "P2": (B, H/4, W/4, 256), "P3": (B, H/8, W/8, 728),
    "P4": (B, H/16, W/16, 1024), "P5": (B, H/s, W/s, 2048)}`, channels at `alpha=1`, sizes of the
    aligned network rounded up, `s` being `output_stride`.

    Args:
        aligned: Whether to make the aligned network.
        middle_blocks: Number of residual blocks of stage 4 that leave resolution and channels.
        alpha: Factor on all numbers of channels, which are rounded to multiples of 8.
        output_stride: 32, or 16 or 8: the last one or two blocks that halve then do not stride,
            and what follows them dilates.
        normalization: `"batch"`, `"frozen_batch"` (constant statistics and affine weights, for
            weights trained elsewhere) or `"group"` (for training from scratch in small batches).
        epsilon: Added to the variance by each normalisation, at least 0.
        frozen_stages: How many of the first stages, 0 to 5, are not trainable; their batch
            normalisations keep their statistics too.
        normalize_pixels: Whether the images are first brought to -1..1. Without it they go to the
            convolutions as they come. A name chooses another convention: `"imagenet"` (by the mean
            (123.675, 116.28, 103.53) and the standard deviation (58.395, 57.12, 57.375) of each
            channel) or `"caffe"` (BGR minus the means (103.939, 116.779, 123.68)).
        dtype: Dtype policy of the layers; Keras' global one by default. Pixels are normalised in
            float32 under each.
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
        aligned=False,
        middle_blocks=8,
        alpha=1.0,
        output_stride=32,
        normalization="batch",
        epsilon=1e-3,
        frozen_stages=0,
        normalize_pixels=True,
        dtype=None,
        name="xception",
    ):
        parts = Parts(
            "Xception",
            output_stride=output_stride,
            normalization=normalization,
            epsilon=epsilon,
            frozen_stages=frozen_stages,
            normalize_pixels=normalize_pixels,
            pixel_convention="inception",
            dtype=dtype,
        )
        parts.check_choice("aligned", aligned, (True, False))
        parts.check_positive("alpha", alpha)
        images, x = parts.images()
        padding = "symmetric" if aligned else "valid"
        for index, filters in enumerate(_STEM_FILTERS, start=1):
            names = (f"stage1_conv{index}", f"stage1_norm{index}")
            shared = {"strides": 3 - index, "padding": padding, "names": names}
            x = parts.conv_norm(x, multiple_of_8(alpha * filters), 3, **shared)
            x = parts.relu(x, f"stage1_relu{index}")

        pyramid, level_strides = {}, {}
        stride, dilation = 2, 1
        for stage, block_filters in _HALVING_FILTERS.items():
            level_strides[f"P{stage - 1}"], block_dilation = stride, dilation
            strides, stride, dilation = parts.halve(stride, dilation)
            x, pyramid[f"P{stage - 1}"] = _halving_block(
                parts,
                x,
                [multiple_of_8(alpha * filters) for filters in block_filters],
                aligned=aligned,
                strides=strides,
                dilation=block_dilation,
                prefix=f"stage{stage}_block0_",
            )
            if stage == 4:
                for index in range(1, middle_blocks + 1):
                    prefix = f"stage4_block{index}_"
                    x = _middle_block(parts, x, aligned=aligned, dilation=dilation, prefix=prefix)

        exit_filters = _ALIGNED_EXIT_FILTERS if aligned else _EXIT_FILTERS
        for index, filters in enumerate(exit_filters, start=1):
            shared = {"aligned": aligned, "dilation": dilation, "rectified": aligned}
            filters = multiple_of_8(alpha * filters)
            x = _separable(parts, x, filters, index, prefix="stage5_block1_", **shared)
            x = parts.relu(x, f"stage5_block1_relu{index}")
        pyramid["P5"], level_strides["P5"] = x, stride

        smallest = 1 if aligned else _SMALLEST_UNPADDED
        super().__init__(parts, images, pyramid, level_strides, smallest_image=smallest, name=name)
        self.aligned = aligned
        self.middle_blocks = middle_blocks
        self.alpha = alpha

    def get_config(self):
        return {
            "aligned": self.aligned,
            "middle_blocks": self.middle_blocks,
            "alpha": self.alpha,
            **super().get_config(),
        }


def _halving_block(parts, inputs, block_filters, *, aligned, strides, dilation, prefix):
    """The block's output, and its last map of the resolution of the input."""
    x = inputs
    for index, filters in enumerate(block_filters, start=1):
        if index > 1 or not prefix.startswith("stage2"):  # ReLU ends stage 1
            x = parts.relu(x, f"{prefix}relu{index}")
        shared = {"aligned": aligned, "dilation": dilation, "prefix": prefix}
        x = _separable(parts, x, filters, index, **shared)
    last_before = x
    if aligned:
        x = parts.relu(x, f"{prefix}relu3")
        x = _separable(parts, x, filters, 3, strides=strides, **shared)
    else:
        x = parts.max_pool(x, 3, strides=strides, dilation=dilation, name=f"{prefix}pool")
    names = (f"{prefix}shortcut_conv", f"{prefix}shortcut_norm")
    shortcut = parts.conv_norm(inputs, filters, 1, strides=strides, names=names)
    return parts.add([x, shortcut], f"{prefix}add"), last_before


def _middle_block(parts, inputs, *, aligned, dilation, prefix):
    x = inputs
    for index in range(1, _MIDDLE_CONVOLUTIONS + 1):
        x = parts.relu(x, f"{prefix}relu{index}")
        shared = {"aligned": aligned, "dilation": dilation, "prefix": prefix}
        x = _separable(parts, x, inputs.shape[-1], index, **shared)
    return parts.add([x, inputs], f"{prefix}add")


def _separable(parts, x, filters, index, *, aligned, dilation, prefix, strides=1, rectified=False):
    """3x3 depthwise and 1x1 convolution, normalised, if aligned also in between."""
    x = parts.depthwise(x, 3, strides=strides, dilation=dilation, name=f"{prefix}depthwise{index}")
    if aligned:
        x = parts.norm(x, f"{prefix}depthwise{index}_norm")
    if rectified:
        x = parts.relu(x, f"{prefix}depthwise{index}_relu")
    names = (f"{prefix}pointwise{index}", f"{prefix}norm{index}")
    return parts.conv_norm(x, filters, 1, names=names)


def Xception65(**kwargs):
    """Xception-65, the aligned network of DeepLab v3+ with 16 middle blocks.

    Args:
        **kwargs: Of `Xception`, but `aligned` and `middle_blocks`.

    Returns:
        An `Xception`.
    """
    return Xception(aligned=True, middle_blocks=16, **{"name": "xception65", **kwargs})
