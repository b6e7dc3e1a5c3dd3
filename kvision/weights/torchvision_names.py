"""What torchvision calls the layers of our backbones."""

import re

from kvision.backbones import VGG, MobileNetV2, ResNet


def module_name(backbone, layer_name):
    """Name of a layer's module in torchvision.

    Args:
        backbone: A `ResNet`, `VGG` or `MobileNetV2`.
        layer_name: Name of one of its layers that have weights.

    Returns:
        The name, without that of the network it may be in.
    """
    return _NAMES[type(backbone)](backbone, layer_name)


def _resnet(backbone, layer_name):
    """For example stage3_block0_norm2 -> layer2.0.bn2."""
    del backbone
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


def _vgg(backbone, layer_name):
    """For example stage2_conv1 -> features.5: there, ReLU and pooling count as well."""
    stage, kind, index = re.fullmatch(r"stage(\d)_(conv|norm)(\d)", layer_name).groups()
    layers = 2 if backbone.normalization is None else 3
    poolings = int(stage) - 1
    convolutions = sum(backbone.depths[:poolings]) + int(index) - 1
    return f"features.{layers * convolutions + poolings + (kind == 'norm')}"


def _mobilenet_v2(backbone, layer_name):
    """For example stage2_block1_project_norm -> features.2.conv.3; the first block expands not."""
    del backbone
    kinds = {"conv": 0, "norm": 1}
    ends = re.fullmatch(r"stage(1|5)_(conv|norm)", layer_name)
    if ends:
        return f"features.{0 if ends[1] == '1' else 18}.{kinds[ends[2]]}"
    index, role, kind = re.fullmatch(r"stage\d_block(\d+)_(.*)_(.*)", layer_name).groups()
    place = {"expand": 0, "depthwise": 1, "project": 2}[role] - (index == "0")
    place = str(place + kinds[kind]) if role == "project" else f"{place}.{kinds[kind]}"
    return f"features.{int(index) + 1}.conv.{place}"


_NAMES = {ResNet: _resnet, VGG: _vgg, MobileNetV2: _mobilenet_v2}
