"""Instances of an energy map, as deep watershed cuts them.

Source: Bai, Urtasun, "Deep Watershed Transform for Instance Segmentation", 2017, and the code
published with it, whose steps and order these are.
"""

import math

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.arguments import check_number, is_int
from kvision.ops.connected_components import (
    at,
    check_connectivity,
    first_pixels,
    least_of_groups,
    numbered,
    places,
    sum_of_groups,
)
from kvision.ops.label_maps import check_image_shape
from kvision.ops.operation import call_operation

_NAME = "watershed_instances"
_LEAST, _MOST = -(2**31), 2**31 - 1


def watershed_instances(
    energy,
    *,
    cut,
    semantic=None,
    min_area=0,
    grow=0,
    connectivity=8,
    fill_holes=64,
    grow_within=None,
):
    """Cuts an energy map into instances.

    Class after class:

    1. The foreground is where the energy is greater than `cut`, among the pixels of the class.
    2. Of its components, those of fewer than `min_area` pixels are removed. Here neighbours share
       a side, whatever `connectivity` is, as by default in `skimage.morphology`.
    3. Of the components of what is not foreground, those of fewer than `fill_holes` pixels are
       filled: at the edge of the image, too, and over pixels of other classes. Here neighbours
       share a side, or for `connectivity=4` a corner at least. In an image without foreground
       nothing is filled.
    4. The components of the foreground are the instances of the class, in raster order of their
       first pixels.
    5. Each grows by a square of `2 * grow + 1` pixels a side, later ones over earlier and over
       those of earlier classes, whatever the class of a pixel is.

    With `cut` 1 for persons, riders and two-wheelers and 2 for vehicles, `min_area` 20, 25 for
    cars and 45 for larger vehicles, and `grow` equal to `cut`, it is the cut of the published code.

    There is no gradient.

    Args:
        energy: Integer tensor of shape `(batch, height, width)`: levels that rise from the border
            of an instance inwards. An image must have less than 2^31 pixels.
        cut: The greatest level that is no foreground: a number, or one for each class.
        semantic: Integer tensor of shape `(batch, height, width)`: classes from 1, all else is
            background. `cut`, `min_area` or `grow` has a number for each class then, which says how
            many there are. Without it all pixels are of one class.
        min_area: Least number of pixels: a whole number of at least 0, or one for each class.
        grow: Pixels on each side: a whole number of at least 0, or one for each class.
        connectivity: 4, where neighbours share a side, or 8, where they share a corner at least.
        fill_holes: Holes of fewer pixels are filled, a whole number of at least 0.
        grow_within: Bool or integer tensor of shape `(batch, height, width)`: instances grow to
            pixels where it is not 0. They keep their own pixels outside of it.

    Returns:
        Int32 tensor of shape `(batch, height, width)`: ids of each image from 1, in raster order
        of the first pixels of the result, 0 for background. An instance that later ones have
        painted over has none.

    Raises:
        TypeError: If a tensor is not of integers, or a number is none.
        ValueError: If a number is out of its range, there are different numbers of classes, or a
            tensor has a wrong rank or size.
    """
    if semantic is not None and not any(map(_is_sequence, (cut, min_area, grow))):
        raise ValueError(
            f"{_NAME}: with `semantic`, `cut` must have a number for each class, or `min_area` or "
            f"`grow`, so that it is known how many there are. Received: cut={cut!r}."
        )
    arguments = {
        name: tuple(value) if _is_sequence(value) else value
        for name, value in {"cut": cut, "min_area": min_area, "grow": grow}.items()
    }
    return call_operation(
        WatershedInstancesOperation,
        (energy, semantic, grow_within),
        connectivity=connectivity,
        fill_holes=fill_holes,
        **arguments,
    )


@keras.saving.register_keras_serializable("kvision")
class WatershedInstancesOperation(keras.Operation):
    """`watershed_instances` as a node of a functional model. Arguments as there."""

    def __init__(self, *, cut, min_area=0, grow=0, connectivity=8, fill_holes=64, name=None):
        super().__init__(name=name)
        check_connectivity(_NAME, connectivity)
        self.connectivity = int(connectivity)
        self.fill_holes = _whole("fill_holes", fill_holes, 0)
        per_class = {
            "cut": _per_class("cut", cut, _cut),
            "min_area": _per_class("min_area", min_area, lambda n: _whole("min_area", n, 0)),
            "grow": _per_class("grow", grow, lambda n: _whole("grow", n, 0)),
        }
        self.num_classes = max(map(len, per_class.values()))
        for key, value in per_class.items():
            if len(value) not in (1, self.num_classes):
                raise ValueError(
                    f"{_NAME}: `{key}` must be a number or have one for each of "
                    f"{self.num_classes} classes. Received: {len(value)} numbers."
                )
            setattr(self, key, value * (self.num_classes // len(value)))

    def call(self, energy, semantic=None, grow_within=None):
        energy, semantic, grow_within = (
            None if tensor is None else ops.convert_to_tensor(tensor)
            for tensor in (energy, semantic, grow_within)
        )
        self._check(energy, semantic, grow_within)
        run = _native if native.use_native() else _reference
        return run(
            ops.cast(energy, "int32"),
            None if semantic is None else ops.cast(semantic, "int32"),
            None if grow_within is None else ops.cast(grow_within, "bool"),
            cut=self.cut,
            min_area=self.min_area,
            grow=self.grow,
            connectivity=self.connectivity,
            fill_holes=self.fill_holes,
        )

    def compute_output_spec(self, energy, semantic=None, grow_within=None):
        self._check(energy, semantic, grow_within)
        return keras.KerasTensor(energy.shape, dtype="int32")

    def _check(self, energy, semantic, grow_within):
        check_image_shape(_NAME, "energy", tuple(energy.shape))
        _check_dtype("energy", energy)
        if semantic is None and self.num_classes != 1:
            raise ValueError(
                f"{_NAME}: without `semantic` there is one class. "
                f"Received: numbers of {self.num_classes} classes."
            )
        for name, tensor in (("semantic", semantic), ("grow_within", grow_within)):
            if tensor is None:
                continue
            _check_dtype(name, tensor)
            shape = tuple(tensor.shape)
            if len(shape) != 3 or any(
                None not in pair and pair[0] != pair[1]
                for pair in zip(shape, energy.shape, strict=True)
            ):
                raise ValueError(
                    f"{_NAME}: `{name}` must have shape (batch, height, width), as `energy` has: "
                    f"{tuple(energy.shape)}. Received: {shape}."
                )


def _check_dtype(name, tensor):
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if "int" not in dtype and not (name == "grow_within" and dtype == "bool"):
        wanted = "bool or integers" if name == "grow_within" else "integers"
        raise TypeError(f"{_NAME}: `{name}` must be {wanted}. Received: {dtype}.")


def _is_sequence(value):
    return isinstance(value, tuple | list)


def _per_class(name, value, standardize):
    values = tuple(value) if _is_sequence(value) else (value,)
    if not values:
        raise ValueError(f"{_NAME}: `{name}` must have a number for each class. Received: none.")
    return tuple(map(standardize, values))


def _cut(value):
    check_number(_NAME, "cut", value)
    if not _LEAST <= value <= _MOST:
        raise ValueError(
            f"{_NAME}: `cut` must be between {_LEAST} and {_MOST}. Received: {value!r}."
        )
    return math.floor(value)


def _whole(name, value, least):
    check_number(_NAME, name, value)
    if not is_int(value) or not least <= value <= _MOST:
        raise ValueError(
            f"{_NAME}: `{name}` must be a whole number between {least} and {_MOST}. "
            f"Received: {value!r}."
        )
    return int(value)


def _native(energy, semantic, grow_within, **attributes):
    nothing = (ops.shape(energy)[0], 0, 0)
    semantic = ops.zeros(nothing, "int32") if semantic is None else semantic
    grow_within = ops.zeros(nothing, "bool") if grow_within is None else grow_within
    return native.call(_NAME, energy, semantic, grow_within, **attributes)


def _reference(energy, semantic, grow_within, *, cut, min_area, grow, connectivity, fill_holes):
    """As `_native`, in `keras.ops`."""
    if semantic is None:
        semantic = ops.ones_like(energy)
    per_class = [ops.convert_to_tensor(values, "int32") for values in (cut, min_area, grow)]

    def paint(index, instances, num_ids):
        its_cut, its_area, its_growth = (ops.take(values, index) for values in per_class)
        mask = (energy > its_cut) & (semantic == index + 1)
        mask = mask & ~_in_small_component(mask, 4, its_area)
        has_some = ops.any(mask, axis=(1, 2), keepdims=True)
        mask = mask | (_in_small_component(~mask, 12 - connectivity, fill_holes) & has_some)
        labels = numbered(first_pixels(mask, connectivity), mask)
        grown = _grown(labels, its_growth)
        if grow_within is not None:
            grown = ops.where(grow_within, grown, labels)
        instances = ops.where(grown > 0, grown + num_ids, instances)
        num_ids = num_ids + ops.max(labels, axis=(1, 2), keepdims=True, initial=0)
        return index + 1, instances, num_ids

    nobody = ops.zeros_like(energy)
    _, instances, _ = ops.while_loop(
        lambda index, *_: index < len(cut),
        paint,
        (ops.convert_to_tensor(0, "int32"), nobody, ops.sum(nobody, axis=(1, 2), keepdims=True)),
    )
    return _renumbered(instances)


def _in_small_component(mask, connectivity, area):
    """Which pixels of the mask belong to components of fewer than `area`."""
    first = first_pixels(mask, connectivity)
    return mask & (at(sum_of_groups(ops.cast(mask, "int32"), first), first) < area)


def _grown(labels, grow):
    """The greatest label within `grow` rows and columns, by three windows beside one another."""
    for axis in (1, 2):
        last = ops.shape(labels)[axis] - 1
        index = ops.arange(last + 1, dtype="int32")
        most = ops.minimum(grow, last)

        def widen(reached, greatest, axis=axis, index=index, last=last, most=most):
            step = ops.minimum(2 * reached + 1, most - reached)
            sides = [
                # Off the edge stands the edge, which is no farther.
                ops.take(greatest, ops.clip(side, 0, last), axis=axis)
                for side in (index - step, index + step)
            ]
            widest = ops.maximum(greatest, ops.maximum(*sides))
            return reached + step, ops.reshape(widest, ops.shape(greatest))

        _, labels = ops.while_loop(
            lambda reached, _, most=most: reached < most,
            widen,
            (ops.convert_to_tensor(0, "int32"), labels),
        )
    return labels


def _renumbered(instances):
    """Ids of each image in raster order of their first pixels."""
    is_instance = instances > 0
    # There are no more ids than pixels.
    group = ops.where(is_instance, instances - 1, 0)
    first = least_of_groups(ops.where(is_instance, places(instances), 2**31 - 1), group)
    return numbered(ops.where(is_instance, at(first, group), 0), is_instance)
