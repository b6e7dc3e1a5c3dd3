"""Detection metrics, computed on the host from collected detections."""

from kvision.metrics.coco_detection_metrics import COCODetectionMetrics
from kvision.metrics.collected_detections import CollectedDetections, ImageRecord
from kvision.metrics.voc_detection_metrics import VOCDetectionMetrics

__all__ = [
    "COCODetectionMetrics",
    "CollectedDetections",
    "ImageRecord",
    "VOCDetectionMetrics",
]
