"""Pictures of detections, label maps, instances, scores, training runs and of what nets see."""

from kvision.visualization.draw_class_bars import draw_class_bars
from kvision.visualization.draw_confusion_matrix import draw_confusion_matrix
from kvision.visualization.draw_detections import draw_detections
from kvision.visualization.draw_directions import draw_directions
from kvision.visualization.draw_energy import draw_energy
from kvision.visualization.draw_history import draw_history
from kvision.visualization.draw_instances import draw_instances
from kvision.visualization.draw_receptive_fields import draw_receptive_fields
from kvision.visualization.draw_segmentation import draw_segmentation

__all__ = [
    "draw_class_bars",
    "draw_confusion_matrix",
    "draw_detections",
    "draw_directions",
    "draw_energy",
    "draw_history",
    "draw_instances",
    "draw_receptive_fields",
    "draw_segmentation",
]
