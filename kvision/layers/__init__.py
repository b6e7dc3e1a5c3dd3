"""Keras layers, one public class a file."""

from kvision.layers.box_head import BoxHead
from kvision.layers.feature_spec import FeatureSpec
from kvision.layers.fpn import FPN
from kvision.layers.frozen_batch_normalization import FrozenBatchNormalization
from kvision.layers.rpn_head import RPNHead

__all__ = [
    "BoxHead",
    "FPN",
    "FeatureSpec",
    "FrozenBatchNormalization",
    "RPNHead",
]
