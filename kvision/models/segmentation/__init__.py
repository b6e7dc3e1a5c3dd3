"""Semantic segmenters."""

from kvision.models.segmentation.deeplab_v3 import DeepLabV3
from kvision.models.segmentation.deeplab_v3plus import DeepLabV3Plus
from kvision.models.segmentation.segmenter import Segmenter
from kvision.models.segmentation.sliding_window import predict_tiles
from kvision.models.segmentation.unet import UNet

__all__ = ["DeepLabV3", "DeepLabV3Plus", "Segmenter", "UNet", "predict_tiles"]
