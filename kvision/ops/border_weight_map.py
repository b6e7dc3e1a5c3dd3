"""The weight map of U-Net: pixels between cells that touch weigh more.

Source: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image
Segmentation", 2015, section 3.
"""

import math

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.arguments import check_number
from kvision.ops.label_maps import check_label_maps
from kvision.ops.operation import call_operation

_NAME = "border_weight_map"
_MAX_SIDE = 23170
# No cell: more than the square of any distance in an image of that size.
_FAR = 2**30
_GREATEST_EXPONENT = 87.0
# Of float32, in which the arguments are passed on.
_SMALLEST, _LARGEST = 2.0**-149, 2.0**128 - 2.0**104


def border_weight_map(instances, *, class_weights=(1.0, 1.0), border_weight=10.0, sigma=5.0):
    """Weighs each pixel of a label map for the loss of a U-Net.

    `w(x) = w_c(x) + border_weight * exp(-(d1(x) + d2(x))^2 / (2 * sigma^2))`, where `w_c` is the
    weight of the pixel's class, background or cell, and `d1` and `d2` are the distances of the
    pixel to the border of the nearest cell and of the second nearest. They are Euclidean, between
    pixel centres, and exact.

    - All pixels of one id are one cell, connected or not. Its border is made of those of its
      pixels that have, of their four neighbours inside the image, one with another id, be it that
      of the background or of a cell. The edge of the image is no border.
    - As the formula says, pixels inside of cells get the second term as those between them do, by
      their distance to the borders. Common re-implementations give it to the background alone, or
      measure the distance to the cells instead of their borders, so that `d1` is 0 within a cell;
      on the background it is the same. Multiply the second term by `instances == 0` for theirs.
    - With fewer than two cells in an image the second term is 0. It is 0 too where its exponent is
      below -87, the end of float32's range.

    There is no gradient.

    Args:
        instances: Integer tensor of shape `(batch, height, width)`: a cell's id, greater than 0
            and of any size that int32 holds, or background. At most 23170 pixels high and wide.
        class_weights: The weights of background and of cells, two numbers of at least 0.
        border_weight: Greatest weight of a border, at least 0; `w_0` of the paper.
        sigma: How far a border weighs, in pixels, greater than 0.

    Returns:
        Float32 tensor of shape `(batch, height, width)`: a `sample_weight` for each pixel.

    Raises:
        TypeError: If the instances are neither bool nor integers, or an argument is not a number.
        ValueError: If an argument has a wrong value, or the instances a wrong rank or size.
    """
    return call_operation(
        BorderWeightMapOperation,
        (instances,),
        class_weights=class_weights,
        border_weight=border_weight,
        sigma=sigma,
    )


@keras.saving.register_keras_serializable("kvision")
class BorderWeightMapOperation(keras.Operation):
    """`border_weight_map` as a node of a functional model. Arguments as there."""

    def __init__(self, *, class_weights=(1.0, 1.0), border_weight=10.0, sigma=5.0, name=None):
        super().__init__(name=name)
        if not isinstance(class_weights, (tuple, list)) or len(class_weights) != 2:
            raise ValueError(
                f"{_NAME}: `class_weights` must be two numbers, of background and of cells. "
                f"Received: {class_weights!r}."
            )
        for weight in class_weights:
            _check_in_float32("class_weights", weight)
        _check_in_float32("border_weight", border_weight)
        _check_in_float32("sigma", sigma, positive=True)
        self.class_weights = tuple(map(float, class_weights))
        self.border_weight = float(border_weight)
        self.sigma = float(sigma)

    def call(self, instances):
        instances = ops.convert_to_tensor(instances)
        check_label_maps(_NAME, "instances", instances, max_side=_MAX_SIDE)
        run = _native if native.use_native() else _reference
        return run(
            ops.cast(instances, "int32"), *self.class_weights, self.border_weight, self.sigma
        )

    def compute_output_spec(self, instances):
        check_label_maps(_NAME, "instances", instances, max_side=_MAX_SIDE)
        return keras.KerasTensor(instances.shape, dtype="float32")


def _check_in_float32(name, value, positive=False):
    check_number(_NAME, name, value)
    if not (_SMALLEST if positive else 0) <= value <= _LARGEST:
        wanted = "positive and finite" if positive else "finite and at least 0"
        raise ValueError(f"{_NAME}: `{name}` must be {wanted}. Received: {value!r}.")


def _native(instances, background_weight, foreground_weight, border_weight, sigma):
    return native.call(
        _NAME,
        instances,
        background_weight=background_weight,
        foreground_weight=foreground_weight,
        border_weight=border_weight,
        sigma=sigma,
    )


def _reference(instances, background_weight, foreground_weight, border_weight, sigma):
    """As `_native`, in `keras.ops`.

    A pixel keeps the nearest cell's id, the square of its distance, and that of the nearest of
    all other cells: within its column first, then within its row of such.
    """
    is_border = (instances > 0) & _has_other_neighbour(instances)
    far = ops.full_like(instances, _FAR)
    nearest = (instances, ops.where(is_border, 0, far), far)
    for axis in (1, 2):
        nearest = _nearest_along(axis, *nearest)
    _, first, second = nearest
    distances = ops.sqrt(ops.cast(first, "float32")) + ops.sqrt(ops.cast(second, "float32"))
    exponent = ops.square(distances * (1 / (math.sqrt(2) * sigma)))
    counts = (exponent <= _GREATEST_EXPONENT) & (second < _FAR)
    border = border_weight * ops.exp(-ops.where(counts, exponent, 0.0))
    class_weight = ops.where(instances > 0, foreground_weight, background_weight)
    return ops.cast(class_weight, "float32") + ops.where(counts, border, 0.0)


def _has_other_neighbour(ids):
    rows, columns = ids[:, 1:] != ids[:, :-1], ids[:, :, 1:] != ids[:, :, :-1]
    return (
        ops.pad(rows, [(0, 0), (1, 0), (0, 0)])
        | ops.pad(rows, [(0, 0), (0, 1), (0, 0)])
        | ops.pad(columns, [(0, 0), (0, 0), (1, 0)])
        | ops.pad(columns, [(0, 0), (0, 0), (0, 1)])
    )


def _nearest_along(axis, ids, first, second):
    """The two nearest cells among those that the pixels of a column (`axis=1`) or row know."""
    size = ops.shape(ids)[axis]
    index = ops.arange(size, dtype="int32")
    shape = [-1 if i == axis else 1 for i in range(3)]

    def look(offset, *nearest):
        source = ops.clip(index + offset, 0, size - 1)
        outside = ops.reshape(source != index + offset, shape)
        seen_id, seen_first, seen_second = (
            ops.reshape(ops.take(values, source, axis=axis), ops.shape(ids))
            for values in (ids, first, second)
        )

        def distance(squared):
            return ops.where(outside, _FAR, ops.minimum(squared + offset * offset, _FAR))

        return offset + 1, *_nearer(*nearest, seen_id, distance(seen_first), distance(seen_second))

    nobody = (ops.zeros_like(ids), ops.full_like(ids, _FAR), ops.full_like(ids, _FAR))
    _, *nearest = ops.while_loop(
        lambda offset, *_: offset < size, look, (ops.cast(1 - size, "int32"), *nobody)
    )
    return nearest


def _nearer(id1, first1, second1, id2, first2, second2):
    """The two nearest of what two pixels know."""
    farther = ops.where(id1 == id2, _FAR, ops.maximum(first1, first2))
    return (
        ops.where(first2 < first1, id2, id1),
        ops.minimum(first1, first2),
        ops.minimum(farther, ops.minimum(second1, second2)),
    )
