"""DeepLab v3 (Chen, Papandreou, Schroff and Adam, 2017)."""

import keras
from keras import layers, ops

from kvision.layers import ASPP, BatchNormalization
from kvision.models.image_model import coarsest_level
from kvision.models.segmentation.segmenter import Segmenter


@keras.saving.register_keras_serializable("kvision")
class DeepLabV3(Segmenter):
    """Atrous spatial pyramid pooling on a dilated backbone.

    The coarsest level of the backbone, of stride 16 or 8, goes through `kvision.layers.ASPP` and a
    1x1 convolution to logits, which are enlarged bilinearly (pixel centres aligned) to the size of
    the images, whatever it is. The paper's residual network has the multi-grid of its last stage:
    `ResNet50(output_stride=16, multi_grid=(1, 2, 4))`.

    torchvision's differs: a 3x3 convolution, normalised and with a ReLU, before the logits
    (`head_filters=256`), dropout 0.5, a backbone of output stride 8 with no multi-grid.

    The loss is the mean cross-entropy of the pixels at the size of the images. See `Segmenter` for
    what `fit`, `predict` and `export` take and give.

    Args:
        backbone: A pyramid model of `kvision.backbones`, on images `(B, H, W, 3)` of 0..255.
        num_classes: Number of classes, at least 2.
        filters: Channels of the branches of the pyramid pooling and of its result.
        dilation_rates: Of its 3x3 convolutions. `None`: (6, 12, 18) at stride 16, and by the
            stride at others, (12, 24, 36) at 8.
        separable: Whether they are separable, as with a backbone of separable convolutions.
        head_filters: Channels of a 3x3 convolution before the logits, or `None` for none.
        dropout: Rate in [0, 1) of the dropout after the pyramid pooling.
        **kwargs: Arguments of `Segmenter`: `ignore_class`, `class_names`, `image_size`,
            `resize_policy`, `name`, `dtype`.

    Raises:
        ValueError: For an argument out of its range.
    """

    def __init__(
        self,
        backbone,
        num_classes,
        *,
        filters=256,
        dilation_rates=None,
        separable=False,
        head_filters=None,
        dropout=0.1,
        **kwargs,
    ):
        super().__init__(num_classes=num_classes, **kwargs)
        self._level, spec = coarsest_level("DeepLabV3", backbone)
        self.backbone = backbone
        self.filters = filters
        self.dilation_rates = dilation_rates
        self.separable = separable
        self.head_filters = head_filters
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
        self.head = None
        if head_filters is not None:
            self.head = conv_norm_relu(head_filters, 3, dtype=policy, name="head")
        self.classifier = layers.Conv2D(num_classes, 1, dtype="float32", name="logits")

        if not backbone.built:
            backbone.build((None, None, None, 3))
        self.aspp.build((None, None, None, spec.channels))
        if self.head is not None:
            self.head.build((None, None, None, filters))
        self.classifier.build((None, None, None, head_filters or filters))
        self.built = True

    def call(self, images, training=None):
        x = self.backbone(images, training=training)[self._level]
        x = self.aspp(x, training=training)
        if self.head is not None:
            x = self.head(x, training=training)
        return enlarge(self.classifier(x), images)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "dilation_rates": self.dilation_rates,
            "separable": self.separable,
            "head_filters": self.head_filters,
            "dropout": self.dropout,
        }


def dilation_rates_at(stride):
    """The paper's rates: 6, 12, 18 cells of 16 pixels, and as many pixels at other strides.

    Args:
        stride: Pixels between two cells of the map.

    Returns:
        Three integers, at least 1 each.
    """
    return tuple(max(1, 16 * rate // stride) for rate in (6, 12, 18))


def conv_norm_relu(filters, kernel_size, *, separable=False, dtype, name):
    """Convolution without a bias, batch normalisation, ReLU.

    Args:
        filters: Channels of the result.
        kernel_size: Side of the kernel.
        separable: Whether it is a depthwise convolution with normalisation and ReLU of its own,
            then a 1x1 one.
        dtype: Dtype policy.
        name: Name of the result.

    Returns:
        A `keras.Sequential`.
    """
    shared = {"use_bias": False, "kernel_initializer": "he_normal", "dtype": dtype}

    def norm_relu():
        return [
            BatchNormalization(epsilon=1e-5, momentum=0.9, dtype=dtype),
            layers.ReLU(dtype=dtype),
        ]

    parts = []
    if separable:
        depthwise = layers.DepthwiseConv2D(
            kernel_size,
            padding="same",
            use_bias=False,
            depthwise_initializer="he_normal",
            dtype=dtype,
        )
        parts = [depthwise, *norm_relu()]
        kernel_size = 1
    parts += [layers.Conv2D(filters, kernel_size, padding="same", **shared), *norm_relu()]
    return keras.Sequential(parts, name=name)


def enlarge(maps, like):
    """Bilinear resizing to the height and width of another tensor, pixel centres aligned.

    Args:
        maps: Float `(B, h, w, C)`.
        like: `(B, H, W, ...)`.

    Returns:
        `(B, H, W, C)`.
    """
    size = tuple(like.shape[1:3])
    if None in size:  # in a graph of TensorFlow, and Keras' function wants numbers
        import tensorflow as tf

        return tf.cast(tf.image.resize(maps, tf.shape(like)[1:3]), maps.dtype)
    if tuple(maps.shape[1:3]) == size:
        return maps
    return ops.image.resize(maps, size, interpolation="bilinear")
