"""Instance segmentation: every pixel of every object."""

from kvision.models.instances.deep_watershed import DeepWatershed
from kvision.models.instances.level_edges import choose_level_edges

__all__ = ["DeepWatershed", "choose_level_edges"]
