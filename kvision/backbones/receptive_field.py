"""How far each layer of a net sees: strides, receptive fields and where they begin."""

import dataclasses
import fractions
import math
from typing import NamedTuple

import keras
from keras import layers

from kvision.backbones.functional_graph import followable, interpret
from kvision.backbones.grid import Role, Window, role

# A multiple of every usual stride: TensorFlow's `same` then pads strided layers at the end alone.
_ANY_SIZE = 512


class LayerField(NamedTuple):
    """What one call of a layer sees; pairs are (vertical, horizontal).

    Attributes:
        layer: Name of the layer.
        kind: Its class.
        map_size: Positions of its map. `None` where there is no map, but the whole image is seen.
        stride: Pixels between two positions; a `fractions.Fraction` where it is below 1.
        size: Pixels of the receptive field, also those outside the image; the largest if positions
            differ.
        start: First pixel of the field of position 0: negative where the net pads.
        sees_all: Whether the whole image is seen besides, through global pooling or statistics.
    """

    layer: str
    kind: str
    map_size: tuple | None = None
    stride: tuple | None = None
    size: tuple | None = None
    start: tuple | None = None
    sees_all: bool = True


class ReceptiveFields:
    """The table that `receptive_field` returns: `print` it, iterate over it, or ask for a layer.

    Attributes:
        image_size: `(height, width)` of the image that the maps are of.
        rows: List of a `LayerField` for every call of a layer, in the order of the net.
    """

    def __init__(self, image_size, rows):
        self.image_size = tuple(image_size)
        self.rows = list(rows)

    def __iter__(self):
        return iter(self.rows)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, layer):
        for row in self.rows:
            if row.layer == layer:
                return row
        raise KeyError(layer)

    def __str__(self):
        head = ("layer", "kind", "map", "stride", "receptive field", "start")
        lines = [head, *((row.layer, row.kind, *_cells(row)) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


def receptive_field(model, image_size=None, *, pointwise_layers=()):
    """Computes the stride, the receptive field and its start for every layer of a model.

    The field of a position is the smallest rectangle of pixels that it can depend on, by the
    windows on the way (Dumoulin and Visin, arXiv 1603.07285; Araujo, Norris and Sim, Distill 2019).
    Position i of a layer sees the pixels from `start + i * stride` to that plus `size - 1`.
    Convolutions of all kinds, pooling, padding, cropping, upsampling and merging are followed,
    in models inside the model too; global pooling and statistics over the map are noted.

    Args:
        model: Functional or sequential `keras.Model` of one image input, channels last.
        image_size: `(height, width)`, by default the model's own; TensorFlow's padding `same` and
            the sizes of the maps depend on it. Where the model leaves it open: 512.
        pointwise_layers: Classes of your own layers that treat each position by itself.

    Returns:
        `ReceptiveFields`.

    Raises:
        ValueError: If the model cannot be followed, or at a layer whose window is not known.
    """
    model = followable("receptive_field", model)
    size = model.inputs[0].shape[1:3] if image_size is None else image_size
    size = [_ANY_SIZE if side is None else side for side in size]
    walk = FieldWalk("receptive_field", pointwise_layers)
    interpret(model, [image_field(size)], walk, walk.pointwise_layers)
    return ReceptiveFields(size, walk.rows)


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Which pixels the positions of a map see, along one axis.

    Position i sees the pixels `first[i]` to `last[i]`, and `len(first)` positions later everything
    is `advance` pixels further: more than one entry are there only after upsampling.
    """

    positions: int
    advance: int
    first: tuple
    last: tuple

    @property
    def stride(self):
        stride = fractions.Fraction(self.advance, len(self.first))
        return stride.numerator if stride.denominator == 1 else stride

    @property
    def size(self):
        return max(last - first + 1 for first, last in zip(self.first, self.last, strict=True))

    def seen(self, position):
        turns, phase = divmod(position, len(self.first))
        return self.first[phase] + turns * self.advance, self.last[phase] + turns * self.advance

    def read(self, positions, reads, down=1, up=1):
        """The axis of a layer whose position i reads `reads(i)`, `down / up` further each."""
        period = len(self.first) * up // math.gcd(len(self.first) * up, down)
        advance = self.advance * period * down // (len(self.first) * up)
        seen = [[self.seen(each) for each in reads(position)] for position in range(period)]
        return _Axis(
            positions,
            advance,
            tuple(min(first for first, _ in each) for each in seen),
            tuple(max(last for _, last in each) for each in seen),
        )

    def cropped(self, other):
        """The axis of no more positions than another has."""
        return dataclasses.replace(self, positions=min(self.positions, other.positions))

    def united(self, other):
        """The axis of a layer that reads the same position of two maps."""
        period = math.lcm(len(self.first), len(other.first))
        seen = [(self.seen(position), other.seen(position)) for position in range(period)]
        return _Axis(
            min(self.positions, other.positions),
            self.advance * period // len(self.first),
            tuple(min(a[0], b[0]) for a, b in seen),
            tuple(max(a[1], b[1]) for a, b in seen),
        )


@dataclasses.dataclass(frozen=True)
class _Field:
    """What a tensor sees: along two axes, or, without them, the whole image."""

    axes: tuple | None = None
    sees_all: bool = False


def image_field(size):
    """What the pixels of an image `(height, width)` see: themselves."""
    return _Field(tuple(_Axis(side, 1, (0,), (0,)) for side in size))


class FieldWalk:
    """Follows what the layers of a net see, and makes the rows of the table.

    `interpret` calls it, on what `image_field` returns. Each value has the `axes` of a map, with
    their `stride`, or `None` where there is no map.

    Args:
        caller: Name of the function that errors are raised for.
        pointwise_layers: Classes of further layers that treat each position by itself.
    """

    def __init__(self, caller, pointwise_layers):
        self.caller = caller
        self.pointwise_layers = tuple(pointwise_layers)
        self.rows = []

    def __call__(self, operation, args, kwargs):
        leaves = keras.tree.flatten((args, kwargs))
        fields = [leaf for leaf in leaves if isinstance(leaf, _Field)]
        maps = [field for field in fields if field.axes is not None]
        field = self._field(operation, args, maps) if maps else _Field()
        if any(each.sees_all or each.axes is None for each in fields):
            field = dataclasses.replace(field, sees_all=True)
        self.rows.append(_row(operation, field))
        return field

    def _field(self, operation, args, maps):
        axes = maps[0].axes
        if isinstance(operation, layers.UpSampling2D | layers.Conv2DTranspose):
            return _Field(tuple(self._upsampled(operation, axes[axis], axis) for axis in (0, 1)))
        what = role(operation, args, self.pointwise_layers)
        if isinstance(what, Window):
            for other in maps[1:]:  # a map is cropped to others
                axes = tuple(a.cropped(b) for a, b in zip(axes, other.axes, strict=True))
            return _Field(tuple(_slid(what, axes[axis], axis) for axis in (0, 1)))
        if what is Role.COLLAPSE:
            return _Field()
        if what is Role.UNKNOWN:
            raise self._refusal(operation, f"cannot be followed: {what.value}")
        for other in maps[1:]:
            if any(a.stride != b.stride for a, b in zip(axes, other.axes, strict=True)):
                raise self._refusal(operation, "merges maps of different strides")
            axes = tuple(a.united(b) for a, b in zip(axes, other.axes, strict=True))
        return _Field(axes, sees_all=what is Role.WHOLE)

    def _upsampled(self, layer, axis, which):
        if isinstance(layer, layers.UpSampling2D):
            if layer.interpolation not in ("nearest", "bilinear"):
                raise self._refusal(layer, f"interpolates by {layer.interpolation!r}")
            return _interpolated(axis, layer.size[which], layer.interpolation)
        kernel, strides = layer.kernel_size[which], layer.strides[which]
        is_plain = layer.output_padding is None and set(layer.dilation_rate) == {1}
        if not is_plain or kernel < strides:
            raise self._refusal(layer, "has output padding, dilation or gaps")
        return _transposed(axis, kernel, strides, layer.padding)

    def _refusal(self, operation, reason):
        kind = type(operation).__name__
        return ValueError(f"{self.caller}: the layer {operation.name!r}, {kind}, {reason}.")


def _slid(window, axis, which):
    before, _ = window.pads(axis.positions, which)
    strides, dilation = window.strides[which], window.dilation[which]

    def reads(position):
        start = position * strides - before
        return [start + tap * dilation for tap in range(window.kernel[which])]

    return axis.read(window.output_size(axis.positions, which), reads, down=strides)


def _interpolated(axis, factor, interpolation):
    def reads(position):
        if interpolation == "nearest":
            return [position // factor]
        # Between the neighbours of (position + 1/2) / factor - 1/2.
        twice = 2 * position + 1 - factor
        return [twice // (2 * factor), -(-twice // (2 * factor))]

    return axis.read(axis.positions * factor, reads, up=factor)


def _transposed(axis, kernel, strides, padding):
    excess = kernel - strides
    before, positions = 0, axis.positions * strides + excess
    if padding == "same":
        before, positions = excess // 2, axis.positions * strides

    def reads(position):
        return [-((kernel - 1 - position - before) // strides), (position + before) // strides]

    return axis.read(positions, reads, up=strides)


def _row(operation, field):
    kind = type(operation).__name__
    if field.axes is None:
        return LayerField(operation.name, kind)
    columns = zip(
        *((axis.positions, axis.stride, axis.size, axis.first[0]) for axis in field.axes),
        strict=True,
    )
    return LayerField(operation.name, kind, *columns, sees_all=field.sees_all)


def _cells(row):
    if row.map_size is None:
        return ("", "", "whole image", "")
    height, width = row.map_size
    pairs = (row.stride, row.size, row.start)
    stride, size, start = (str(a) if a == b else f"{a} x {b}" for a, b in pairs)
    return (f"{height} x {width}", stride, size + " + all" * row.sees_all, start)
