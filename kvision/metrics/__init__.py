"""Detection metrics, computed on the host from collected detections."""

from kvision.metrics.coco_detection_metrics import COCODetectionMetrics

__all__ = ["COCODetectionMetrics"]
