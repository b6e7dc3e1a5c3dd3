"""Any functional net as a backbone: its levels are found by their strides."""

import re

import keras
from keras import layers

from kvision.backbones.atrous_layers import CropToSmallest2D
from kvision.backbones.functional_graph import Copies, followable, interpret
from kvision.backbones.grid import Window, role
from kvision.backbones.pixels import CONVENTIONS, normalize_pixels
from kvision.backbones.survey import Survey
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
_ACTIVATING_OPERATIONS = {
    "ReLU",
    "Relu",
    "Relu6",
    "Silu",
    "Gelu",
    "HardSilu",
    "LeakyRelu",
    "Elu",
    "Selu",
}


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
        preprocessing: What the net expects of pixels. `"caffe"`: BGR less the means
            (103.939, 116.779, 123.68); `"inception"`: -1..1; `"imagenet"`: standardised by
            ImageNet's mean and standard deviation of each channel; a pair `(scale, offset)`, of
            numbers or of one number a channel, for `pixels * scale + offset`; `None` if it takes
            0..255 as they are. `"auto"`: `None` if the net begins by a `Rescaling` or
            `Normalization` layer, else what the net of keras.applications expects whose name the
            model has.
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
    pointwise_layers = tuple(pointwise_layers)
    survey = Survey("from_keras", model, pointwise_layers=pointwise_layers)
    found = _levels(survey)
    if missing := [level for level in levels or found if level not in found]:
        raise ValueError(
            f"from_keras: {model.name!r} has no level {missing[0]!r}; `levels` must be among "
            f"{list(found)}. Received: {list(levels)}."
        )
    images = keras.Input((None, None, model.inputs[0].shape[-1]), name="images")
    copies = Copies("from_keras")
    rebuild = _Rebuild(copies, survey.ancestors(*found.values()))
    pixels = _preprocessed(images, preprocessing, model.name, survey)
    interpret(model, [pixels], rebuild, pointwise_layers)
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
        for level in deep:
            maps = [backbone.output[each] for each in (level, *deep)]
            pyramid[level] = CropToSmallest2D(name=f"crop_{level}")(maps)
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


def _levels(survey):
    """Name of each level -> place of the call that gives it, finest first."""
    found = {}
    for place in survey.bottlenecks():
        call = survey.calls[place]
        stride, other = (axis.stride for axis in call.field.axes)
        exponent = int(stride).bit_length() - 1
        if stride != other or stride != 2**exponent:
            continue
        level = f"P{exponent}"
        if _is_activation(call) or (place == survey.last_map and level not in found):
            found[level] = place
    return found


def _is_activation(call):
    operation = call.operation
    return (
        len(call.sources) > 1
        or isinstance(operation, _ACTIVATIONS)
        or getattr(operation, "activation", None) not in (None, keras.activations.linear)
        or type(operation).__name__ in _ACTIVATING_OPERATIONS
    )


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
        preprocessing = None if _begins_by_rescaling(survey) else next(expected, "auto")
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


def _begins_by_rescaling(survey):
    """Whether the net brings pixels into a range of its own before the first window."""
    for call in survey.calls[1:]:
        if isinstance(call.operation, layers.Rescaling | layers.Normalization):
            return True
        what = role(call.operation, call.args)
        if isinstance(what, Window) and what.kernel != (1, 1):
            return False
    return False
