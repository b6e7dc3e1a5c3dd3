"""Instance segmentation."""

from kvision.models.instances.deep_watershed import DeepWatershed
from kvision.models.instances.level_edges import choose_level_edges
from kvision.models.instances.mask_rcnn import MaskRCNN

__all__ = ["DeepWatershed", "MaskRCNN", "choose_level_edges"]
