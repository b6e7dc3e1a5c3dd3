"""Pictures of detections and of what nets see."""

from kvision.visualization.draw_detections import draw_detections
from kvision.visualization.draw_receptive_fields import draw_receptive_fields

__all__ = ["draw_detections", "draw_receptive_fields"]
