"""Instance segmentation."""

from kvision.models.instances.mask_rcnn import MaskRCNN

__all__ = ["MaskRCNN"]
