"""U-Net (Ronneberger, Fischer and Brox, MICCAI 2015)."""

import keras
from keras import layers, ops

from kvision.layers import BatchNormalization
from kvision.models.segmentation.segmenter import Segmenter


@keras.saving.register_keras_serializable("kvision")
class UNet(Segmenter):
    """A contracting path of convolutions and pooling, and an expanding one that meets it.

    Each of the `depth` levels halves the map and doubles the channels; on the way up a 2x2
    transposed convolution doubles the map, halves the channels, and is joined with the map of the
    same level on the way down: `[enlarged, skipped]`. Two 3x3 convolutions with ReLU follow at
    every level. Dropout stands after those of the two coarsest levels. Kernels are drawn from
    He's normal distribution.

    `padding="same"`: logits are as large as the images, whose height and width may be any: the
    last row or column of an odd map is pooled by itself, and the enlarged map loses the one that
    it has too many at the bottom or the right.

    `padding="valid"`, as published: no convolution pads, so that each logit has seen real pixels
    alone, and images lose `12 * 2**depth - 8` pixels: 572 become 388. Images must be `16 k + 60`
    pixels high and wide, at least 188 (of four levels), so that no pooled map is odd. In the loss
    and the metrics, labels and weights of the size of the images are cropped to the middle, where
    the logits are. To segment a whole image, mirror it at its edges first.

    For cells that touch, weigh the pixels between them by `kvision.ops.border_weight_map`: it makes
    the `sample_weight` of `fit`. The published training is `SGD(momentum=0.99)` with one large
    image a batch, deformed elastically.

    The loss is the mean cross-entropy of the pixels. See `Segmenter` for what `fit`, `predict` and
    `export` take and give.

    Args:
        num_classes: Number of classes, at least 2.
        padding: `"same"` or `"valid"`.
        filters: Channels of the finest level.
        depth: Number of times that maps are halved.
        batch_normalization: Whether batch normalisation follows each 3x3 convolution, in place of
            its bias. The published network has none.
        dropout: Rate in [0, 1) of the dropout after the two coarsest levels.
        input_channels: Channels of the images: 3, or 1 of grey ones.
        normalize_pixels: Whether images of 0..255 are brought to -1..1 first; `False` where they
            come normalised.
        **kwargs: Arguments of `Segmenter`: `ignore_class`, `class_names`, `image_size`,
            `resize_policy`, `name`, `dtype`.

    Raises:
        ValueError: For an argument out of its range.
    """

    def __init__(
        self,
        num_classes,
        *,
        padding="same",
        filters=64,
        depth=4,
        batch_normalization=False,
        dropout=0.5,
        input_channels=3,
        normalize_pixels=True,
        **kwargs,
    ):
        super().__init__(num_classes=num_classes, **kwargs)
        if padding not in ("same", "valid"):
            raise ValueError(f'UNet: `padding` must be "same" or "valid". Received: {padding!r}.')
        for name, value in (
            ("filters", filters),
            ("depth", depth),
            ("input_channels", input_channels),
        ):
            if value < 1:
                raise ValueError(f"UNet: `{name}` must be at least 1. Received: {value}.")
        self.padding = padding
        self.filters = filters
        self.depth = depth
        self.batch_normalization = batch_normalization
        self.dropout = dropout
        self.input_channels = self.image_channels = input_channels
        self.normalize_pixels = normalize_pixels

        policy = self.dtype_policy
        widths = [filters * 2**level for level in range(depth + 1)]
        self.pixels = layers.Rescaling(1 / 127.5, -1.0, dtype="float32", name="pixels")
        self.contracting = [
            self._two_convolutions(width, f"contracting{level}")
            for level, width in enumerate(widths)
        ]
        self.pool = layers.MaxPooling2D(2, padding=padding, dtype=policy, name="pool")
        self.drop = layers.Dropout(dropout, dtype=policy, name="drop")
        self.enlarging, self.expanding = [], []
        for level in reversed(range(depth)):
            self.enlarging.append(
                layers.Conv2DTranspose(
                    widths[level],
                    2,
                    strides=2,
                    kernel_initializer="he_normal",
                    dtype=policy,
                    name=f"enlarging{level}",
                )
            )
            self.expanding.append(self._two_convolutions(widths[level], f"expanding{level}"))
        self.classifier = layers.Conv2D(
            num_classes, 1, kernel_initializer="he_normal", dtype="float32", name="logits"
        )

        for block, channels in zip(self.contracting, [input_channels, *widths], strict=False):
            block.build((None, None, None, channels))
        for enlarge, block, width in zip(
            self.enlarging, self.expanding, reversed(widths[1:]), strict=True
        ):
            enlarge.build((None, None, None, width))
            block.build((None, None, None, width))
        self.classifier.build((None, None, None, filters))
        self.built = True

    def _two_convolutions(self, width, name):
        shared = {"dtype": self.dtype_policy}
        parts = []
        for _ in range(2):
            parts.append(
                layers.Conv2D(
                    width,
                    3,
                    padding=self.padding,
                    use_bias=not self.batch_normalization,
                    kernel_initializer="he_normal",
                    **shared,
                )
            )
            if self.batch_normalization:
                parts.append(BatchNormalization(epsilon=1e-5, momentum=0.9, **shared))
            parts.append(layers.ReLU(**shared))
        return keras.Sequential(parts, name=name)

    @property
    def smallest_image(self):
        """The least height and width of an image, in pixels."""
        return 1 if self.padding == "same" else 12 * 2**self.depth - 4

    def output_size(self, image_size):
        """Returns the size of the logits.

        Args:
            image_size: `(height, width)` of the images.

        Returns:
            `(height, width)`: the same, or without padding `12 * 2**depth - 8` pixels less.
        """
        lost = 0 if self.padding == "same" else 12 * 2**self.depth - 8
        return tuple(side - lost for side in image_size)

    def call(self, images, training=None):
        self._check_size(images.shape)
        x = self.pixels(images) if self.normalize_pixels else images
        skipped = []
        for level, convolutions in enumerate(self.contracting):
            x = convolutions(x, training=training)
            if level >= self.depth - 1:
                x = self.drop(x, training=training)
            if level < self.depth:
                skipped.append(x)
                x = self.pool(x)
        for enlarge, convolutions in zip(self.enlarging, self.expanding, strict=True):
            x, skip = enlarge(x), skipped.pop()
            if self.padding == "same":
                x = _cropped(x, skip, centred=False)
            else:
                skip = _cropped(skip, x, centred=True)
            x = convolutions(ops.concatenate([x, skip], axis=-1), training=training)
        return self.classifier(x)

    def _check_size(self, shape):
        if self.padding == "same":
            return
        step, first = 2**self.depth, self.smallest_image
        wrong = [side for side in shape[1:3] if side is not None and (side - first) % step]
        if wrong:
            below = wrong[0] - (wrong[0] - first) % step
            raise ValueError(
                f"UNet: without padding, images must be {step} k + {4 * (step - 1)} pixels high "
                f"and wide; the nearest to {wrong[0]} are {below} and {below + step}. "
                f"Received: {tuple(shape)}."
            )

    def export(self, path, format="tf_saved_model", **kwargs):
        """Writes a SavedModel, see `kvision.export.saved_model`.

        Args:
            path: Folder to write.
            format: `"tf_saved_model"`.
            **kwargs: Arguments of `kvision.export.saved_model`.

        Returns:
            What `kvision.export.saved_model` returns.

        Raises:
            ValueError: For a model whose answers do not cover its images, or whose images are not
                RGB.
        """
        if self.padding != "same" or self.input_channels != 3:
            raise ValueError(
                "UNet: `export` needs padding='same' and input_channels=3: what is served answers "
                f"for whole RGB images. Received: padding={self.padding!r} and "
                f"input_channels={self.input_channels}."
            )
        return super().export(path, format, **kwargs)

    def get_config(self):
        return {
            **super().get_config(),
            "padding": self.padding,
            "filters": self.filters,
            "depth": self.depth,
            "batch_normalization": self.batch_normalization,
            "dropout": self.dropout,
            "input_channels": self.input_channels,
            "normalize_pixels": self.normalize_pixels,
        }


def _cropped(maps, like, *, centred):
    """Maps cropped to the height and width of others, to their middle or their top left."""
    height, width = ops.shape(like)[1:3]
    top = (ops.shape(maps)[1] - height) // 2 if centred else 0
    left = (ops.shape(maps)[2] - width) // 2 if centred else 0
    return maps[:, top : top + height, left : left + width]
