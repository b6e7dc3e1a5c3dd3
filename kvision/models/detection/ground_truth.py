"""What training needs of a target dictionary."""

from typing import Any, NamedTuple

from keras import ops

from kvision.boxes import image_fingerprints, shortest_side


class GroundTruth(NamedTuple):
    """The ground truth of a batch.

    Attributes:
        boxes: `(B, M, 4)` float32, xyxy pixels, M at least 1.
        labels: `(B, M)` int32.
        valid: `(B, M)` bool: objects to learn from. Padding, empty boxes and crowd are not.
        crowd: `(B, M)` bool or `None`: boxes marked `is_crowd` or `difficult`, if any can be.
        images: `(B,)` integers that tell the images apart.
    """

    boxes: Any
    labels: Any
    valid: Any
    crowd: Any
    images: Any


def read_targets(targets):
    """Reads a target dictionary.

    Args:
        targets: Dictionary with `boxes (B, M, 4)` and `labels (B, M)`, -1 as padding, and where
            known `is_crowd (B, M)`, `difficult (B, M)`, `image_id (B,)`.

    Returns:
        A `GroundTruth`.
    """
    boxes = ops.cast(targets["boxes"], "float32")
    labels = ops.cast(targets["labels"], "int32")
    # One slot of padding more, so that there is always a box to match with.
    boxes = ops.pad(boxes, ((0, 0), (0, 1), (0, 0)))
    labels = ops.pad(labels, ((0, 0), (0, 1)), constant_values=-1)
    valid = (labels >= 0) & (shortest_side(boxes) > 0.0)

    crowd = None
    for name in ("is_crowd", "difficult"):
        if targets.get(name) is not None:
            marked = ops.pad(ops.cast(targets[name], "bool"), ((0, 0), (0, 1)))
            crowd = marked if crowd is None else crowd | marked
    if crowd is not None:
        crowd, valid = crowd & valid, valid & ~crowd

    images = targets.get("image_id")
    if images is None:
        images = image_fingerprints(boxes, valid)
    return GroundTruth(boxes, labels, valid, crowd, images)
