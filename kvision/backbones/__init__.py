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
    "Backbone",
    "MobileNetV2",
    "ResNet",
    "ResNet101",
    "ResNet152",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNetTiny",
    "classify_densely",
    "from_keras",
    "to_dense_classifier",
    "receptive_field",
    "to_atrous",
    "VGG",
    "VGG11",
    "VGG13",
    "VGG16",
    "VGG19",
    "Xception",
    "Xception65",
    "to_atrous",
]
