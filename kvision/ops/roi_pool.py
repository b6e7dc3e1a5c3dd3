"""RoIPool: the maximum of a feature map in the bins of each box.

Source: Girshick, "Fast R-CNN", 2015, section 2.1.
"""

import math

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.operation import call_operation
from kvision.ops.region import (
    check_spatial_scale,
    check_tensors,
    output_shape,
    standardize_output_size,
)

_NAME = "roi_pool"
_MAX_INDEX = 2**31 - 1


def roi_pool(features, boxes, *, output_size, spatial_scale=1.0):
    """Pools the features below each box to a fixed grid of bins by their maximum.

    The corners of a box are scaled and rounded, halves away from zero, to cells of the map, both
    of which belong to it: a box is `last - first + 1` cells long, at least 1. Bin `i` of `n`
    covers the cells from `first + floor(i * length / n)` up to, not including,
    `first + ceil((i + 1) * length / n)` that lie on the map; bins next to one another may share
    cells.

    - A value is the first of the largest in row-major order, and its gradient goes to that cell
      alone. A NaN is passed over like an infinity below all; a bin of nothing else takes its
      first cell, whatever that holds.
    - A bin without a cell on the map gives 0, as all bins of an empty map do.
    - A box with a NaN or infinite corner, or too large for its dtype, gives zeros.

    Gradients flow to `features` only, never to `boxes`. `roi_align` rounds nothing, and is the
    better choice for a new model.

    Args:
        features: Float tensor of shape `(batch, height, width, channels)`, fewer than 2^31 cells
            a map.
        boxes: Tensor of shape `(batch, num_boxes, 4)`, `xyxy` in pixels of the image. Computed
            with in float32, or in float64 beside float64 features; half-precision boxes are
            refused, for they cannot hold pixel coordinates.
        output_size: Number of bins, an int or a pair `(height, width)`.
        spatial_scale: Cells of the feature map per pixel, greater than 0: `1 / stride`.

    Returns:
        Tensor of shape `(batch, num_boxes, output_height, output_width, channels)` of the dtype
        of `features`. Gradients of half types are accumulated in float32.

    Raises:
        ValueError: If an argument has a wrong value, or a tensor a wrong rank, size or dtype.
    """
    return call_operation(
        RoIPoolOperation, (features, boxes), output_size=output_size, spatial_scale=spatial_scale
    )


@keras.saving.register_keras_serializable("kvision")
class RoIPoolOperation(keras.Operation):
    """`roi_pool` as a node of a functional model. Arguments as there."""

    def __init__(self, *, output_size, spatial_scale=1.0, name=None):
        super().__init__(name=name)
        self.output_size = standardize_output_size(_NAME, output_size)
        check_spatial_scale(_NAME, spatial_scale)
        self.spatial_scale = float(spatial_scale)

    def call(self, features, boxes):
        features = ops.convert_to_tensor(features)
        boxes = ops.convert_to_tensor(boxes)
        _check(features, boxes)
        dtype = keras.backend.standardize_dtype(features.dtype)
        boxes = ops.stop_gradient(ops.cast(boxes, "float64" if dtype == "float64" else "float32"))
        return (_native if native.use_native() else _reference)(
            features, boxes, self.output_size, self.spatial_scale
        )

    def compute_output_spec(self, features, boxes):
        _check(features, boxes)
        return keras.KerasTensor(
            output_shape(features.shape, boxes.shape, self.output_size),
            dtype=features.dtype,
        )


def _check(features, boxes):
    check_tensors(_NAME, features, boxes)
    size = tuple(features.shape)[1:3]
    if None not in size and math.prod(size) > _MAX_INDEX:
        raise ValueError(
            f"{_NAME}: `features` must have fewer than 2^31 cells a map. "
            f"Received: {tuple(features.shape)}."
        )


def _reference(features, boxes, output_size, spatial_scale):
    """`roi_pool` in plain `keras.ops`; no shape in it depends on data.

    A loop visits the cells of all bins in step, from the first to the last of the largest bin, so
    that its length is the one thing that depends on the boxes. All features together must have
    fewer than 2^31 elements: indices are int32.
    """
    if None not in features.shape and math.prod(features.shape) + features.shape[3] > _MAX_INDEX:
        raise ValueError(
            f"{_NAME}: without its native op, `features` must have fewer than 2^31 elements. "
            f"Received: {tuple(features.shape)}."
        )
    batch, height, width, channels = ops.shape(features)
    # The cells of all images, and one more, of zeros, for what lies off a bin or off the map.
    nowhere = batch * height * width
    cells = ops.reshape(features, (nowhere, channels))
    cells = ops.concatenate([cells, ops.zeros((1, channels), features.dtype)], axis=0)
    top, bottom, left, right = _bins(boxes, height, width, output_size, spatial_scale)
    images = ops.arange(batch)[:, None, None, None] * height * width
    largest_height = ops.max(bottom - top, initial=0)
    largest_width = ops.max(right - left, initial=0)
    is_empty = (top >= bottom) | (left >= right)
    first = ops.where(is_empty, nowhere, images + top * width + left)

    def visit(step, best, argmax):
        y, x = top + step // largest_width, left + step % largest_width
        cell = ops.where((y < bottom) & (x < right), images + y * width + x, nowhere)
        values = ops.take(ops.stop_gradient(cells), cell, axis=0)
        larger = (values > best) & (cell < nowhere)[..., None]
        return (
            step + 1,
            ops.where(larger, values, best),
            ops.where(larger, cell[..., None], argmax),
        )

    shape = (batch, ops.shape(boxes)[1], *output_size, channels)
    _, _, argmax = ops.while_loop(
        lambda step, best, argmax: step < largest_height * largest_width,
        visit,
        (
            ops.zeros((), "int32"),
            ops.full(shape, -math.inf, features.dtype),
            ops.broadcast_to(first[..., None], shape),
        ),
    )
    # In float32, for that is how the gradients of half types are to be summed.
    elements = ops.reshape(ops.cast(cells, boxes.dtype), (-1,))
    values = ops.take(elements, argmax * channels + ops.arange(channels))
    return ops.cast(ops.reshape(values, shape), features.dtype)


def _bins(boxes, height, width, output_size, spatial_scale):
    """The cells of every bin on the map: rows from `top` up to `bottom`, columns likewise.

    Returns:
        Four int32 tensors that broadcast to `(batch, num_boxes, output_height, output_width)`.
    """
    scaled = boxes * spatial_scale
    whole = ops.floor(ops.abs(scaled))
    corners = ops.sign(scaled) * (whole + ops.cast(ops.abs(scaled) - whole >= 0.5, boxes.dtype))
    extent = corners[..., 2:] - corners[..., :2] + 1.0
    finite = ops.all(ops.isfinite(ops.concatenate([corners, extent], axis=-1)), axis=-1)
    start = ops.where(finite[..., None], corners[..., :2], 0.0)
    extent = ops.where(finite[..., None], ops.maximum(extent, 1.0), 0.0)

    def axis(index, bins, size):
        # Not by a constant: for that, graph optimizers multiply by the reciprocal, and round twice.
        bin_extent = extent[..., index, None] / ops.cast(
            ops.where(finite, bins, 1)[..., None], boxes.dtype
        )
        bin_index = ops.cast(ops.arange(bins), boxes.dtype)
        begin = ops.floor(bin_index * bin_extent) + start[..., index, None]
        end = ops.ceil((bin_index + 1.0) * bin_extent) + start[..., index, None]
        size = ops.cast(size, boxes.dtype)
        return (ops.cast(ops.clip(edge, 0.0, size), "int32") for edge in (begin, end))

    left, right = axis(0, output_size[1], width)
    top, bottom = axis(1, output_size[0], height)
    return top[..., None], bottom[..., None], left[..., None, :], right[..., None, :]


def _native(features, boxes, output_size, spatial_scale):
    output, _ = native.call(
        "roi_pool",
        features,
        boxes,
        spatial_scale=spatial_scale,
        output_height=output_size[0],
        output_width=output_size[1],
    )
    return output


@native.gradient("roi_pool", keeps=("boxes", "argmax"))
def _gradient(call, output_gradient):
    feature_gradient = native.call(
        "roi_pool_gradient",
        output_gradient,
        call.tensors["argmax"],
        call.tensors["boxes"],
        spatial_scale=call.attributes["spatial_scale"],
        feature_shape=call.shapes["features"],
    )
    return {"features": feature_gradient}


@native.gradient("roi_pool_gradient", keeps=("argmax",))
def _second_gradient(call, feature_gradient):
    argmax = call.tensors["argmax"]
    batch, height, width, channels = ops.shape(feature_gradient)
    image = ops.reshape(ops.arange(batch, dtype="int32"), (-1, 1, 1, 1, 1))
    index = (image * (height * width) + argmax) * channels + ops.arange(channels, dtype="int32")
    # Behind a zero, for bins without cells.
    values = ops.pad(ops.reshape(feature_gradient, (-1,)), [(1, 0)])
    return {"output_gradient": ops.take(values, ops.where(argmax < 0, 0, 1 + index))}
