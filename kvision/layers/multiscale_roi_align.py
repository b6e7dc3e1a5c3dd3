"""Pooling of a feature pyramid below boxes."""

import keras

from kvision.ops.multiscale_roi_align import MultiscaleRoIAlignOperation
from kvision.ops.region import output_shape


@keras.saving.register_keras_serializable("kvision")
class MultiscaleRoIAlign(keras.layers.Layer):
    """`kvision.ops.multiscale_roi_align` as a layer, called as `layer(pyramid, boxes)`.

    A pyramid `{"P2": (batch, height, width, channels), ...}` and boxes `(batch, num_boxes, 4)`,
    `xyxy` in pixels, give `(batch, num_boxes, output_height, output_width, channels)` of the
    dtype of the pyramid. Nothing is cast: boxes stay float32 under every dtype policy.

    Args:
        output_size: Number of bins, an int or a pair `(height, width)`.
        strides: Dict from a level's name to the pixels per cell of its map. Defaults to
            `2 ** level`.
        sampling_ratio: Samples of a bin along each axis, at most 128; 0 takes as many as the bin
            has cells, rounded up.
        aligned: Whether pixel centres lie at half-integers; see `kvision.ops.roi_align`.
        canonical_size: Side in pixels of the square box that belongs to `canonical_level`.
        canonical_level: Level of a box of `canonical_size`.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: For an argument out of its range, or tensors that `multiscale_roi_align`
            refuses.
    """

    def __init__(
        self,
        output_size,
        *,
        strides=None,
        sampling_ratio=0,
        aligned=True,
        canonical_size=224,
        canonical_level=4,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.operation = MultiscaleRoIAlignOperation(
            output_size=output_size,
            strides=strides,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
            canonical_size=canonical_size,
            canonical_level=canonical_level,
        )

    def build(self, pyramid_shape, boxes_shape):
        self.built = True

    def call(self, pyramid, boxes):
        return self.operation.call(pyramid, boxes)

    def compute_output_spec(self, pyramid, boxes):
        return self.operation.compute_output_spec(pyramid, boxes)

    def compute_output_shape(self, pyramid_shape, boxes_shape):
        features_shape = next(iter(pyramid_shape.values()))
        return output_shape(features_shape, boxes_shape, self.operation.output_size)

    def get_config(self):
        return {
            **super().get_config(),
            "output_size": self.operation.output_size,
            "strides": self.operation.strides,
            "sampling_ratio": self.operation.sampling_ratio,
            "aligned": self.operation.aligned,
            "canonical_size": self.operation.canonical_size,
            "canonical_level": self.operation.canonical_level,
        }
