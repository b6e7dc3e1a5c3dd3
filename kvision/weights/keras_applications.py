"""Weights of keras.applications' models, from a model or its file."""

import re

from kvision.backbones import VGG, Backbone, MobileNetV2, ResNet, Xception
from kvision.models.classification import ImageClassifier
from kvision.weights.keras_files import read_layers
from kvision.weights.loading import Target, check_settings, load

_BATCH = ("batch", "frozen_batch")
_SETTINGS = {
    ResNet: {
        "block": ("bottleneck",),
        "version": ("v1",),
        "normalization": _BATCH,
        "epsilon": (1.001e-5,),
        "normalize_pixels": ("caffe", False),
    },
    VGG: {"normalization": (None,), "normalize_pixels": ("caffe", False)},
    Xception: {
        "aligned": (False,),
        "normalization": _BATCH,
        "epsilon": (1e-3,),
        "normalize_pixels": (True, "inception", False),
    },
    MobileNetV2: {
        "padding": ("same",),
        "normalization": _BATCH,
        "epsilon": (1e-3,),
        "normalize_pixels": ("inception", False),
    },
}
_CLASSIFIER = ("fc1", "fc2", "predictions")


def load_keras(model, source, *, strict=True):
    """Loads the weights of a model of keras.applications, by its layers' names.

    Every name and shape is compared before the first variable changes, so that a checkpoint is
    loaded whole or, unless `strict` is switched off, not at all. The classification layers of a
    network that becomes a backbone are reported as unused.

    Models must be built as keras.applications builds them, and the error says how if they are not:
    `VGG16(normalize_pixels="caffe")`, `ResNet50(epsilon=1.001e-5, normalize_pixels="caffe")`,
    `Xception()`, `MobileNetV2(padding="same", epsilon=1e-3, normalize_pixels="inception")`. The
    pixels are then normalised as `preprocess_input` there does it. `normalize_pixels=False` is
    right for weights that were trained on other pixels. A VGG's classifier has `pool_size=7,
    hidden_units=(4096, 4096)`.

    The convolutions of ResNets have biases there, which the normalisation after them makes
    superfluous: each is subtracted from a moving mean, and the network computes the same.

    Args:
        model: A `ResNet` of bottlenecks, `VGG`, `Xception` or `MobileNetV2` of `kvision.backbones`,
            or a `kvision.models.classification.ImageClassifier` on one.
        source: The model of keras.applications, or the path of its `.keras`, `.weights.h5` or
            older `.h5` file.
        strict: Whether a missing, unexpected or differently shaped array is an error. Otherwise
            all arrays that match are loaded: the way to another number of classes.

    Returns:
        A `LoadReport`, whose names are `<layer>/<variable>`.

    Raises:
        WeightsMismatchError: A ValueError with the report, under `strict`.
        ValueError: If keras.applications has no such model, or a file has no names of layers.
    """
    targets = _targets(model)
    layers = _name_shortcuts(read_layers(source))
    arrays = {
        f"{layer}/{name}": array
        for layer, values in layers.items()
        for name, array in _name_variables(values).items()
    }
    _subtract_biases(arrays, targets)
    leftovers = set()
    if isinstance(model, Backbone):
        omitted = [*_CLASSIFIER]
        if isinstance(model, MobileNetV2) and model.last_filters is None:
            omitted += ["Conv_1", "Conv_1_bn"]
        leftovers = {name for name in arrays if name.split("/")[0] in omitted}
    return load("load_keras", model, targets, arrays, leftovers=leftovers, strict=strict)


def _targets(model):
    """Targets by the names of keras.applications."""
    backbone = model.backbone if isinstance(model, ImageClassifier) else model
    family = type(backbone)
    if family not in _SETTINGS:
        raise ValueError(
            "load_keras: `model` must be a ResNet, VGG, Xception or MobileNetV2 of "
            f"kvision.backbones, or an ImageClassifier on one. Received: {family.__name__}."
        )
    check_settings("load_keras", "keras.applications", backbone, _SETTINGS[family])
    targets = {}
    for layer in backbone.layers:
        if layer.weights:
            targets |= _layer_targets(layer, *_NAMES[family](backbone, layer.name))
    if isinstance(model, ImageClassifier):
        for index, layer in enumerate(model.hidden, start=1):
            targets |= _layer_targets(layer, f"fc{index}")
        targets |= _layer_targets(model.classifier, "predictions")
    return targets


def _layer_targets(layer, source, kernel="kernel"):
    if not hasattr(layer, "kernel"):
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        return {f"{source}/{name}": Target(getattr(layer, name)) for name in names}
    targets = {f"{source}/{kernel}": Target(layer.kernel)}
    if layer.use_bias:
        targets[f"{source}/bias"] = Target(layer.bias)
    return targets


def _name_variables(values):
    """The arrays of a layer by name: files of some versions have no names for them."""
    if len(values) == 4:
        names = ("gamma", "beta", "moving_mean", "moving_variance")
    elif len(values) > 1 and values[1].ndim == 4:
        names = ("depthwise_kernel", "pointwise_kernel")
    else:
        names = ("kernel", "bias")
    return dict(zip(names, values, strict=False))


def _name_shortcuts(layers):
    """Gives Xception's shortcuts names: Keras numbers them by what it made before."""
    named = dict(layers)
    for kind, pattern in (
        ("conv", r"conv(?:olution)?2d(?:_(\d+))?"),
        ("bn", r"batch_?normalization(?:_(\d+))?"),
    ):
        matches = [match for name in layers if (match := re.fullmatch(pattern, name))]
        for index, match in enumerate(sorted(matches, key=lambda m: int(m[1] or 0)), start=1):
            named[f"shortcut{index}_{kind}"] = named.pop(match[0])
    return named


def _subtract_biases(arrays, targets):
    """Moves biases that have no place into the moving means of the normalisations after them."""
    for name in list(arrays):
        mean = name.replace("_conv/bias", "_bn/moving_mean")
        if name not in targets and mean != name and mean in arrays:
            arrays[mean] = arrays[mean] - arrays.pop(name)


def _resnet(backbone, layer_name):
    """For example stage3_block0_norm2 -> conv3_block1_2_bn."""
    del backbone
    kinds = {"conv": "conv", "norm": "bn"}
    stem = re.fullmatch(r"stage1_(conv|norm)", layer_name)
    if stem:
        return [f"conv1_{kinds[stem[1]]}"]
    stage, block, role = re.fullmatch(r"stage(\d)_block(\d+)_(.*)", layer_name).groups()
    if role.startswith("shortcut_"):
        role, index = role.removeprefix("shortcut_"), 0
    else:
        role, index = role[:-1], role[-1]
    return [f"conv{stage}_block{int(block) + 1}_{index}_{kinds[role]}"]


def _vgg(backbone, layer_name):
    del backbone
    return [layer_name.replace("stage", "block")]


def _xception(backbone, layer_name):
    """For example stage5_block0_pointwise2 -> block13_sepconv2, pointwise_kernel."""
    kinds = {"conv": "", "norm": "_bn"}
    stem = re.fullmatch(r"stage1_(conv|norm)(\d)", layer_name)
    if stem:
        return [f"block1_conv{stem[2]}{kinds[stem[1]]}"]
    stage, block, role = re.fullmatch(r"stage(\d)_block(\d+)_(.*)", layer_name).groups()
    if role.startswith("shortcut_"):
        return [f"shortcut{int(stage) - 1}_{'conv' if role.endswith('conv') else 'bn'}"]
    before = int(stage) + (backbone.middle_blocks if stage == "5" else 0)
    source = f"block{before + int(block)}_sepconv{role[-1]}"
    if role.startswith("norm"):
        return [f"{source}_bn"]
    return [source, f"{role[:-1]}_kernel"]


def _mobilenet_v2(backbone, layer_name):
    """For example stage2_block1_project_norm -> block_1_project_BN."""
    del backbone
    ends = {
        "stage1_conv": "Conv1",
        "stage1_norm": "bn_Conv1",
        "stage5_conv": "Conv_1",
        "stage5_norm": "Conv_1_bn",
    }
    if layer_name in ends:
        return [ends[layer_name]]
    index, role, kind = re.fullmatch(r"stage\d_block(\d+)_(.*)_(.*)", layer_name).groups()
    block = "expanded_conv" if index == "0" else f"block_{index}"
    return [f"{block}_{role}{'_BN' if kind == 'norm' else ''}"]


_NAMES = {ResNet: _resnet, VGG: _vgg, Xception: _xception, MobileNetV2: _mobilenet_v2}
