"""Whole systems, one task a folder."""

from kvision.models import detection, segmentation

__all__ = ["detection", "segmentation"]
