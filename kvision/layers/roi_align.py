"""Pooling of one feature map below boxes."""

import keras

from kvision.ops.region import output_shape
from kvision.ops.roi_align import RoIAlignOperation


@keras.saving.register_keras_serializable("kvision")
class RoIAlign(keras.layers.Layer):
    """`kvision.ops.roi_align` as a layer, called as `layer(features, boxes)`.

    Features `(batch, height, width, channels)` and boxes `(batch, num_boxes, 4)`, `xyxy` in
    pixels, give `(batch, num_boxes, output_height, output_width, channels)` of the dtype of the
    features. Nothing is cast: boxes stay float32 under every dtype policy.

    Args:
        output_size: Number of bins, an int or a pair `(height, width)`.
        spatial_scale: Cells of the feature map per pixel, greater than 0: `1 / stride`.
        sampling_ratio: Samples of a bin along each axis, at most 128; 0 takes as many as the bin
            has cells, rounded up.
        aligned: Whether pixel centres lie at half-integers; see `kvision.ops.roi_align`.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: For an argument out of its range, or tensors that `roi_align` refuses.
    """

    def __init__(self, output_size, *, spatial_scale=1.0, sampling_ratio=0, aligned=True, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.operation = RoIAlignOperation(
            output_size=output_size,
            spatial_scale=spatial_scale,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
        )

    def build(self, features_shape, boxes_shape):
        self.built = True

    def call(self, features, boxes):
        return self.operation.call(features, boxes)

    def compute_output_spec(self, features, boxes):
        return self.operation.compute_output_spec(features, boxes)

    def compute_output_shape(self, features_shape, boxes_shape):
        return output_shape(features_shape, boxes_shape, self.operation.output_size)

    def get_config(self):
        return {
            **super().get_config(),
            "output_size": self.operation.output_size,
            "spatial_scale": self.operation.spatial_scale,
            "sampling_ratio": self.operation.sampling_ratio,
            "aligned": self.operation.aligned,
        }
