"""What a deep watershed network is taught, from a label map; and its distance transform alone.

Source: Bai, Urtasun, "Deep Watershed Transform for Instance Segmentation", 2017, and the authors'
code that makes the ground truth.
"""

import itertools
import math
import numbers

import keras
import numpy as np
from keras import ops

from kvision.ops import native
from kvision.ops.arguments import is_int
from kvision.ops.label_maps import check_label_maps
from kvision.ops.operation import call_operation

# The published lower edges of the 16 levels, in pixels of half the resolution of Cityscapes.
DWT_EDGES = (0, 1, 2, 3, 4, 5, 7, 9, 12, 15, 19, 24, 30, 37, 45, 54)
_MAX_LEVELS = 256
_MAX_SIDE = 23169
# More than the square of any distance in an image of that size; with such a square it fits in
# 32 bits.
_FAR = 2**30
_WEIGHT_OF_ONE_PIXEL = 200.0
# A sum of Sobel's filter over the distance at its centre, below which it is rounding.
_ROUNDING_OF_SLOPE = 2.0**-20
_OUTPUTS = ("distance", "direction", "level", "weight")


def watershed_targets(
    instances, *, level_edges=DWT_EDGES, image_border_is_outside=False, min_area=0
):
    """Distance, direction, energy level and weight of each pixel, from the ids of instances.

    - `distance` is that of `kvision.ops.distance_transform`: Euclidean and exact, to the nearest
      pixel outside the instance, each instance by itself however many touch.
    - `direction` is the unit vector along which the distance grows, x before y: the gradient of the
      instance's own distance, which is 0 outside, by Sobel's filter. It is `(0, 0)` on ridges,
      where the gradient is zero but for rounding. Beyond the border the filter sees the image's
      last pixel again, or 0 if the border is outside.
    - `level` is `k` where `level_edges[k] < distance <= level_edges[k + 1]`; the last level is
      open, and level 0 goes down to distance 0. Distances are absolute, in pixels of this map: for
      objects much smaller than those of a street scene choose other edges.
    - `weight` is `200 / sqrt(area)` with the number of the instance's pixels.

    All are 0 on the background, and in instances of fewer than `min_area` pixels. The published
    code drops those under 100 pixels, uses the gradient without normalising it, lets it leak over
    the border of an instance, and zeroes it on the edges of the id image instead.

    There is no gradient.

    Args:
        instances: Integer or bool tensor of shape `(batch, height, width)`: an instance's id,
            greater than 0 and of any size that int32 holds, or background. Pixels of one id are one
            instance, connected or not. At most 23169 pixels high and wide.
        level_edges: The lower edges of the levels, in pixels: 1 to 256 numbers, each greater than
            the one before as float32.
        image_border_is_outside: Whether what lies beyond the image is outside of an instance, as if
            a frame of background was drawn around it. It always is for an instance that fills the
            image, and has no other pixel outside.
        min_area: Pixels that an instance must have to be taught, at least 0.

    Returns:
        A dictionary: `distance`, float32 `(batch, height, width)`; `direction`, float32 `(batch,
        height, width, 2)`; `level`, int32 `(batch, height, width)`; `weight`, float32 `(batch,
        height, width)`.

    Raises:
        TypeError: If the instances are not integers, or an argument is not a number.
        ValueError: If an argument has a wrong value, or the instances a wrong rank or size.
    """
    return call_operation(
        WatershedTargetsOperation,
        (instances,),
        level_edges=level_edges,
        image_border_is_outside=image_border_is_outside,
        min_area=min_area,
    )


@keras.saving.register_keras_serializable("kvision")
class WatershedTargetsOperation(keras.Operation):
    """`watershed_targets` as a node of a functional model. Arguments as there."""

    def __init__(
        self, *, level_edges=DWT_EDGES, image_border_is_outside=False, min_area=0, name=None
    ):
        super().__init__(name=name)
        self.level_edges = _standardize_edges(level_edges)
        if not is_int(min_area) or not 0 <= min_area < 2**63:
            raise ValueError(
                "watershed_targets: `min_area` must be a whole number of at least 0. "
                f"Received: {min_area!r}."
            )
        self.image_border_is_outside = bool(image_border_is_outside)
        self.min_area = int(min_area)

    def call(self, instances):
        instances = _instance_ids("watershed_targets", instances)
        run = _native if native.use_native() else _reference
        arguments = (self.level_edges, self.image_border_is_outside, self.min_area)
        return dict(zip(_OUTPUTS, run(instances, *arguments), strict=True))

    def compute_output_spec(self, instances):
        check_label_maps("watershed_targets", "instances", instances, max_side=_MAX_SIDE)
        shape = tuple(instances.shape)
        shapes = (shape, (*shape, 2), shape, shape)
        dtypes = ("float32", "float32", "int32", "float32")
        return {
            name: keras.KerasTensor(shape, dtype=dtype)
            for name, shape, dtype in zip(_OUTPUTS, shapes, dtypes, strict=True)
        }


def distance_transform(instances, *, image_border_is_outside=False):
    """The distance of each pixel to the nearest pixel outside its instance.

    Distances are Euclidean, between pixel centres, and exact. Every pixel of another id is outside,
    be it background or an instance, so that instances that touch are separated: the result is that
    of a distance transform for each instance alone. A mask of zeros and ones is one instance.

    - Pixels of one id are one instance, connected or not. The background has distance 0.
    - Beyond the image there is nothing, unless `image_border_is_outside`: then the nearest pixel
      outside may lie just beyond the border, as if a frame of background was drawn around the
      image. So it may for an instance that fills the image, and has no other pixel outside.

    There is no gradient.

    Args:
        instances: Integer or bool tensor of shape `(batch, height, width)`: an instance's id,
            greater than 0 and of any size that int32 holds, or background. At most 23169 pixels
            high and wide.
        image_border_is_outside: Whether what lies beyond the image is outside.

    Returns:
        Float32 tensor of shape `(batch, height, width)`, in pixels.

    Raises:
        TypeError: If the instances are not integers.
        ValueError: If the instances have a wrong rank or size.
    """
    return call_operation(
        DistanceTransformOperation,
        (instances,),
        image_border_is_outside=image_border_is_outside,
    )


@keras.saving.register_keras_serializable("kvision")
class DistanceTransformOperation(keras.Operation):
    """`distance_transform` as a node of a functional model. Arguments as there."""

    def __init__(self, *, image_border_is_outside=False, name=None):
        super().__init__(name=name)
        self.image_border_is_outside = bool(image_border_is_outside)

    def call(self, instances):
        instances = _instance_ids("distance_transform", instances)
        if native.use_native():
            return native.call(
                "distance_transform",
                instances,
                image_border_is_outside=self.image_border_is_outside,
            )
        return _reference_distance(instances, _frames_of(instances, self.image_border_is_outside))

    def compute_output_spec(self, instances):
        check_label_maps("distance_transform", "instances", instances, max_side=_MAX_SIDE)
        return keras.KerasTensor(instances.shape, dtype="float32")


def _instance_ids(name, instances):
    """The instances as int32 tensor, checked in the name of an op."""
    instances = ops.convert_to_tensor(instances)
    check_label_maps(name, "instances", instances, max_side=_MAX_SIDE)
    return ops.cast(instances, "int32")


def _standardize_edges(level_edges):
    """The edges as floats that float32 holds."""
    edges = level_edges if isinstance(level_edges, (tuple, list)) else ()
    if any(isinstance(edge, bool) or not isinstance(edge, numbers.Real) for edge in edges):
        raise TypeError(
            f"watershed_targets: `level_edges` must be numbers. Received: {level_edges!r}."
        )
    rounded = tuple(float(np.float32(edge)) for edge in edges)
    rise = all(low < high for low, high in itertools.pairwise(rounded))
    if not 1 <= len(rounded) <= _MAX_LEVELS or not rise or not all(map(math.isfinite, rounded)):
        raise ValueError(
            f"watershed_targets: `level_edges` must be 1 to {_MAX_LEVELS} finite numbers, each "
            f"greater than the one before. Received: {level_edges!r}."
        )
    return rounded


def _native(instances, level_edges, image_border_is_outside, min_area):
    return native.call(
        "watershed_targets",
        instances,
        level_edges=list(level_edges),
        image_border_is_outside=image_border_is_outside,
        min_area=min_area,
    )


# The reference ---------------------------------------------------------------------------------


def _reference(instances, level_edges, image_border_is_outside, min_area):
    """As `_native`, in `keras.ops`."""
    area = _areas(instances)
    taught = (instances > 0) & (area >= ops.cast(min(min_area, 2**31 - 1), "int32"))
    framed = _frames_of(instances, image_border_is_outside)
    distance = ops.where(taught, _reference_distance(instances, framed), 0.0)
    level = ops.zeros_like(instances)
    for edge in level_edges[1:]:
        level = level + ops.cast(distance > edge, "int32")
    root = ops.sqrt(ops.cast(ops.maximum(area, 1), "float32"))
    return (
        distance,
        _directions(instances, distance, framed),
        ops.where(taught, level, 0),
        ops.where(taught, _WEIGHT_OF_ONE_PIXEL / root, 0.0),
    )


def _areas(instances):
    """How many pixels of its image have a pixel's id: how long its run is in the sorted ids."""
    batch, height, width = ops.shape(instances)
    pixels = height * width
    ids = ops.reshape(instances, (batch, pixels))
    order = ops.argsort(ids, axis=1)
    ids = ops.take_along_axis(ids, order, axis=1)
    changes = ops.concatenate([ops.zeros_like(ids[:, :1], "bool"), ids[:, 1:] != ids[:, :-1]], 1)
    runs = ops.cumsum(ops.cast(changes, "int32"), axis=1)
    runs = runs + pixels * ops.expand_dims(ops.arange(batch, dtype="int32"), 1)
    runs = ops.reshape(runs, (-1,))
    # One more than there can be: Keras takes 0 for a number that is not given.
    lengths = ops.segment_sum(ops.ones_like(runs), runs, num_segments=batch * pixels + 1)
    areas = ops.reshape(ops.take(lengths, runs), (batch, pixels))
    areas = ops.take_along_axis(areas, ops.argsort(order, axis=1), axis=1)
    return ops.reshape(areas, (batch, height, width))


def _directions(instances, distance, framed):
    """Unit vectors of the gradient of each instance's own distance, by Sobel's filter."""

    def own(dy, dx):
        ids, values = instances, distance
        for offset, axis in ((dy, 1), (dx, 2)):
            ids, inside = _neighbours(ids, offset, axis)
            values = ops.where(inside | ~framed, _neighbours(values, offset, axis)[0], 0.0)
        return ops.where(ids == instances, values, 0.0)

    def side(*corners_and_middle):
        corner, other_corner, middle = (own(*offset) for offset in corners_and_middle)
        return (corner + other_corner) + (middle + middle)

    x = side((-1, 1), (1, 1), (0, 1)) - side((-1, -1), (1, -1), (0, -1))
    y = side((1, -1), (1, 1), (1, 0)) - side((-1, -1), (-1, 1), (-1, 0))
    slopes = ops.maximum(ops.abs(x), ops.abs(y)) > distance * _ROUNDING_OF_SLOPE
    length = ops.sqrt(ops.where(slopes, x * x + y * y, 1.0))
    gradient = ops.stack([x, y], axis=-1)
    unit = gradient / ops.expand_dims(length, -1)
    return ops.where(ops.expand_dims(slopes, -1), unit, 0.0)


def _frames_of(instances, image_border_is_outside):
    """Of which images the border is outside: of all, or of those that one instance fills."""
    filled = ops.all(instances == instances[:, :1, :1], axis=(1, 2), keepdims=True)
    return ops.logical_or(filled, image_border_is_outside)


def _reference_distance(instances, framed):
    """The distances in `keras.ops`; `framed` is what `_frames_of` returns.

    A pixel first learns how far away in its column the next pixel of another id is. Then it looks
    farther and farther to both sides along its row, where a pixel of its own id knows one that is
    outside, and any other pixel is one itself.
    """

    def look(values, offset, axis):
        """What the pixels `offset` away know of the nearest pixel outside, squared."""
        near, inside = _neighbours(instances, offset, axis)
        there = ops.where(near == instances, _neighbours(values, offset, axis)[0], 0)
        return ops.where(inside, there, ops.where(framed, 0, _FAR)) + offset * offset

    squared = ops.full_like(instances, _FAR)
    for axis in (1, 2):
        known, size = squared, ops.shape(instances)[axis]

        def is_open(offset, squared, size=size):
            return (offset <= size) & ops.any((instances > 0) & (squared > offset * offset))

        def nearer(offset, squared, known=known, axis=axis):
            found = ops.minimum(look(known, offset, axis), look(known, -offset, axis))
            return offset + 1, ops.minimum(squared, found)

        _, squared = ops.while_loop(is_open, nearer, (ops.cast(1, "int32"), squared))
    return ops.sqrt(ops.cast(ops.where(instances > 0, squared, 0), "float32"))


def _neighbours(values, offset, axis):
    """The values `offset` pixels down or to the right, and which of them lie in the image.

    For those that do not, the last ones that do.
    """
    size = ops.shape(values)[axis]
    wanted = ops.arange(size, dtype="int32") + offset
    source = ops.clip(wanted, 0, size - 1)
    inside = ops.reshape(source == wanted, [-1 if i == axis else 1 for i in range(3)])
    return ops.reshape(ops.take(values, source, axis=axis), ops.shape(values)), inside
