"""Atrous at will: any functional net as a dense net with the same weights.

Where a layer of the net has stride s, its windows are laid at every position instead, and all later
windows are dilated by s, together with their padding. Then the dense net computes all that the
strided net computes, and what it would compute between (Chen et al., DeepLab, ICLR 2015; Yu and
Koltun, ICLR 2016): ``dense[:, ::D, ::D] == strided``, from border to border.
"""

import dataclasses
import math

import keras
from keras import layers

from kvision.backbones.atrous_layers import (
    AtrousAveragePooling2D,
    AtrousMaxPooling2D,
    AtrousPadding2D,
    CropToSmallest2D,
)
from kvision.backbones.functional_graph import Copies, followable, interpret
from kvision.backbones.grid import Role, Window, role

_POOLING = {
    layers.MaxPooling2D: AtrousMaxPooling2D,
    layers.AveragePooling2D: AtrousAveragePooling2D,
}


def to_atrous(
    model, output_stride, *, image_size=None, full_size=True, pointwise_layers=(), name=None
):
    """Makes the dense net of a strided one: a new model, with copies of the weights.

    With D = the stride of a map of `model`, divided by `output_stride`, the dense net's map is,
    for an image of any size and up to rounding,

        dense[:, ::D, ::D] == strided

    Layers up to the output stride stay as they are. A head stays too: global pooling, `Flatten` and
    `Reshape` are given the strided net's positions, so that a classifier gives the same scores.
    (Pooling all positions of the dense map is a denser average, another number.) What the net costs
    grows with the square of D.

    Convolutions (also depthwise, separable, grouped), pooling, padding and cropping are converted,
    in models inside the model too; normalisations by channel, activations, `Dense`, `Dropout`,
    merging and arithmetic treat each position by itself. Other layers may stand before the first
    that is converted if they keep the map's size, and after the head.

    Args:
        model: Functional or sequential `keras.Model` of one image input, channels last: a backbone,
            or a classifier with its head; of `keras.applications`, KerasHub, KerasCV, your own.
        output_stride: int, pixels between two positions of the dense maps, where the net's stride
            is larger. 1 is a position for every pixel.
        image_size: `(height, width)` of the new model's input, `None` in it for any. By default the
            model's own.
        full_size: Whether the dense map of an n x m map is nD x mD; else it ends at the right and
            the bottom where the strided net's last whole windows do, and is smaller than that by
            less than D.
        pointwise_layers: Classes of your own layers that treat each position by itself.
        name: Name of the new model; the model's with `"_atrous"` by default.

    Returns:
        A functional `keras.Model`, with the structure of outputs and the layers' names of `model`.

    Raises:
        ValueError: If the model is not functional or its input no image, if the net has no map
            of stride `output_stride` or none beyond, or at a layer that cannot be converted.
    """
    if not isinstance(output_stride, int) or output_stride < 1:
        raise ValueError(
            f"to_atrous: `output_stride` must be a positive integer. Received: {output_stride!r}."
        )
    pointwise_layers = tuple(pointwise_layers)
    converter = _Converter(output_stride, full_size, pointwise_layers)
    model = followable("to_atrous", model)
    images = input_like(model, image_size)
    outputs = interpret(model, [_Map(images, (1, 1), (1, 1))], converter, pointwise_layers)
    if not converter.dilates:
        raise ValueError(
            "to_atrous: the model has no layer that strides beyond "
            f"`output_stride`={output_stride}: its maps are as dense already."
        )
    dense = keras.Model(
        images,
        keras.tree.map_structure(lambda each: each.tensor, outputs),
        name=name or f"{model.name}_atrous",
    )
    converter.copies.copy_weights()
    return dense


def input_like(model, image_size=None):
    """A new input like a model's, of another image size where one is given."""
    _, *size, channels = model.inputs[0].shape
    size = size if image_size is None else image_size
    return keras.Input((*size, channels), dtype=model.inputs[0].dtype, name="images")


@dataclasses.dataclass(frozen=True)
class _Map:
    """A tensor of the dense net.

    Attributes:
        tensor: The `KerasTensor`.
        stride: Pixels between two of its positions, (y, x); `None` if it has no grid any more.
        spacing: Positions for each position of the strided net's map.
    """

    tensor: object
    stride: tuple | None = None
    spacing: tuple | None = None

    @property
    def is_dense(self):
        return self.spacing not in (None, (1, 1))

    def tensor_of(self):
        return self.tensor

    def sampled(self):
        """The strided net's map."""
        if not self.is_dense:
            return self.tensor
        step_y, step_x = self.spacing
        return self.tensor[:, ::step_y, ::step_x]


class _Converter:
    """What becomes of each layer; `interpret` calls it."""

    def __init__(self, output_stride, full_size, pointwise_layers):
        self.output_stride = output_stride
        self.full_size = full_size
        self.pointwise_layers = pointwise_layers
        self.dilates = False
        self.copies = Copies("to_atrous")

    def __call__(self, operation, args, kwargs):
        maps = [leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, _Map)]
        grids = [each for each in maps if each.stride is not None]
        what = role(operation, args, self.pointwise_layers) if grids else None
        if not grids:
            return self._call(operation, args, kwargs, _Map.tensor_of)
        if isinstance(what, Window):
            return self._slide(operation, what, grids[0], args, kwargs)
        if what is Role.COLLAPSE:
            return self._call(operation, args, kwargs, _Map.sampled)
        if len({(each.stride, each.spacing) for each in grids}) > 1:
            raise _refusal(operation, "merges maps of different strides")
        if what is not Role.POINTWISE and grids[0].is_dense:
            raise _refusal(operation, f"cannot be given a dense map: {what.value}")
        tensor_of = _Map.tensor_of
        if len(grids) > 1 and grids[0].is_dense:
            tensor_of = self._aligned(operation, grids)
        outputs = self._call(operation, args, kwargs, tensor_of, like=grids[0])
        sizes = {each.tensor.shape[1:3] for each in keras.tree.flatten(outputs)}
        if what is Role.UNKNOWN and sizes != {grids[0].tensor.shape[1:3]}:
            raise _refusal(operation, "changes the map's size in a way that is not known")
        return outputs

    def _slide(self, operation, window, inputs, args, kwargs):
        """A layer with a window: laid on every position of the dense map."""
        axes = zip(window.strides, inputs.stride, inputs.spacing, strict=True)
        splits = [self._split(operation, *axis) for axis in axes]
        kept, stride, spacing = zip(*splits, strict=True)
        output = _Map(None, stride, spacing)
        if kept == window.strides and not inputs.is_dense:
            return self._call(operation, args, kwargs, _Map.tensor_of, output)
        if callable(window.padding):
            raise _refusal(operation, "is of a dense net already")
        if isinstance(operation, layers.ZeroPadding2D | layers.Cropping2D):
            argument = "padding" if isinstance(operation, layers.ZeroPadding2D) else "cropping"
            amounts = tuple(
                tuple(amount * step for amount in pair)
                for pair, step in zip(getattr(operation, argument), inputs.spacing, strict=True)
            )
            return self._call(
                operation, args, kwargs, _Map.tensor_of, output, **{argument: amounts}
            )
        geometry = {
            "window_size": window.kernel,
            "window_strides": window.strides,
            "window_dilation": window.dilation,
            "window_padding": window.padding if isinstance(window.padding, str) else "valid",
            "spacing": inputs.spacing,
            "strides": kept,
            "full_size": self.full_size,
        }
        for pooling, atrous_pooling in _POOLING.items():
            if isinstance(operation, pooling):
                layer = self.copies.beside(operation, atrous_pooling, **geometry)
                return dataclasses.replace(output, tensor=layer(inputs.tensor))
        tensor, padding = inputs.tensor, "valid"
        if not isinstance(operation, layers.Layer):  # x[:, a::s, b::t]
            top, left = (-window.pads(None, axis)[0] * inputs.spacing[axis] for axis in (0, 1))
            tensor = tensor[:, top:, left:] if top or left else tensor
        if window.strides == (1, 1) and all(window.extent(axis) % 2 for axis in (0, 1)):
            padding = window.padding  # as much before as after: Keras' `same` dilates as it should
        elif window.padding == "same" or (self.full_size and window.strides != (1, 1)):
            pad = self.copies.beside(operation, AtrousPadding2D, "_atrous_pad", **geometry)
            tensor = pad(tensor)
        if not isinstance(operation, layers.Layer):
            return dataclasses.replace(output, tensor=tensor[:, :: kept[0], :: kept[1]])
        dilation = tuple(
            own * step for own, step in zip(window.dilation, inputs.spacing, strict=True)
        )
        changes = {"strides": kept, "dilation_rate": dilation, "padding": padding}
        return self._call(operation, args, kwargs, lambda _: tensor, output, **changes)

    def _split(self, operation, layer_stride, stride, spacing):
        """The stride that a layer keeps, and its output's stride and spacing, along one axis."""
        left = self.output_stride // stride if self.output_stride % stride == 0 else 1
        kept = math.gcd(layer_stride, left)
        spacing *= layer_stride // kept
        self.dilates |= spacing > 1
        if spacing > 1 and stride * kept != self.output_stride:
            raise _refusal(
                operation,
                f"strides from {stride} to {stride * layer_stride} pixels: the net has no map of "
                f"`output_stride`={self.output_stride}",
            )
        return kept, stride * kept, spacing

    def _aligned(self, operation, grids):
        """Which tensor stands for each map: dense maps may differ by less than their spacing."""
        sizes = {each.tensor.shape[1:3] for each in grids}
        if self.full_size or (len(sizes) == 1 and None not in next(iter(sizes))):
            return _Map.tensor_of
        tensors = {}
        for place, each in enumerate(grids):
            crop = self.copies.beside(operation, CropToSmallest2D, f"_align{place}")
            others = [other.tensor for other in grids if other is not each]
            tensors[id(each)] = crop([each.tensor, *others]) if others else each.tensor
        return lambda each: tensors[id(each)] if id(each) in tensors else each.tensor

    def _call(self, operation, args, kwargs, tensor_of, like=None, **changes):
        """Calls the copy of a layer; its outputs have the grid of `like`."""
        args, kwargs = keras.tree.map_structure(
            lambda leaf: tensor_of(leaf) if isinstance(leaf, _Map) else leaf, (args, kwargs)
        )
        outputs = self.copies.of(operation, **changes)(*args, **kwargs)
        return keras.tree.map_structure(
            lambda tensor: dataclasses.replace(like or _Map(None), tensor=tensor), outputs
        )


def _refusal(operation, reason):
    return ValueError(
        f"to_atrous: the layer {operation.name!r}, {type(operation).__name__}, {reason}."
    )
