"""Any functional net as a backbone: its levels are found by their strides."""

import dataclasses
import re

import keras
from keras import layers

from kvision.backbones.atrous_layers import CropToSmallest2D
from kvision.backbones.functional_graph import Copies, Window, followable, interpret, role
from kvision.backbones.pixels import CONVENTIONS, normalize_pixels
from kvision.backbones.receptive_field import FieldWalk, image_field
from kvision.backbones.to_atrous import to_atrous
from kvision.layers import FeatureSpec

# What the nets of keras.applications expect, by the names that they have there.
_KERAS_APPLICATIONS = {
    r"vgg(16|19)|resnet(50|101|152)": "caffe",
    r"resnet(50|101|152)v2|inception_v3|inception_resnet_v2|xception": "inception",
    r"mobilenet_[\d.]+_.*|mobilenetv2_.*|nasnet.*": "inception",
    r"densenet.*": "imagenet",
}
_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU)
_ACTIVATING_OPERATIONS = {"Relu", "Relu6", "Silu", "Gelu", "HardSilu", "LeakyRelu", "Elu", "Selu"}


def from_keras(
    model,
    levels=("P2", "P3", "P4", "P5"),
    *,
    preprocessing="auto",
    output_stride=None,
    pointwise_layers=(),
    name=None,
):
    """Makes a backbone, a pyramid of feature maps, of a net from elsewhere.

    Level "Pn" is the last activation (or sum, product, concatenation) of stride 2**n that
    everything deeper goes through; where there is none at the net's last stride, its last map. The
    head of a classifier is left out. Layers are copied with their weights and their names.

    Input: `(B, H, W, 3)` RGB images, 0..255, of any size. Output: `{"P2": (B, H/4, W/4, C2), ...}`,
    each size as the net's own padding makes it.

    Args:
        model: Functional or sequential `keras.Model`: a classifier, with or without its head, or a
            backbone, of `keras.applications`, KerasHub, KerasCV or your own.
        levels: Names of the levels that are wanted; `None` for all that there are.
        preprocessing: What the net expects of pixels. `"caffe"`, `"inception"` or `"imagenet"`, see
            `kvision.backbones.Backbone`; a pair `(scale, offset)` of numbers or of one number a
            channel, for `pixels * scale + offset`; `None` if it takes 0..255 as they are. `"auto"`:
            `None` if the net begins by a `Rescaling` or `Normalization` layer, else what belongs to
            the net of keras.applications whose name the model has.
        output_stride: int, the largest stride: deeper levels dilate, by `to_atrous`, and have the
            size of the level of this stride. `None` keeps the strides.
        pointwise_layers: Classes of your own layers that treat each position by itself.
        name: Name of the new model; that of `model` by default.

    Returns:
        A functional `keras.Model` with the attribute `feature_specs`, as `kvision.backbones` have.

    Raises:
        ValueError: If the model cannot be followed, a level is not there, or what the net expects
            of pixels is not known.
    """
    model = followable("from_keras", model)
    survey = _Survey(pointwise_layers)
    interpret(model, [survey.image], survey)
    found = survey.levels()
    if missing := [level for level in levels or found if level not in found]:
        raise ValueError(
            f"from_keras: {model.name!r} has no level {missing[0]!r}; `levels` must be among "
            f"{list(found)}. Received: {list(levels)}."
        )
    images = keras.Input((None, None, model.inputs[0].shape[-1]), name="images")
    copies = Copies("from_keras")
    rebuild = _Rebuild(copies, survey.ancestors(*found.values()))
    interpret(model, [_preprocessed(images, preprocessing, model.name, survey)], rebuild)
    pyramid = {level: rebuild.outputs[call] for level, call in found.items()}
    strides = {level: 2 ** int(level[1:]) for level in found}
    backbone = keras.Model(images, pyramid, name=name or model.name)
    copies.copy_weights()
    if output_stride is not None and output_stride < max(strides.values()):
        backbone = to_atrous(
            backbone, output_stride, pointwise_layers=pointwise_layers, name=backbone.name
        )
        pyramid = dict(backbone.output)
        strides = {level: min(stride, output_stride) for level, stride in strides.items()}
        deep = [level for level, stride in strides.items() if stride == output_stride]
        cropped = CropToSmallest2D(name="levels_crop")([pyramid[level] for level in deep])
        pyramid.update(zip(deep, cropped, strict=True))
    wanted = list(levels or found)
    backbone = KerasBackbone(
        backbone.input, {level: pyramid[level] for level in wanted}, name=backbone.name
    )
    backbone.feature_specs = {
        level: FeatureSpec(pyramid[level].shape[-1], strides[level]) for level in wanted
    }
    return backbone


@keras.saving.register_keras_serializable("kvision")
class KerasBackbone(keras.Model):
    """The functional model that `from_keras` returns; it keeps its `feature_specs` when saved."""

    def __init__(self, inputs, outputs, name=None, **kwargs):
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self.autocast = False  # or pixels lose bits
        self.feature_specs = {}

    def get_config(self):
        specs = {level: list(spec) for level, spec in self.feature_specs.items()}
        return {**super().get_config(), "feature_specs": specs}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        specs = config.pop("feature_specs")
        model = super().from_config(config, custom_objects=custom_objects)
        model.feature_specs = {level: FeatureSpec(*spec) for level, spec in specs.items()}
        return model


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call of a layer: its field and the places of the calls whose outputs it takes."""

    operation: object
    args: tuple
    field: object
    sources: tuple


class _Survey:
    """Lists the calls of a net, to find its levels; `interpret` calls it."""

    def __init__(self, pointwise_layers):
        self.image = image_field((512, 512))
        self.calls = [_Call(None, (), self.image, ())]
        self._walk = FieldWalk("from_keras", pointwise_layers)
        self._places = {id(self.image): 0}

    def __call__(self, operation, args, kwargs):
        leaves = keras.tree.flatten((args, kwargs))
        sources = tuple(self._places[id(leaf)] for leaf in leaves if id(leaf) in self._places)
        field = self._walk(operation, args, kwargs)
        self._places[id(field)] = len(self.calls)
        self.calls.append(_Call(operation, args, field, sources))
        return field

    def ancestors(self, *places):
        """Places of the calls that the given ones need, and their own."""
        found, pending = set(), list(places)
        while pending:
            place = pending.pop()
            if place not in found:
                found.add(place)
                pending.extend(self.calls[place].sources)
        return found

    def levels(self):
        """Name of each level -> place of the call that gives it, finest first."""
        places = [place for place, call in enumerate(self.calls) if call.field.axes is not None]
        last = places[-1]
        found = {}
        for place in self._bottlenecks(last):
            call = self.calls[place]
            stride, other = (axis.stride for axis in call.field.axes)
            is_level = _is_activation(call) or (place == last and f"P{_log2(stride)}" not in found)
            if stride == other and _log2(stride) is not None and is_level:
                found[f"P{_log2(stride)}"] = place
        return found

    def _bottlenecks(self, last):
        """Places that everything after them, up to the last, goes through, in order."""
        places = sorted(self.ancestors(last))
        furthest = dict.fromkeys(places, 0)  # the last place that takes what each gives
        for place in places:
            for source in self.calls[place].sources:
                furthest[source] = place
        passing = 0
        for place in places:
            if passing <= place and self.calls[place].field.axes is not None:
                yield place
            passing = max(passing, furthest[place])

    def begins_by_rescaling(self):
        """Whether the net brings pixels into a range of its own before the first window."""
        for call in self.calls[1:]:
            if isinstance(call.operation, layers.Rescaling | layers.Normalization):
                return True
            what = role(call.operation, call.args)
            if isinstance(what, Window) and what.kernel != (1, 1):
                return False
        return False


class _Rebuild:
    """Copies the calls at the given places, counted from 1; `interpret` calls it."""

    def __init__(self, copies, places):
        self.outputs = {}
        self._copies = copies
        self._places = places
        self._count = 0

    def __call__(self, operation, args, kwargs):
        self._count += 1
        if self._count not in self._places:
            return None
        outputs = self._copies.of(operation)(*args, **kwargs)
        self.outputs[self._count] = outputs
        return outputs


def _preprocessed(images, preprocessing, model_name, survey):
    if preprocessing == "auto":
        expected = (
            convention
            for names, convention in _KERAS_APPLICATIONS.items()
            if re.fullmatch(names, model_name.lower())
        )
        preprocessing = None if survey.begins_by_rescaling() else next(expected, "auto")
    if preprocessing is None:
        return images
    if isinstance(preprocessing, str) and preprocessing in CONVENTIONS:
        return normalize_pixels(images, preprocessing)
    if isinstance(preprocessing, str):
        raise ValueError(
            f"from_keras: what {model_name!r} expects of pixels is not known: `preprocessing` must "
            f"be one of {list(CONVENTIONS)}, a pair (scale, offset), or None for 0..255. "
            f"Received: {preprocessing!r}."
        )
    scale, offset = preprocessing
    rescaling = layers.Rescaling(scale, offset, dtype="float32", name="pixel_normalization")
    return rescaling(images)


def _is_activation(call):
    operation = call.operation
    activation = getattr(operation, "activation", None)
    return (
        len(call.sources) > 1
        or isinstance(operation, _ACTIVATIONS)
        or activation not in (None, keras.activations.linear)
        or type(operation).__name__ in _ACTIVATING_OPERATIONS
    )


def _log2(stride):
    """The number n of stride 2**n; `None` if the stride is no power of two."""
    exponent = int(stride).bit_length() - 1
    return exponent if exponent >= 0 and stride == 2**exponent else None
