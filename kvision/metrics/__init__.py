"""Metrics: of detections, collected and computed on the host; of label maps, as Keras metrics."""

from kvision.metrics.boundary_f_score import BoundaryFScore
from kvision.metrics.cityscapes_instance_metrics import CityscapesInstanceMetrics
from kvision.metrics.coco_detection_metrics import COCODetectionMetrics
from kvision.metrics.coco_mask_metrics import COCOMaskMetrics
from kvision.metrics.collected_detections import CollectedDetections, ImageRecord
from kvision.metrics.object_metrics import ObjectMetrics
from kvision.metrics.panoptic_quality import PanopticQuality
from kvision.metrics.segmentation_metrics import SegmentationMetrics, segmentation_scores
from kvision.metrics.voc_detection_metrics import VOCDetectionMetrics

__all__ = [
    "BoundaryFScore",
    "COCODetectionMetrics",
    "COCOMaskMetrics",
    "CityscapesInstanceMetrics",
    "CollectedDetections",
    "ImageRecord",
    "ObjectMetrics",
    "PanopticQuality",
    "SegmentationMetrics",
    "VOCDetectionMetrics",
    "segmentation_scores",
]
