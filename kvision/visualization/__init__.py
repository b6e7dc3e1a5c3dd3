"""Pictures of detections."""

from kvision.visualization.draw_detections import draw_detections

__all__ = ["draw_detections"]
