"""Semantic segmenters."""

from kvision.models.segmentation.segmenter import Segmenter

__all__ = ["Segmenter"]
