"""Weights of torchvision's models, from a plain mapping of arrays."""

import re
from typing import NamedTuple

import keras
import numpy as np

from kvision.backbones import ResNet
from kvision.weights.layouts import CONVOLUTION, VECTOR, Layout
from kvision.weights.report import LoadReport, WeightsMismatchError


class _Target(NamedTuple):
    """The variable an array goes to."""

    variable: keras.Variable
    layout: Layout

    @property
    def source_shape(self):
        return self.layout.source_shape(tuple(self.variable.shape))


def load_torchvision(model, state_dict, *, strict=True):
    """Loads a torchvision state dict.

    Every name and shape is compared before the first variable changes, so that a checkpoint is
    loaded whole or, unless `strict` is switched off, not at all. A counter
    (`num_batches_tracked`) is ignored; the classification layer `fc` of a ResNet is reported as
    unused.

    Args:
        model: A `kvision.backbones.ResNet` for torchvision's `resnet18` to `resnet152`. Those
            with bottlenecks stride in the 3x3 convolution: they need `version="v1.5"`.
        state_dict: Mapping of torchvision's names to arrays (anything `numpy.asarray` takes).
        strict: Whether a missing, unexpected or differently shaped array is an error. Otherwise
            all arrays that match are loaded: the way to another number of classes.

    Returns:
        A `LoadReport`.

    Raises:
        WeightsMismatchError: A ValueError with the report, under `strict`.
        ValueError: If torchvision has no such model.
    """
    targets, unused = _targets(model)
    arrays = {
        _current_name(name): np.asarray(value)
        for name, value in state_dict.items()
        if not name.endswith("num_batches_tracked")
    }
    shared = [name for name in targets if name in arrays]
    mismatched = {
        name: (targets[name].source_shape, arrays[name].shape)
        for name in shared
        if targets[name].source_shape != arrays[name].shape
    }
    leftover = [name for name in arrays if name not in targets]
    report = LoadReport(
        loaded=tuple(name for name in shared if name not in mismatched),
        missing=tuple(name for name in targets if name not in arrays),
        unexpected=tuple(name for name in leftover if name not in unused),
        mismatched=mismatched,
        unused=tuple(name for name in leftover if name in unused),
    )
    if strict and not report.complete:
        raise WeightsMismatchError(
            f"load_torchvision: the weights do not fit {model.name}; nothing was loaded.", report
        )
    for name in report.loaded:
        variable, layout = targets[name]
        variable.assign(layout.convert(arrays[name]))
    return report


def _current_name(name):
    """Name in today's torchvision of a variable that older checkpoints call otherwise."""
    name = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", name)
    return re.sub(r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2", name)


def _targets(model):
    """Targets by torchvision's names, and the names known to be left over."""
    if isinstance(model, ResNet):
        return _resnet_targets(model, prefix=""), {"fc.weight", "fc.bias"}
    raise ValueError(
        "load_torchvision: `model` must be a kvision.backbones.ResNet. "
        f"Received: {type(model).__name__}."
    )


def _resnet_targets(backbone, prefix):
    if backbone.block == "bottleneck" and backbone.version != "v1.5":
        raise ValueError(
            "load_torchvision: torchvision's bottlenecks stride in the 3x3 convolution; build "
            f'the ResNet with version="v1.5". Received: version={backbone.version!r}.'
        )
    if backbone.normalization == "group":
        raise ValueError(
            "load_torchvision: torchvision's ResNets have batch normalisation. "
            'Received: normalization="group".'
        )
    targets = {}
    for layer in backbone.layers:
        if layer.weights:
            targets.update(_layer_targets(layer, prefix + _resnet_module(layer.name)))
    return targets


def _resnet_module(layer_name):
    """Name of a layer in torchvision: stage3_block0_norm2 -> layer2.0.bn2."""
    kinds = {"conv": "conv", "norm": "bn"}
    stem = re.fullmatch(r"stage1_(conv|norm)", layer_name)
    if stem:
        return f"{kinds[stem[1]]}1"
    stage, block, role = re.fullmatch(r"stage(\d)_block(\d+)_(.*)", layer_name).groups()
    if role.startswith("shortcut"):
        module = "downsample.0" if role.endswith("conv") else "downsample.1"
    else:
        module = f"{kinds[role[:-1]]}{role[-1]}"
    return f"layer{int(stage) - 1}.{block}.{module}"


def _fpn_targets(fpn, prefix):
    targets = {}
    for index, level in enumerate(fpn.laterals):
        targets.update(_layer_targets(fpn.laterals[level], f"{prefix}inner_blocks.{index}.0"))
        targets.update(_layer_targets(fpn.outputs[level], f"{prefix}layer_blocks.{index}.0"))
    return targets


def _layer_targets(layer, module):
    """Targets of a convolution or of a batch normalisation, frozen or not."""
    if isinstance(layer, keras.layers.Conv2D):
        targets = {f"{module}.weight": _Target(layer.kernel, CONVOLUTION)}
        if layer.use_bias:
            targets[f"{module}.bias"] = _Target(layer.bias, VECTOR)
        return targets
    return {
        f"{module}.weight": _Target(layer.gamma, VECTOR),
        f"{module}.bias": _Target(layer.beta, VECTOR),
        f"{module}.running_mean": _Target(layer.moving_mean, VECTOR),
        f"{module}.running_var": _Target(layer.moving_variance, VECTOR),
    }
