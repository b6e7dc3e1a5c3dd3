"""Backbones: images to feature pyramids."""

from kvision.backbones.backbone import Backbone
from kvision.backbones.classify_densely import classify_densely, to_dense_classifier
from kvision.backbones.from_keras import from_keras
from kvision.backbones.mobilenet_v2 import MobileNetV2
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
from kvision.backbones.vgg import VGG, VGG11, VGG13, VGG16, VGG19
from kvision.backbones.xception import Xception, Xception65

__all__ = [
    "VGG",
    "VGG11",
    "VGG13",
    "VGG16",
    "VGG19",
    "Backbone",
    "MobileNetV2",
    "ResNet",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "ResNet152",
    "ResNetTiny",
    "Xception",
    "Xception65",
    "classify_densely",
    "from_keras",
    "receptive_field",
    "to_atrous",
    "to_atrous",
    "to_dense_classifier",
]
