"""SegNet and SegNet-Basic (Badrinarayanan, Kendall and Cipolla, PAMI 2017)."""

import keras
from keras import layers

from kvision.backbones.pixels import normalize_pixels as normalized
from kvision.layers import (
    BatchNormalization,
    LocalResponseNormalization,
    MaxPoolingWithArgmax2D,
    MaxUnpooling2D,
)
from kvision.models.segmentation.segmenter import Segmenter

# Where the release starts the shifts of its normalisations.
_SHIFT = 0.001


class _EncoderDecoder(Segmenter):
    """What the two share: every pooling of the encoder is undone in the decoder.

    The encoder remembers where each maximum was, and the decoder puts the values back there, in a
    map of the size that was pooled, zeros elsewhere, for its convolutions to fill in. So edges
    return to their pixels, and any size of image comes back exactly.
    """

    def __init__(self, num_classes, *, momentum, **kwargs):
        super().__init__(num_classes=num_classes, **kwargs)
        self.momentum = momentum

    def _conv_norm(self, x, filters, kernel_size, name, relu=True):
        """Convolution (its bias stands beside the shift of the normalisation, as published)."""
        policy = self.dtype_policy
        x = layers.Conv2D(
            filters,
            kernel_size,
            padding="same",
            kernel_initializer="he_normal",
            dtype=policy,
            name=name,
        )(x)
        x = BatchNormalization(
            momentum=self.momentum,
            epsilon=1e-5,
            beta_initializer=keras.initializers.Constant(_SHIFT),
            dtype=policy,
            name=name.replace("conv", "norm"),
        )(x)
        return layers.ReLU(dtype=policy, name=name.replace("conv", "relu"))(x) if relu else x

    def _pool(self, x, name):
        """Pooled values, and the function that puts such values back; odd sizes are rounded up."""
        policy = self.dtype_policy
        pooled, argmax = MaxPoolingWithArgmax2D(
            2, padding="same", dtype=policy, name=f"{name}_pool"
        )(x)
        unpooling = MaxUnpooling2D(dtype=policy, name=f"{name}_unpool")
        return pooled, lambda values: unpooling(values, argmax, x)

    def _classifier(self, x, kernel_size):
        return layers.Conv2D(
            self.num_classes,
            kernel_size,
            padding="same",
            kernel_initializer="he_normal",
            dtype="float32",
            name="logits",
        )(x)

    def call(self, images, training=None):
        return self.network(images, training=training)

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


@keras.saving.register_keras_serializable("kvision")
class SegNet(_EncoderDecoder):
    """The 13 convolutions of VGG-16, and their mirror image.

    Each is followed by batch normalisation and ReLU, the last one alone, which gives the logits, by
    neither. Images of 360x480 are pooled to 180x240, 90x120, 45x60, 23x30 and 12x15, and come back
    by the same sizes.

    The loss is the mean cross-entropy of the pixels. The paper weighs the classes by the median of
    their frequencies over each one's: `fit(..., class_weight=...)`. It starts the encoder from
    VGG-16 (`load_encoder`), trains by SGD with momentum 0.9 and weight decay 5e-4, and takes the
    statistics of the normalisations over the training set at the end; here they are moving
    averages. See `Segmenter` for what `fit`, `predict` and `export` take and give.

    Args:
        num_classes: Number of classes, at least 2.
        depths: Number of convolutions of each stage of the encoder, at least 1.
        widths: Channels of each stage.
        momentum: Of the moving averages of the normalisations.
        normalize_pixels: Whether the images are first standardised by ImageNet's mean and standard
            deviation of each channel, as `kvision.backbones.VGG16` expects them.
        **kwargs: Arguments of `Segmenter`: `ignore_class`, `class_names`, `image_size`,
            `resize_policy`, `name`, `dtype`.

    Raises:
        ValueError: For an argument out of its range.
    """

    def __init__(
        self,
        num_classes,
        *,
        depths=(2, 2, 3, 3, 3),
        widths=(64, 128, 256, 512, 512),
        momentum=0.9,
        normalize_pixels=True,
        **kwargs,
    ):
        super().__init__(num_classes, momentum=momentum, **kwargs)
        if len(depths) != len(widths) or not depths or min(*depths, *widths) < 1:
            raise ValueError(
                "SegNet: `depths` and `widths` must have one positive value for each stage. "
                f"Received: depths={depths}, widths={widths}."
            )
        self.depths = tuple(depths)
        self.widths = tuple(widths)
        self.normalize_pixels = normalize_pixels

        images = keras.Input((None, None, 3), name="images")
        x = normalized(images, "imagenet") if normalize_pixels else images
        undo = []
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            for index in range(1, depth + 1):
                x = self._conv_norm(x, width, 3, f"encoder{stage}_conv{index}")
            x, unpool = self._pool(x, f"encoder{stage}")
            undo.append(unpool)
        for stage in range(len(depths), 0, -1):
            x = undo[stage - 1](x)
            for index in range(depths[stage - 1], 1, -1):
                x = self._conv_norm(x, widths[stage - 1], 3, f"decoder{stage}_conv{index}")
            if stage > 1:
                x = self._conv_norm(x, widths[stage - 2], 3, f"decoder{stage}_conv1")
        self.network = keras.Model(images, self._classifier(x, 3), name="network")
        self.built = True

    def load_encoder(self, vgg):
        """Copies the convolutions of a VGG, such as one with ImageNet's weights.

        Args:
            vgg: A `kvision.backbones.VGG` of the same depths and widths.

        Raises:
            ValueError: If its depths or widths are others.
        """
        if (vgg.depths, vgg.widths) != (self.depths, self.widths):
            raise ValueError(
                f"SegNet: `vgg` must have depths {self.depths} and widths {self.widths}. "
                f"Received: {vgg.depths} and {vgg.widths}."
            )
        for stage, depth in enumerate(self.depths, start=1):
            for index in range(1, depth + 1):
                own = self.network.get_layer(f"encoder{stage}_conv{index}")
                own.set_weights(vgg.get_layer(f"stage{stage}_conv{index}").get_weights())

    def get_config(self):
        return {
            **super().get_config(),
            "depths": self.depths,
            "widths": self.widths,
            "normalize_pixels": self.normalize_pixels,
        }


@keras.saving.register_keras_serializable("kvision")
class SegNetBasic(_EncoderDecoder):
    """Four convolutions of 7x7, and four more, for small images and little time.

    The images go through local response normalisation in Caffe's convention. In the encoder each
    convolution is followed by batch normalisation and ReLU, in the decoder by batch normalisation
    alone; a 1x1 convolution gives the logits. Images of 360x480 are pooled to 180x240, 90x120,
    45x60 and 23x30. For the loss and training see `SegNet`.

    Args:
        num_classes: Number of classes, at least 2.
        filters: Channels of every convolution.
        num_stages: Number of poolings.
        kernel_size: Side of the convolutions' kernels.
        momentum: Of the moving averages of the normalisations.
        **kwargs: Arguments of `Segmenter`: `ignore_class`, `class_names`, `image_size`,
            `resize_policy`, `name`, `dtype`.

    Raises:
        ValueError: For an argument out of its range.
    """

    def __init__(
        self, num_classes, *, filters=64, num_stages=4, kernel_size=7, momentum=0.9, **kwargs
    ):
        super().__init__(num_classes, momentum=momentum, **kwargs)
        if min(filters, num_stages, kernel_size) < 1:
            raise ValueError(
                "SegNetBasic: `filters`, `num_stages` and `kernel_size` must be positive. "
                f"Received: {filters}, {num_stages} and {kernel_size}."
            )
        self.filters = filters
        self.num_stages = num_stages
        self.kernel_size = kernel_size

        images = keras.Input((None, None, 3), name="images")
        x = LocalResponseNormalization(dtype=self.dtype_policy, name="normalize_pixels")(images)
        undo = []
        for stage in range(1, num_stages + 1):
            x = self._conv_norm(x, filters, kernel_size, f"encoder{stage}_conv")
            x, unpool = self._pool(x, f"encoder{stage}")
            undo.append(unpool)
        for stage in range(num_stages, 0, -1):
            x = undo[stage - 1](x)
            x = self._conv_norm(x, filters, kernel_size, f"decoder{stage}_conv", relu=False)
        self.network = keras.Model(images, self._classifier(x, 1), name="network")
        self.built = True

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "num_stages": self.num_stages,
            "kernel_size": self.kernel_size,
        }
