"""COCO: one JSON file with all images, annotations and categories of a split.

Format: T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", 2014.
"""

import json
import os
import pathlib

from kvision.data.annotated_image import AnnotatedImage, box_problem, check_size, pack_boxes
from kvision.data.detection_dataset import DetectionDataset
from kvision.data.instance_dataset import InstanceDataset
from kvision.data.problems import ProblemReport
from kvision.masks.run_lengths import check_polygon, rle_to_runs


def read_coco(annotation_file, image_dir, *, masks=False, on_error="raise", apply_exif=True):
    """Read a detection data set in COCO's JSON format, with or without masks.

    Categories become labels 0, 1, ... in the order of their ids; `DetectionDataset.class_names`
    has their names and ``category_ids`` their ids in that order. Images keep their ids and the
    order of the file; images without annotations are kept. Crowds are kept and marked.

    Annotations are read and checked now, pixels when a pass over `DetectionDataset.dataset` comes
    to them. Under ``on_error="skip"`` an image is left out when its file is missing or damaged or
    its size is not the one stated; a box alone is left out, and its image kept, when its category
    or its image is unknown, its ``bbox`` is not four numbers, it has no area or it reaches outside
    the image by more than one pixel, or, where masks are read, its ``segmentation`` is neither
    polygons nor an RLE of the image's size. Nothing is repaired or clipped.

    Args:
        annotation_file: str or path of an ``instances_*.json``.
        image_dir: str or path of the folder that the ``file_name`` of the images start from.
        masks: bool, whether the polygons and RLE of the objects are read as well, which needs
            faster-coco-eval.
        on_error: ``"raise"`` or ``"skip"``; see `DetectionDataset.report` for what was skipped.
        apply_exif: bool, whether EXIF orientation turns the pixels before they are compared with
            the annotation.

    Returns:
        `DetectionDataset` with ``boxes`` (xyxy), ``labels``, ``is_crowd`` and ``area`` (the
        annotation's, or the box's where it has none), and the attribute ``category_ids``; with
        ``masks`` it is an `InstanceDataset`, whose batches have ``mask_runs``.

    Raises:
        ValueError: the file is not COCO JSON, an image id is not an int32 or is there twice; or,
            under ``on_error="raise"``, the first problem, with file and reason.
    """
    report = ProblemReport("read_coco", on_error)
    content = _load(annotation_file)
    categories = sorted(content["categories"], key=lambda category: category["id"])
    labels = {category["id"]: label for label, category in enumerate(categories)}
    annotations = _by_image(content, annotation_file, report)
    examples = []
    for image in content["images"]:
        if not {"file_name", "height", "width"} <= image.keys():
            reason = f"image {image['id']}: it lacks its file name, height or width"
            report.add(annotation_file, "image", reason)
            continue
        path = os.path.join(image_dir, image["file_name"])
        if not os.path.isfile(path):
            report.add(path, "image", "the image file is missing")
            continue
        size = image["height"], image["width"]
        kept = [
            item
            for item in annotations[image["id"]]
            if _is_usable(item, labels, size, masks, annotation_file, report)
        ]
        boxes = pack_boxes(
            [_corners(item) for item in kept],
            [labels[item["category_id"]] for item in kept],
            is_crowd=[item.get("iscrowd", 0) for item in kept],
            area=[item["area"] if "area" in item else _box_area(item) for item in kept],
        )
        drawn = [item["segmentation"] for item in kept] if masks else None
        examples.append(AnnotatedImage(path, image["id"], size, boxes, drawn))
    report.warn()
    names = [category["name"] for category in categories]
    kind = InstanceDataset if masks else DetectionDataset
    dataset = kind(examples, names, report, apply_exif=apply_exif)
    dataset.category_ids = tuple(labels)
    return dataset


def _load(annotation_file):
    try:
        content = json.loads(pathlib.Path(annotation_file).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"read_coco: {annotation_file}: it is not JSON ({error})") from error
    missing = [key for key in ("images", "annotations", "categories") if key not in content]
    if missing:
        raise ValueError(f"read_coco: {annotation_file}: it has no {missing}")
    return content


def _by_image(content, annotation_file, report):
    """Lists of annotations by image id, in the order of the file."""
    by_image = {}
    for image in content["images"]:
        image_id = image.get("id")
        if not isinstance(image_id, int) or not 0 <= image_id < 2**31:
            raise ValueError(
                f"read_coco: {annotation_file}: the image id {image_id!r} is not an int32"
            )
        if image_id in by_image:
            raise ValueError(f"read_coco: {annotation_file}: two images have the id {image_id}")
        by_image[image_id] = []
    for item in content["annotations"]:
        image_id = item.get("image_id")
        if image_id in by_image:
            by_image[image_id].append(item)
        else:
            reason = f"annotation {item.get('id')}: its image {image_id} is unknown"
            report.add(annotation_file, "box", reason)
    return by_image


def _is_usable(item, labels, size, masks, annotation_file, report):
    category = item.get("category_id")
    if category not in labels:
        reason = f"the category {category} is unknown"
    else:
        try:
            reason = box_problem(_corners(item), size)
        except (KeyError, TypeError, ValueError):
            reason = f"the box {item.get('bbox')} is not four numbers"
    if not reason and masks:
        try:
            item["segmentation"] = _mask(item, size)
        except (KeyError, TypeError, ValueError) as error:
            reason = (
                f"its segmentation is neither polygons nor an RLE of its image's size ({error})"
            )
    if reason:
        report.add(annotation_file, "box", f"annotation {item.get('id')}: {reason}")
    return not reason


def _mask(item, size):
    """Its polygons, or the runs of its RLE."""
    segmentation = item["segmentation"]
    if isinstance(segmentation, dict):
        check_size(size, segmentation["size"])
        return rle_to_runs(segmentation)
    if not segmentation:
        raise ValueError("it is empty")
    return [check_polygon("read_coco", polygon) for polygon in segmentation]


def _corners(item):
    x, y, width, height = map(float, item["bbox"])
    return [x, y, x + width, y + height]


def _box_area(item):
    x1, y1, x2, y2 = _corners(item)
    return (x2 - x1) * (y2 - y1)
