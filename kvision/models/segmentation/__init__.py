"""Semantic segmentation."""

from kvision.models.segmentation.sliding_window import predict_tiles

__all__ = ["predict_tiles"]
