"""RoIAlign: average bilinear samples of a feature map in the bins of each box.

Source: He, Gkioxari, Dollár, Girshick, "Mask R-CNN", 2017, section 3.
"""

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.arguments import check_number
from kvision.ops.operation import call_operation
from kvision.ops.region import (
    check_spatial_scale,
    check_tensors,
    output_shape,
    standardize_output_size,
)
from kvision.ops.separable_pooling import pool_levels

MAX_SAMPLING_RATIO = 128
# What the native op shares with its gradient.
_SAMPLING = ("spatial_scales", "sampling_ratio", "aligned")


def roi_align(
    features,
    boxes,
    *,
    output_size,
    spatial_scale=1.0,
    sampling_ratio=0,
    aligned=True,
):
    """Pools the features below each box to a fixed grid of bins by averaging bilinear samples.

    A box of width `w` on the feature map has bins of width `w / output_width`, each sampled on an
    evenly spaced grid; likewise in height. Nothing is rounded. A sample more than one cell outside
    the map counts as zero; nearer ones read the border cell.

    - A box with a NaN or infinite corner, or too large for its dtype, gives zeros.
    - A box of no or negative extent has, if `aligned`, no samples in the adaptive grid and gives
      zeros; a fixed grid is sampled as it stands, mirrored where corners are reversed. Not
      `aligned`, its extent is raised to one cell.
    - Samples of an adaptive grid that fall off the map are counted, not visited.

    Gradients flow to `features` only, never to `boxes`.

    Args:
        features: Float tensor of shape `(batch, height, width, channels)`.
        boxes: Tensor of shape `(batch, num_boxes, 4)`, `xyxy` in pixels of the image. Computed
            with in float32, or in float64 beside float64 features; half-precision boxes are
            refused, for they cannot hold pixel coordinates.
        output_size: Number of bins, an int or a pair `(height, width)`.
        spatial_scale: Cells of the feature map per pixel, greater than 0: `1 / stride`.
        sampling_ratio: Samples of a bin along each axis, at most 128; 0 takes as many as the bin
            has cells, rounded up.
        aligned: Whether pixel centres lie at half-integers, so that a box is shifted by half a
            cell before sampling. `False` is the convention of Faster R-CNN in torchvision, and
            raises boxes to one cell.

    Returns:
        Tensor of shape `(batch, num_boxes, output_height, output_width, channels)` of the dtype
        of `features`. Half types are accumulated in float32.

    Raises:
        ValueError: If an argument has a wrong value, or a tensor a wrong rank, batch or dtype.
    """
    return call_operation(
        RoIAlignOperation,
        (features, boxes),
        output_size=output_size,
        spatial_scale=spatial_scale,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    )


@keras.saving.register_keras_serializable("kvision")
class RoIAlignOperation(keras.Operation):
    """`roi_align` as a node of a functional model. Arguments as there."""

    def __init__(
        self,
        *,
        output_size,
        spatial_scale=1.0,
        sampling_ratio=0,
        aligned=True,
        name=None,
    ):
        super().__init__(name=name)
        self.output_size = standardize_output_size("roi_align", output_size)
        check_sampling("roi_align", spatial_scale, sampling_ratio)
        self.spatial_scale = float(spatial_scale)
        self.sampling_ratio = int(sampling_ratio)
        self.aligned = bool(aligned)

    def call(self, features, boxes):
        features = ops.convert_to_tensor(features)
        boxes = ops.convert_to_tensor(boxes)
        check_tensors("roi_align", features, boxes)
        levels = ops.zeros(ops.shape(boxes)[:2], dtype="int32")
        return align_levels(
            [features],
            boxes,
            levels,
            spatial_scales=[self.spatial_scale],
            output_size=self.output_size,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )

    def compute_output_spec(self, features, boxes):
        check_tensors("roi_align", features, boxes)
        return keras.KerasTensor(
            output_shape(features.shape, boxes.shape, self.output_size),
            dtype=features.dtype,
        )


def check_sampling(name, spatial_scale, sampling_ratio):
    """Raises `ValueError` unless the scale is positive and the sampling ratio in range."""
    check_spatial_scale(name, spatial_scale)
    check_number(name, "sampling_ratio", sampling_ratio)
    if int(sampling_ratio) != sampling_ratio or not 0 <= sampling_ratio <= MAX_SAMPLING_RATIO:
        raise ValueError(
            f"{name}: `sampling_ratio` must be an int between 0 (adaptive) and "
            f"{MAX_SAMPLING_RATIO}. Received: {sampling_ratio}."
        )


def align_levels(features, boxes, levels, *, spatial_scales, output_size, sampling_ratio, aligned):
    """RoIAlign of each box on its own level of a list of feature maps.

    Args:
        features: List of feature maps `(batch, height, width, channels)` of one dtype.
        boxes: Tensor `(batch, num_boxes, 4)`.
        levels: Int tensor `(batch, num_boxes)`: the index of the map that a box reads. A box
            whose index is out of range gives zeros.
        spatial_scales: The spatial scale of each map.
        output_size: Pair `(height, width)`.
        sampling_ratio: As in `roi_align`.
        aligned: As in `roi_align`.

    Returns:
        Tensor `(batch, num_boxes, output_height, output_width, channels)`.
    """
    dtype = keras.backend.standardize_dtype(features[0].dtype)
    boxes = ops.cast(boxes, "float64" if dtype == "float64" else "float32")
    return (_native if native.use_native() else pool_levels)(
        features,
        ops.stop_gradient(boxes),
        levels,
        spatial_scales,
        output_size,
        sampling_ratio,
        aligned,
    )


def _native(features, boxes, levels, spatial_scales, output_size, sampling_ratio, aligned):
    return native.call(
        "roi_align",
        features,
        boxes,
        levels,
        spatial_scales=spatial_scales,
        output_height=output_size[0],
        output_width=output_size[1],
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    )


@native.gradient("roi_align", keeps=("boxes", "levels"))
def _gradient(call, output_gradient):
    feature_gradients = native.call(
        "roi_align_gradient",
        output_gradient,
        call.tensors["boxes"],
        call.tensors["levels"],
        feature_shapes=call.shapes["features"],
        **{name: call.attributes[name] for name in _SAMPLING},
    )
    return {"features": feature_gradients}


@native.gradient("roi_align_gradient", keeps=("boxes", "levels"))
def _second_gradient(call, feature_gradients):
    _, _, height, width, _ = shape = call.shapes["output_gradient"]
    if keras.ops.is_tensor(height) or keras.ops.is_tensor(width):
        raise ValueError(
            f"roi_align: the second derivative needs a static output size. Received: {shape}."
        )
    output_gradient = native.call(
        "roi_align",
        feature_gradients,
        call.tensors["boxes"],
        call.tensors["levels"],
        output_height=height,
        output_width=width,
        **{name: call.attributes[name] for name in _SAMPLING},
    )
    return {"output_gradient": output_gradient}
