"""DeepLab v3+ (Chen, Zhu, Papandreou, Schroff and Adam, ECCV 2018)."""

import keras
from keras import layers, ops

from kvision.layers import ASPP
from kvision.models.image_model import coarsest_level
from kvision.models.segmentation.deeplab_v3 import conv_norm_relu, dilation_rates_at, enlarge
from kvision.models.segmentation.segmenter import Segmenter


@keras.saving.register_keras_serializable("kvision")
class DeepLabV3Plus(Segmenter):
    """DeepLab v3 with a decoder that brings back the detail of a finer level.

    The result of the pyramid pooling is enlarged to a finer level of the backbone (stride 4 in the
    paper), joined with that level's features, reduced by a 1x1 convolution, and goes through two
    3x3 convolutions to logits, which are enlarged bilinearly to the size of the images. Every
    enlargement is to the size of what it meets, so that any size of image comes back exactly.

    With `separable=True`, as the paper has it on Xception and MobileNetV2, the 3x3 convolutions of
    pooling and decoder are separable.

    The loss is the mean cross-entropy of the pixels at the size of the images. See `Segmenter` for
    what `fit`, `predict` and `export` take and give.

    Args:
        backbone: A pyramid model of `kvision.backbones`, on images `(B, H, W, 3)` of 0..255.
        num_classes: Number of classes, at least 2.
        low_level: Level of the backbone that the decoder joins.
        low_level_filters: Channels that it is reduced to.
        filters: Channels of the pyramid pooling.
        decoder_filters: Channels of the decoder's two convolutions.
        dilation_rates: Of the pyramid pooling. `None`: (6, 12, 18) at stride 16, and by the stride
            at others, (12, 24, 36) at 8.
        separable: Whether the 3x3 convolutions are separable.
        dropout: Rate in [0, 1) of the dropout after the pyramid pooling.
        **kwargs: Arguments of `Segmenter`: `ignore_class`, `class_names`, `image_size`,
            `resize_policy`, `name`, `dtype`.

    Raises:
        ValueError: For an argument out of its range, or a level that the backbone has not.
    """

    def __init__(
        self,
        backbone,
        num_classes,
        *,
        low_level="P2",
        low_level_filters=48,
        filters=256,
        decoder_filters=256,
        dilation_rates=None,
        separable=False,
        dropout=0.1,
        **kwargs,
    ):
        super().__init__(num_classes=num_classes, **kwargs)
        self._level, spec = coarsest_level("DeepLabV3Plus", backbone)
        specs = backbone.feature_specs
        if low_level not in specs:
            raise ValueError(
                f"DeepLabV3Plus: `low_level` must be one of the backbone's levels {list(specs)}. "
                f"Received: {low_level!r}."
            )
        self.backbone = backbone
        self.low_level = low_level
        self.low_level_filters = low_level_filters
        self.filters = filters
        self.decoder_filters = decoder_filters
        self.dilation_rates = dilation_rates
        self.separable = separable
        self.dropout = dropout
        policy = self.dtype_policy
        self.aspp = ASPP(
            filters,
            dilation_rates=(
                dilation_rates_at(spec.stride) if dilation_rates is None else dilation_rates
            ),
            separable=separable,
            dropout=dropout,
            dtype=policy,
            name="aspp",
        )
        self.reduction = conv_norm_relu(low_level_filters, 1, dtype=policy, name="reduction")
        self.decoder = [
            conv_norm_relu(
                decoder_filters, 3, separable=separable, dtype=policy, name=f"decoder{index}"
            )
            for index in (1, 2)
        ]
        self.classifier = layers.Conv2D(num_classes, 1, dtype="float32", name="logits")

        if not backbone.built:
            backbone.build((None, None, None, 3))
        self.aspp.build((None, None, None, spec.channels))
        self.reduction.build((None, None, None, specs[low_level].channels))
        self.decoder[0].build((None, None, None, filters + low_level_filters))
        self.decoder[1].build((None, None, None, decoder_filters))
        self.classifier.build((None, None, None, decoder_filters))
        self.built = True

    def call(self, images, training=None):
        pyramid = self.backbone(images, training=training)
        coarse = self.aspp(pyramid[self._level], training=training)
        fine = self.reduction(pyramid[self.low_level], training=training)
        x = ops.concatenate([enlarge(coarse, fine), fine], axis=-1)
        for convolution in self.decoder:
            x = convolution(x, training=training)
        return enlarge(self.classifier(x), images)

    def get_config(self):
        return {
            **super().get_config(),
            "low_level": self.low_level,
            "low_level_filters": self.low_level_filters,
            "filters": self.filters,
            "decoder_filters": self.decoder_filters,
            "dilation_rates": self.dilation_rates,
            "separable": self.separable,
            "dropout": self.dropout,
        }
