"""Backbones: images to feature pyramids."""

from kvision.backbones.receptive_field import receptive_field
from kvision.backbones.resnet import (
    ResNet,
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    ResNet152,
    ResNetTiny,
)
from kvision.backbones.to_atrous import to_atrous

__all__ = [
    "ResNet",
    "ResNet101",
    "ResNet152",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNetTiny",
    "receptive_field",
    "to_atrous",
]
