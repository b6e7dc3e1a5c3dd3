"""Whole systems, one task a folder."""

from kvision.models import detection

__all__ = ["detection"]
