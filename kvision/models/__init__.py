"""Whole systems, one task a folder."""

from kvision.models import catalog, classification, detection, instances, segmentation
from kvision.models.image_model import ImageModel

__all__ = [
    "ImageModel",
    "catalog",
    "classification",
    "detection",
    "instances",
    "segmentation",
]
