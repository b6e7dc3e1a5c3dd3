"""Weights of torchvision's models, from a plain mapping of arrays."""

import re

import numpy as np

from kvision.backbones import VGG, Backbone, MobileNetV2, ResNet
from kvision.models.classification import ImageClassifier
from kvision.models.detection import FasterRCNN
from kvision.models.instances import MaskRCNN
from kvision.models.segmentation import DeepLabV3
from kvision.weights.layouts import CONVOLUTION, dense_after_flatten
from kvision.weights.loading import Target, check_settings, load, torch_targets
from kvision.weights.torchvision_names import module_name

_BATCH = ("batch", "frozen_batch")
_PIXELS = (True, "imagenet", False)
_SETTINGS = {
    ResNet: {"normalization": _BATCH, "normalize_pixels": _PIXELS},
    VGG: {"normalization": (None, *_BATCH), "normalize_pixels": _PIXELS},
    MobileNetV2: {
        "padding": ("symmetric",),
        "last_filters": (1280, None),
        "normalization": _BATCH,
        "normalize_pixels": _PIXELS,
    },
}


def load_torchvision(model, state_dict, *, strict=True):
    """Loads a torchvision state dict.

    Every name and shape is compared before the first variable changes, so that a checkpoint is
    loaded whole or, unless `strict` is switched off, not at all. A counter
    (`num_batches_tracked`) is ignored; the classification layers of a network that becomes a
    backbone are reported as unused.

    Models must be built as torchvision's are. Bottlenecks of a ResNet stride in the 3x3
    convolution there, `version="v1.5"`; a VGG whose name ends in `_bn` has
    `normalization="batch"`; a VGG's classifier has `pool_size=7, hidden_units=(4096, 4096)`. The
    classes of a detector count the background there, which is ours to add: 91 are
    `num_classes=90` here, and label c here is label c + 1 there. The detectors first published
    there (`COCO_V1`) normalise with `epsilon=0`, all others with the default. DeepLab has
    `head_filters=256` there, on a ResNet of `output_stride=8`.

    Args:
        model: A `ResNet` (`resnet18` to `resnet152` there), `VGG` (`vgg11` to `vgg19_bn`) or
            `MobileNetV2` of `kvision.backbones`, a `kvision.models.classification.ImageClassifier`
            on one, a `kvision.models.detection.FasterRCNN` on a ResNet for
            `fasterrcnn_resnet50_fpn` and its kin with other ResNets, a
            `kvision.models.instances.MaskRCNN` on a ResNet for `maskrcnn_resnet50_fpn`, or a
            `kvision.models.segmentation.DeepLabV3` on a ResNet for `deeplabv3_resnet50` and
            `deeplabv3_resnet101`, whose auxiliary head is reported as unused.
        state_dict: Mapping of torchvision's names to arrays (anything `numpy.asarray` takes).
        strict: Whether a missing, unexpected or differently shaped array is an error. Otherwise
            all arrays that match are loaded: the way to another number of classes.

    Returns:
        A `LoadReport`.

    Raises:
        WeightsMismatchError: A ValueError with the report, under `strict`.
        ValueError: If torchvision has no such model.
    """
    targets, is_leftover = _targets(model)
    arrays = {
        _current_name(name): np.asarray(value, "float32")
        for name, value in state_dict.items()
        if not name.endswith("num_batches_tracked")
    }
    leftovers = {name for name in arrays if is_leftover(name)}
    return load("load_torchvision", model, targets, arrays, leftovers=leftovers, strict=strict)


def _current_name(name):
    """Name in today's torchvision of a variable that older checkpoints call otherwise."""
    name = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", name)
    name = re.sub(r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2", name)
    return re.sub(r"mask_fcn(\d)\.", lambda match: f"{int(match[1]) - 1}.0.", name)


def _targets(model):
    """Targets by torchvision's names, and which names are known to be left over."""
    if isinstance(model, Backbone):
        classifier = "fc." if isinstance(model, ResNet) else "classifier."
        return _backbone_targets(model, prefix=""), lambda name: name.startswith(classifier)
    if isinstance(model, ImageClassifier):
        return _classifier_targets(model), lambda name: False
    if isinstance(model, MaskRCNN) and isinstance(model.backbone, ResNet):
        return _mask_rcnn_targets(model), lambda name: False
    if isinstance(model, FasterRCNN) and isinstance(model.backbone, ResNet):
        return _faster_rcnn_targets(model), lambda name: False
    if isinstance(model, DeepLabV3) and isinstance(model.backbone, ResNet):
        return _deeplab_targets(model), lambda name: name.startswith("aux_classifier.")
    raise ValueError(
        "load_torchvision: `model` must be a ResNet, VGG or MobileNetV2 of kvision.backbones, an "
        "ImageClassifier on one, or a FasterRCNN, MaskRCNN or DeepLabV3 on a ResNet. "
        f"Received: {type(model).__name__}."
    )


def _faster_rcnn_targets(model):
    if model.fpn_filters is None:
        raise ValueError(
            "load_torchvision: torchvision's detectors have a pyramid. Received: fpn_filters=None."
        )
    rpn, box_head = model.rpn_head, model.box_head
    hidden_layout = dense_after_flatten(model.roi_output_size, model.roi_output_size)
    return {
        **_backbone_targets(model.backbone, "backbone.body."),
        **_fpn_targets(model.fpn, "backbone.fpn."),
        **torch_targets(rpn.conv, "rpn.head.conv.0.0"),
        **torch_targets(rpn.objectness, "rpn.head.cls_logits"),
        **torch_targets(rpn.offsets, "rpn.head.bbox_pred"),
        **torch_targets(box_head.hidden[0], "roi_heads.box_head.fc6", hidden_layout),
        **torch_targets(box_head.hidden[1], "roi_heads.box_head.fc7"),
        **torch_targets(box_head.classifier, "roi_heads.box_predictor.cls_score"),
        **torch_targets(box_head.regressor, "roi_heads.box_predictor.bbox_pred"),
    }


def _mask_rcnn_targets(model):
    targets, head = _faster_rcnn_targets(model), model.mask_head
    check_settings("load_torchvision", "torchvision", model, {"mask_head_convs": (4,)})
    for index, layer in enumerate(head.convs):
        targets |= torch_targets(layer, f"roi_heads.mask_head.{index}.0")
    return {
        **targets,
        **torch_targets(head.upsampling, "roi_heads.mask_predictor.conv5_mask"),
        **torch_targets(head.predictor, "roi_heads.mask_predictor.mask_fcn_logits"),
    }


def _fpn_targets(fpn, prefix):
    targets = {}
    for index, level in enumerate(fpn.laterals):
        targets |= torch_targets(fpn.laterals[level], f"{prefix}inner_blocks.{index}.0")
        targets |= torch_targets(fpn.outputs[level], f"{prefix}layer_blocks.{index}.0")
    return targets


def _deeplab_targets(model):
    settings = {"separable": (False,), "head_filters": (256,), "dilation_rates": (None,)}
    check_settings("load_torchvision", "torchvision", model, settings)
    settings = {"output_stride": (8,), "multi_grid": (None,)}
    check_settings("load_torchvision", "torchvision", model.backbone, settings)
    aspp, pooling = model.aspp, len(model.aspp.dilation_rates) + 1
    targets = _backbone_targets(model.backbone, "backbone.")
    for index, kernel in enumerate([aspp.point_kernel, *aspp.branch_kernels]):
        module = f"classifier.0.convs.{index}"
        part = slice(index * aspp.filters, (index + 1) * aspp.filters)
        targets[f"{module}.0.weight"] = Target(kernel, CONVOLUTION)
        targets |= torch_targets(aspp.branch_norm, f"{module}.1", part=part)
    targets[f"classifier.0.convs.{pooling}.1.weight"] = Target(aspp.pooling_kernel, CONVOLUTION)
    targets["classifier.0.project.0.weight"] = Target(aspp.projection_kernel, CONVOLUTION)
    convolution, norm = model.head.layers[:2]
    return {
        **targets,
        **torch_targets(aspp.pooling_norm, f"classifier.0.convs.{pooling}.2"),
        **torch_targets(aspp.projection_norm, "classifier.0.project.1"),
        **torch_targets(convolution, "classifier.1"),
        **torch_targets(norm, "classifier.2"),
        **torch_targets(model.classifier, "classifier.4"),
    }


def _classifier_targets(model):
    """The dense layers; VGG's stand with ReLU and dropout between them, MobileNet's has dropout."""
    backbone, hidden = model.backbone, model.hidden
    targets = _backbone_targets(backbone, prefix="")
    if isinstance(backbone, ResNet):
        names = ["fc"]
    elif isinstance(backbone, MobileNetV2):
        names = ["classifier.1"]
    else:
        names = [f"classifier.{3 * index}" for index in range(len(hidden) + 1)]
    layers = [*hidden, model.classifier]
    if len(names) != len(layers):
        raise ValueError(
            f"load_torchvision: torchvision's {type(backbone).__name__} has no hidden layers in "
            f"its classifier. Received: hidden_units={model.hidden_units}."
        )
    layouts = [dense_after_flatten(model.pool_size, model.pool_size), *[None] * len(hidden)]
    for layer, name, layout in zip(layers, names, layouts, strict=True):
        targets |= torch_targets(layer, name, layout)
    return targets


def _backbone_targets(backbone, prefix):
    family = type(backbone)
    if family not in _SETTINGS:
        raise ValueError(
            "load_torchvision: the backbone must be a ResNet, VGG or MobileNetV2. "
            f"Received: {family.__name__}."
        )
    check_settings("load_torchvision", "torchvision", backbone, _SETTINGS[family])
    if family is ResNet and backbone.block == "bottleneck":
        check_settings("load_torchvision", "torchvision", backbone, {"version": ("v1.5",)})
    targets = {}
    for layer in backbone.layers:
        if layer.weights:
            targets |= torch_targets(layer, prefix + module_name(backbone, layer.name))
    return targets
