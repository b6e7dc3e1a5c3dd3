"""Object detectors."""

from kvision.models.detection.detector import Detector
from kvision.models.detection.faster_rcnn import FasterRCNN

__all__ = ["Detector", "FasterRCNN"]
