"""COCO statistics of masks against stored results of pycocotools and worked examples."""

import json
import math

import keras
import numpy as np
import pytest

from kvision.metrics import COCOMaskMetrics
from tests.metrics.test_coco_detection_metrics import NAMES, assert_statistics, xyxy


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


def pasted(mask, box, size):
    """detectron2's rule in float64: bilinear between the centres of cells, zero half a cell off."""
    cells, (x1, y1, x2, y2) = len(mask), box

    def taps(pixels, start, end):
        places = (np.arange(pixels) + 0.5 - start) / (end - start) * cells - 0.5
        return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(cells)))

    return taps(size[0], y1, y2) @ mask @ taps(size[1], x1, x2).T


def checkerboard(cells=28):
    """Its two values are such that half the way between them is off the threshold."""
    return 0.03 + 0.93 * (np.indices((cells, cells)).sum(axis=0) % 2)


def test_the_rule_of_pasting():
    """The worked example: a 2x2 identity in the box (1, 1, 5, 5), row 2."""
    row = pasted(np.eye(2), (1, 1, 5, 5), (7, 7))[2]
    assert row == pytest.approx([0.1875, 0.5625, 0.625, 0.375, 0.1875, 0.0625, 0])


@pytest.mark.parametrize("form", ["mask_runs", "instance_ids"])
def test_roi_masks_are_pasted(form):
    """Two of three rows are detections; the checkerboard has many runs in each column."""
    size = (60, 41)
    rng = np.random.default_rng(1)
    masks = np.stack([rng.random((28, 28)), checkerboard(), np.ones((28, 28))]).astype("float32")
    boxes = np.array([(2, 30, 38, 58), (1, 2, 40, 30), (0, 0, 5, 5)], "float32")
    drawn = [pasted(m, b, size) >= 0.5 for m, b in zip(masks, boxes, strict=True)]
    ids = np.select(drawn[:2], [1, 2], 0)
    true_masks = {
        "mask_runs": padded([runs_of(mask) for mask in drawn]),
        "instance_ids": ids[None, ..., None].astype("int32"),
    }[form]
    labels = np.array([[0, 1, -1]], "int32")
    metrics = COCOMaskMetrics(per_class=True, class_names=["noise", "board"])
    metrics.update(
        {
            "boxes": boxes[None],
            "labels": labels,
            "scores": np.array([[0.9, 0.8, 0.7]]),
            "masks": masks[None],
        },
        {"boxes": boxes[None], "labels": labels, form: true_masks},
        image_size=size,
    )
    result = metrics.result()
    assert result["mask_AP/noise"] == pytest.approx(1.0)
    assert result["mask_AP/board"] == pytest.approx(1.0)
    assert result["AP"] == pytest.approx(1.0)
    (record,) = metrics.images.values()
    assert [mask["area"] for mask in record.detected_masks] == [d.sum() for d in drawn[:2]]
    assert [mask["area"] for mask in record.masks] == [d.sum() for d in drawn[:2]]


A, B = np.zeros((2, 4, 5), "int32")
A[1:3, 1:4], B[1:4, 2:5] = 1, 1


def test_the_worked_example_of_run_lengths():
    assert runs_of(A) == [5, 2, 2, 2, 2, 2, 5]
    assert runs_of(B) == [9, 3, 1, 3, 1, 3]
    metrics = COCOMaskMetrics()
    update(metrics, [A], [B])
    (record,) = metrics.images.values()
    assert record.masks[0]["segmentation"] == {"size": [4, 5], "counts": b"5220003"}
    assert record.detected_masks[0]["segmentation"] == {"size": [4, 5], "counts": b"931000"}


def update(metrics, truth, found, image_size=(4, 5), resize_policy=None, **more):
    """One image of one class; the detections' scores fall."""

    def objects(masks):
        boxes = np.tile(np.array([0, 0, 5, 4.0]), (1, len(masks), 1))
        runs = padded([runs_of(mask) for mask in masks])
        return {"boxes": boxes, "labels": np.zeros((1, len(masks)), "int32"), "mask_runs": runs}

    metrics.update(
        {**objects(found), "scores": np.linspace(0.9, 0.1, len(found))[None]},
        {**objects(truth), **more},
        image_size=image_size,
        resize_policy=resize_policy,
    )


def test_crowd_takes_up_masks():
    """Two thirds of A lie in the crowd B: four thresholds are below, and six above."""
    other = np.zeros((4, 5), "int32")
    other[0, 0] = 1
    metrics = COCOMaskMetrics()
    update(metrics, [B, other], [A, other], is_crowd=np.array([[1, 0]]))
    assert metrics.result()["mask_AP"] == pytest.approx((4 * 1 + 6 * 0.5) / 10)


def test_masks_of_one_box_differ():
    """All boxes are the same, so that only the masks tell a hit from a miss: IoU 4/11 and 1."""
    metrics = COCOMaskMetrics()
    update(metrics, [A], [B])
    result = metrics.result()
    assert result["AP"] == pytest.approx(1.0)
    assert result["mask_AP"] == 0
    metrics.reset()
    update(metrics, [A, B], [B, A])
    assert metrics.result()["mask_AP"] == pytest.approx(1.0)


def test_areas_are_those_of_original_images():
    """A mask of 30 x 30 pixels of an image that was four times as large is a large one."""
    mask = np.zeros((100, 200), "int32")
    mask[20:50, 40:70] = 1
    sizes = {"image_size": (100, 200), "original_size": np.array([[400, 600]])}
    metrics = COCOMaskMetrics()
    update(metrics, [mask], [mask], **sizes, resize_policy="letterbox")
    result = metrics.result()
    assert result["mask_AP_large"] == pytest.approx(1.0)
    assert math.isnan(result["mask_AP_small"])
    (record,) = metrics.images.values()
    assert record.masks[0]["area"] == record.detected_masks[0]["area"] == 900 * 16
    metrics.reset()  # what the annotation says goes before
    update(metrics, [mask], [mask], **sizes, resize_policy="letterbox", area=np.array([[1000.0]]))
    assert metrics.result()["mask_AP_small"] == pytest.approx(1.0)
    metrics.reset()
    update(metrics, [mask], [mask], image_size=(100, 200), area=np.array([[-1.0]]))
    assert metrics.result()["mask_AP_small"] == pytest.approx(1.0)


def test_masks_end_with_the_image():
    """What is found in the padding is cut off: below row 67 and right of column 200 is nothing."""
    whole = np.ones((100, 200), "int32")
    true = whole.copy()
    true[67:] = 0
    metrics = COCOMaskMetrics()
    original_size = {"original_size": np.array([[200, 600]])}
    update(metrics, [true], [whole], (100, 200), "letterbox", **original_size)
    assert metrics.result()["mask_AP"] == pytest.approx(1.0)
    (record,) = metrics.images.values()
    assert record.detected_masks[0]["area"] == pytest.approx(200 * 600)
    metrics.reset()
    update(metrics, [true], [whole], (100, 200))
    assert metrics.result()["mask_AP"] == pytest.approx(0.4)  # IoU 0.67


@pytest.mark.parametrize(("truth", "found", "expected"), [([], [], math.nan), ([A], [], 0.0)])
def test_nothing_to_find_or_nothing_found(truth, found, expected):
    metrics = COCOMaskMetrics()
    update(metrics, truth, found)
    result = metrics.result()
    assert result.keys() == {*NAMES, *(f"mask_{name}" for name in NAMES)}
    assert result["mask_AP"] == pytest.approx(expected, nan_ok=True)


def test_an_empty_mask_is_a_miss():
    metrics = COCOMaskMetrics()
    update(metrics, [A], [np.zeros_like(A), A])
    assert metrics.result()["mask_AP"] == pytest.approx(0.5)
    metrics.reset()
    update(metrics, [A], [A, A * 0])
    assert metrics.result()["mask_AP"] == pytest.approx(1.0)


def test_what_is_wrong_is_named():
    metrics = COCOMaskMetrics()
    with pytest.raises(ValueError, match="`image_size` must be .* Received: None"):
        update(metrics, [A], [A], image_size=None)
    objects = {"boxes": np.zeros((1, 1, 4)), "labels": np.zeros((1, 1), "int32")}
    found = {**objects, "scores": np.ones((1, 1))}
    with pytest.raises(ValueError, match="`targets` must have `masks`, .*: .'boxes', 'labels'.]?"):
        metrics.update(found, objects, image_size=(4, 5))
    with pytest.raises(ValueError, match="`detections` must have `masks`"):
        metrics.update(found, {**objects, "instance_ids": A[None]}, image_size=(4, 5))


def test_serialisation():
    metrics = COCOMaskMetrics(per_class=True, class_names=["cat"])
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metrics))
    assert isinstance(copy, COCOMaskMetrics)
    assert copy.get_config() == metrics.get_config()
