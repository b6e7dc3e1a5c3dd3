"""Weights of torchvision's models, from a plain mapping of arrays."""

import re
from typing import NamedTuple

import keras
import numpy as np

from kvision.backbones import ResNet
from kvision.models.detection import FasterRCNN
from kvision.weights.layouts import CONVOLUTION, DENSE, VECTOR, Layout, dense_after_flatten
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

    Bottlenecks of torchvision stride in the 3x3 convolution: their ResNet must have
    `version="v1.5"`. Its classes of a detector count the background, which is ours to add: 91
    there are `num_classes=90` here, and label c here is label c + 1 there. The detectors first
    published there (`COCO_V1`) normalise with `epsilon=0`, all others with the default.

    Args:
        model: A `kvision.backbones.ResNet` for torchvision's `resnet18` to `resnet152`, or a
            `kvision.models.detection.FasterRCNN` on a ResNet for `fasterrcnn_resnet50_fpn` and
            its kin with other ResNets.
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
        _current_name(name): np.asarray(value, "float32")
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
    if isinstance(model, FasterRCNN) and isinstance(model.backbone, ResNet):
        return _faster_rcnn_targets(model), set()
    raise ValueError(
        "load_torchvision: `model` must be a kvision.backbones.ResNet or a "
        f"kvision.models.detection.FasterRCNN on one. Received: {type(model).__name__}."
    )


def _faster_rcnn_targets(model):
    rpn, box_head = model.rpn_head, model.box_head
    side = model.roi_output_size
    return {
        **_resnet_targets(model.backbone, "backbone.body."),
        **_fpn_targets(model.fpn, "backbone.fpn."),
        **_kernel_targets(rpn.conv, "rpn.head.conv.0.0"),
        **_kernel_targets(rpn.objectness, "rpn.head.cls_logits"),
        **_kernel_targets(rpn.offsets, "rpn.head.bbox_pred"),
        **_kernel_targets(
            box_head.hidden[0], "roi_heads.box_head.fc6", dense_after_flatten(side, side)
        ),
        **_kernel_targets(box_head.hidden[1], "roi_heads.box_head.fc7", DENSE),
        **_kernel_targets(box_head.classifier, "roi_heads.box_predictor.cls_score", DENSE),
        **_kernel_targets(box_head.regressor, "roi_heads.box_predictor.bbox_pred", DENSE),
    }


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
            is_conv = isinstance(layer, keras.layers.Conv2D)
            make_targets = _kernel_targets if is_conv else _normalization_targets
            targets.update(make_targets(layer, prefix + _resnet_module(layer.name)))
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
        targets.update(_kernel_targets(fpn.laterals[level], f"{prefix}inner_blocks.{index}.0"))
        targets.update(_kernel_targets(fpn.outputs[level], f"{prefix}layer_blocks.{index}.0"))
    return targets


def _kernel_targets(layer, module, layout=CONVOLUTION):
    """Targets of a convolution or dense layer."""
    targets = {f"{module}.weight": _Target(layer.kernel, layout)}
    if layer.use_bias:
        targets[f"{module}.bias"] = _Target(layer.bias, VECTOR)
    return targets


def _normalization_targets(layer, module):
    """Targets of a batch normalisation, frozen or not."""
    return {
        f"{module}.weight": _Target(layer.gamma, VECTOR),
        f"{module}.bias": _Target(layer.beta, VECTOR),
        f"{module}.running_mean": _Target(layer.moving_mean, VECTOR),
        f"{module}.running_var": _Target(layer.moving_variance, VECTOR),
    }
