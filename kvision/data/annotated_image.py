"""One annotated image, and what can be wrong with its annotation."""

import dataclasses

import numpy as np

_OUTSIDE_TOLERANCE = 1.0


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
    """One image file and its boxes, in its own pixels.

    Args:
        path: str, the image file.
        image_id: int.
        original_size: ``(height, width)``.
        bounding_boxes: dictionary of ``boxes`` float32 ``(n, 4)`` xyxy, ``labels`` int32 ``(n,)``
            and, where the format has them, ``is_crowd`` bool, ``area`` float32, ``difficult`` bool,
            each ``(n,)``.
        masks: where the objects' masks are known, the path of their label map, or a list of n
            masks, each a list of polygons or int32 runs; see `InstanceDataset`. Else None.
    """

    path: str
    image_id: int
    original_size: tuple
    bounding_boxes: dict
    masks: object = None


def check_size(found, stated):
    """Check an image's size against its annotation's.

    Args:
        found: ``(height, width)`` of the image.
        stated: ``(height, width)`` of the annotation.

    Raises:
        ValueError: they differ; the message is the reason.
    """
    if tuple(found) != tuple(stated):
        raise ValueError(
            f"the image is {found[1]} x {found[0]} pixels, its annotation says "
            f"{stated[1]} x {stated[0]}"
        )


def box_problem(box, original_size):
    """Say what is wrong with a box, if anything.

    A box may reach over the image's edge by up to one pixel, as rounding makes it; it is left so.

    Args:
        box: four numbers, xyxy in pixels.
        original_size: ``(height, width)`` of its image.

    Returns:
        The reason as str, or None.
    """
    if not np.isfinite(box).all():
        return f"the box {list(box)} is not finite"
    x1, y1, x2, y2 = box
    height, width = original_size
    if x2 <= x1 or y2 <= y1:
        return f"the box {list(box)} has no area"
    if (
        min(x1, y1) < -_OUTSIDE_TOLERANCE
        or x2 > width + _OUTSIDE_TOLERANCE
        or y2 > height + _OUTSIDE_TOLERANCE
    ):
        return f"the box {list(box)} reaches outside its image of {width} x {height} pixels"
    return None


def pack_boxes(boxes, labels, **extra):
    """Make the arrays of one image's boxes.

    Args:
        boxes: list of n boxes, four numbers each.
        labels: list of n ints.
        **extra: lists of n values; ``area`` becomes float32, ``is_crowd`` and ``difficult`` bool.

    Returns:
        Dictionary of arrays, as `AnnotatedImage` holds it.
    """
    arrays = {
        "boxes": np.array(boxes, "float32").reshape(-1, 4),
        "labels": np.array(labels, "int32"),
    }
    for key, values in extra.items():
        arrays[key] = np.array(values, "float32" if key == "area" else "bool")
    return arrays
