"""COCO statistics of masks against stored results of pycocotools and worked examples."""

import json

import numpy as np
import pytest

from kvision.metrics import COCOMaskMetrics
from tests.metrics.test_coco_detection_metrics import assert_statistics, xyxy


def runs_of(mask):
    """Run lengths by their definition, one pixel after the other down the columns."""
    runs, value = [0], 0
    for pixel in np.asarray(mask).T.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def runs_of_coco(segmentation, size):
    """Run lengths of polygons or of RLE, drawn by the evaluator's own tool."""
    coco = pytest.importorskip("faster_coco_eval.core.mask")
    if isinstance(segmentation, list):
        segmentation = coco.merge(coco.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        return segmentation["counts"]
    flat = coco.decode([segmentation])[:, :, 0].T.ravel().astype("int8")
    changes = np.flatnonzero(np.diff(flat, prepend=np.int8(0)))
    return np.diff(changes, prepend=0, append=flat.size).tolist()


def padded(rows):
    length = max(map(len, rows), default=0) + 3
    array = [row + [0] * (length - len(row)) for row in rows]
    return np.array(array, "int32").reshape(1, -1, length)


def add_image(metrics, image, truth, found, **kwargs):
    size = image["height"], image["width"]

    def batch(objects, **more):
        # Some result files give no boxes.
        boxes = [entry.get("bbox", (0, 0, 1, 1)) for entry in objects]
        return {
            "boxes": xyxy(boxes)[None],
            "labels": np.array([[entry["category_id"] for entry in objects]], "int32"),
            "mask_runs": padded([runs_of_coco(entry["segmentation"], size) for entry in objects]),
            **more,
        }

    metrics.update(
        batch(found, scores=np.array([[entry["score"] for entry in found]])),
        batch(
            truth,
            is_crowd=np.array([[entry.get("iscrowd", 0) for entry in truth]], "int32"),
            area=np.array([[entry["area"] for entry in truth]], "float64"),
            image_id=np.array([image["id"]]),
        ),
        image_size=size,
        **kwargs,
    )


@pytest.mark.parametrize(
    ("folder", "truth", "found"),
    [
        (
            "coco_val2014_100",
            "instances_val2014_100.json",
            "instances_val2014_fakesegm100_results.json",
        ),
        ("segm_3img", "gt_dataset.json", "dt_dataset.json"),
        ("synthetic_coco_tiny", "instances_all70.json", "detections_segm.json"),
    ],
)
def test_stored_results(shared_data, folder, truth, found):
    folder = shared_data / "eval_fixtures" / folder
    truth, found = (json.loads((folder / name).read_text()) for name in (truth, found))
    metrics = COCOMaskMetrics(per_class=True)
    for image in truth["images"]:
        objects = [
            [entry for entry in entries if entry["image_id"] == image["id"]]
            for entries in (truth["annotations"], found)
        ]
        add_image(metrics, image, *objects)
    result = metrics.result()
    expected = json.loads((folder / "expected.json").read_text())["segm"]
    masks = {name.removeprefix("mask_"): v for name, v in result.items() if "mask_" in name}
    assert_statistics(masks, expected)
