"""Keras layers, one public class a file."""

from kvision.layers.feature_spec import FeatureSpec
from kvision.layers.fpn import FPN
from kvision.layers.frozen_batch_normalization import FrozenBatchNormalization

__all__ = [
    "FPN",
    "FeatureSpec",
    "FrozenBatchNormalization",
]
