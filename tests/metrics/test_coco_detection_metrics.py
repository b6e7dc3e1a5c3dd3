"""COCO statistics against published values, stored results of pycocotools and worked examples."""

import builtins
import json
import math

import keras
import numpy as np
import pytest

from kvision.boxes.resize import resize_boxes
from kvision.metrics import COCODetectionMetrics

NAMES = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
NAMES += ["AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"]


def xyxy(boxes):
    boxes = np.asarray(boxes, "float64").reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def add_image(metrics, image_id, truth, found, **kwargs):
    """Adds one image from COCO's own dictionaries."""
    metrics.update(
        {
            "boxes": xyxy([box["bbox"] for box in found])[None],
            "scores": np.array([[box["score"] for box in found]]),
            "labels": np.array([[box["category_id"] for box in found]], "int32"),
        },
        {
            "boxes": xyxy([box["bbox"] for box in truth])[None],
            "labels": np.array([[box["category_id"] for box in truth]], "int32"),
            "is_crowd": np.array([[box.get("iscrowd", 0) for box in truth]], "int32"),
            "area": np.array([[box["area"] for box in truth]], "float64"),
            "image_id": np.array([image_id]),
        },
        **kwargs,
    )


def evaluate_files(truth_file, found_file, min_score=None):
    truth, found = json.loads(truth_file.read_text()), json.loads(found_file.read_text())
    if isinstance(found, dict):
        found = found["annotations"]
    metrics = COCODetectionMetrics(per_class=True)
    for image in truth["images"]:
        add_image(
            metrics,
            image["id"],
            [box for box in truth["annotations"] if box["image_id"] == image["id"]],
            [
                box
                for box in found
                if box["image_id"] == image["id"] and box["score"] >= (min_score or -1)
            ],
        )
    return metrics.result()


def assert_statistics(result, expected, tolerance=1e-12):
    for name in NAMES:
        if expected[name] == -1:
            assert math.isnan(result[name]), name
        else:
            assert result[name] == pytest.approx(expected[name], abs=tolerance), name
    for label, value in expected.get("AP_per_category_id", {}).items():
        if value == -1:
            assert f"AP/{label}" not in result
        else:
            assert result[f"AP/{label}"] == pytest.approx(value, abs=tolerance), label


@pytest.mark.parametrize(
    ("folder", "truth", "found", "key", "min_score"),
    [
        (
            "coco_val2014_100",
            "instances_val2014_100.json",
            "instances_val2014_fakebbox100_results.json",
            "bbox",
            None,
        ),
        (
            "coco_sampled_review",
            "sampled_gts_bbox_area.json",
            "sampled_bbox_results.json",
            "pycocotools",
            None,
        ),
        ("ignore_1img", "gt_ignore_test.json", "dt_ignore_test.json", "bbox_all_detections", None),
        ("ignore_1img", "gt_ignore_test.json", "dt_ignore_test.json", "bbox_score_ge_0.1", 0.1),
        ("synthetic_coco_tiny", "instances_all70.json", "detections_bbox.json", "bbox", None),
    ],
)
def test_stored_results(shared_data, folder, truth, found, key, min_score):
    folder = shared_data / "eval_fixtures" / folder
    expected = json.loads((folder / "expected.json").read_text())[key]
    assert_statistics(evaluate_files(folder / truth, folder / found, min_score), expected)


def test_keras_cv_boxes_in_padded_batches(shared_data):
    folder = shared_data / "eval_fixtures" / "keras_cv_boxes"
    arrays = np.load(folder / "sample_boxes.npz")
    truth, found = arrays["arr_0"], arrays["arr_1"]
    metrics = COCODetectionMetrics(per_class=True)
    for start in range(0, len(truth), 10):
        batch = slice(start, start + 10)
        metrics.update(
            {
                "boxes": xyxy(found[batch, :, :4]).reshape(-1, 35, 4),
                "labels": found[batch, :, 4].astype("int32"),
                "scores": found[batch, :, 5],
            },
            {
                "boxes": xyxy(truth[batch, :, :4]).reshape(-1, 35, 4),
                "labels": truth[batch, :, 4].astype("int32"),
            },
        )
    expected = json.loads((folder / "expected.json").read_text())
    assert_statistics(metrics.result(), expected["pycocotools_float64_area_w_times_h"])
    assert_statistics(metrics.result(), expected["keras_cv_golden_float32"], tolerance=1e-6)


def entries(*boxes, crowd=(), label=1):
    return [
        {
            "bbox": box[:4],
            "category_id": label,
            "score": box[-1],
            "area": box[2] * box[3],
            "iscrowd": int(index in crowd),
        }
        for index, box in enumerate(boxes)
    ]


FOUND = (
    entries((10, 10, 20, 20, 0.9), (102, 100, 50, 50, 0.8), (105, 100, 50, 50, 0.7))
    + entries((300, 300, 20, 20, 0.3)),
    entries((200, 50, 200, 120, 0.95), (20, 310, 50, 50, 0.85), (100, 320, 60, 60, 0.6))
    + entries((500, 10, 40, 40, 0.5)),
)


@pytest.mark.parametrize(
    ("crowd", "values"),
    [
        (True, [0.805281, 1, 1, 1, 0.9, 0.7, 0.566667, 0.866667, 0.866667, 1, 0.9, 0.7]),
        (False, [0.724257, 0.915842, 0.915842, 1, 0.45, 0.7]),
    ],
)
def test_crowd_takes_up_detections(crowd, values):
    metrics = COCODetectionMetrics()
    add_image(metrics, 1, entries((10, 10, 20, 20), (100, 100, 50, 50)), FOUND[0])
    boxes = [(200, 50, 200, 150)] + [(10, 300, 300, 100)] * crowd
    add_image(metrics, 2, entries(*boxes, crowd=(1,)), FOUND[1])
    result = metrics.result()
    assert [result[name] for name in NAMES[: len(values)]] == pytest.approx(values, abs=1e-6)


def test_worked_examples():
    metrics = COCODetectionMetrics()
    twice = entries((0, 0, 10, 10, 0.9), (0, 0, 10, 10, 0.8))
    add_image(metrics, 1, entries((0, 0, 10, 10), (2, 0, 10, 10)), twice)
    result = metrics.result()
    assert [result[name] for name in NAMES[:3]] == pytest.approx([0.703, 1, 0.505], abs=5e-4)

    metrics.reset()  # a class without objects is not counted against the others
    add_image(metrics, 1, entries((0, 0, 10, 10)), twice[:1] + entries((5, 5, 9, 9, 0.9), label=2))
    assert metrics.result()["AP"] == pytest.approx(1.0)

    metrics.reset()
    add_image(metrics, 1, entries((0, 0, 10, 10)), entries((50, 50, 10, 10, 0.9)))
    result = metrics.result()
    assert result["AP"] == 0
    assert math.isnan(result["AP_medium"])
    assert math.isnan(result["AP_large"])


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [((), (), math.nan), ((), ((0, 0, 9, 9, 0.5),), math.nan), (((0, 0, 9, 9),), (), 0.0)],
)
def test_nothing_to_find_or_nothing_found(truth, found, expected):
    metrics = COCODetectionMetrics()
    add_image(metrics, 1, entries(*truth), entries(*found))
    assert metrics.result()["AP"] == pytest.approx(expected, nan_ok=True)


def test_no_images_at_all():
    assert math.isnan(COCODetectionMetrics().result()["AP"])


def test_boxes_return_to_original_pixels():
    """A 40 px box of a 4x larger photograph is small on the model's image, but not by COCO."""
    original, size = np.array([400, 800]), (100, 200)
    box = np.array([[100.0, 80.0, 140.0, 120.0]])
    seen = resize_boxes(box, original, size, "letterbox")
    targets = {"boxes": seen[None], "labels": np.array([[3]])}
    detections = {**targets, "scores": np.array([[0.9]])}
    metrics = COCODetectionMetrics()
    metrics.update(detections, targets, image_size=size, resize_policy="letterbox")
    assert metrics.result()["AP_small"] == pytest.approx(1.0)
    metrics.reset()
    targets = {**targets, "original_size": original[None]}
    metrics.update(detections, targets, image_size=size, resize_policy="letterbox")
    result = metrics.result()
    assert result["AP_medium"] == pytest.approx(1.0)
    assert math.isnan(result["AP_small"])
    np.testing.assert_allclose(next(iter(metrics.images.values())).boxes, box)


def test_an_image_counts_once():
    metrics = COCODetectionMetrics()
    for found in (entries((0, 0, 10, 10, 0.9)), entries((50, 50, 10, 10, 0.95))):
        add_image(metrics, 7, entries((0, 0, 10, 10)), found)
    assert len(metrics.images) == 1
    assert metrics.result()["AP"] == pytest.approx(1.0)


def test_nothing_is_printed(capsys):
    metrics = COCODetectionMetrics()
    add_image(metrics, 1, entries((0, 0, 10, 10)), entries((0, 0, 10, 10, 0.9)))
    metrics.result()
    assert capsys.readouterr().out == ""


def test_class_names_and_serialisation():
    metrics = COCODetectionMetrics(per_class=True, class_names=["cat", "dog"])
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metrics))
    assert copy.get_config() == metrics.get_config()
    add_image(copy, 1, entries((0, 0, 10, 10)), entries((0, 0, 10, 10, 0.9)))
    assert copy.result()["AP/dog"] == pytest.approx(1.0)


def test_missing_package_is_named(monkeypatch):
    real_import = builtins.__import__

    def without_evaluator(name, *args, **kwargs):
        if name == "faster_coco_eval":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_evaluator)
    metrics = COCODetectionMetrics()
    with pytest.raises(ImportError, match="pip install faster-coco-eval"):
        metrics.reset()
