"""VOC's average precision against stored results and worked examples."""

import json
import math

import keras
import numpy as np
import pytest

from kvision.metrics import VOCDetectionMetrics


def read_boxes(path, columns, relative):
    """Boxes and scores; relative ones are (centre, size) in parts of a 200 x 200 image."""
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    numbers = np.array([[float(v) for v in row[1:]] for row in rows]).reshape(-1, columns)
    boxes = numbers[:, -4:].copy()
    if relative:
        boxes = np.round(200 * boxes, 6)
        boxes[:, :2] -= boxes[:, 2:] / 2
    boxes[:, 2:] += boxes[:, :2]
    return boxes, numbers[:, 0]


@pytest.mark.parametrize("suffix", ["", "_rel"])
@pytest.mark.parametrize("interpolation", ["every_point", "eleven_point"])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.75])
def test_24_detections(shared_data, threshold, interpolation, suffix):
    folder = shared_data / "eval_fixtures" / "voc_ap_24dets"
    metrics = VOCDetectionMetrics(
        iou_thresholds=(threshold,),
        interpolation={"every_point": "all_point", "eleven_point": "11_point"}[interpolation],
        inclusive_corners=True,
    )
    for truth_file in sorted((folder / f"groundtruths{suffix}").iterdir()):
        truth, _ = read_boxes(truth_file, 4, suffix)
        found, scores = read_boxes(folder / f"detections{suffix}" / truth_file.name, 5, suffix)
        metrics.update(
            {
                "boxes": found[None],
                "scores": scores[None],
                "labels": np.zeros((1, len(found)), "int32"),
            },
            {"boxes": truth[None], "labels": np.zeros((1, len(truth)), "int32")},
        )
    expected = json.loads((folder / "expected.json").read_text())["ap_by_iou_threshold"]
    assert metrics.result() == {
        f"VOC_AP{100 * threshold:g}": pytest.approx(
            expected[f"{threshold:g}"][interpolation], abs=1e-12
        )
    }


def ranked(metrics, right, num_objects, difficult=None):
    """One image of `num_objects` boxes and detections by falling score, right or wrong."""
    corner = 20.0 * np.arange(max(len(right), num_objects))
    boxes = np.stack([corner, corner * 0, corner + 10, corner * 0 + 10], axis=-1)
    objects = iter(boxes[:num_objects])
    found = np.stack([next(objects) if hit else boxes[0] + 1e4 for hit in right])
    targets = {
        "boxes": boxes[None, :num_objects],
        "labels": np.zeros((1, num_objects), "int32"),
    }
    if difficult is not None:
        targets["difficult"] = np.array([difficult])
    scores = np.linspace(0.9, 0.1, len(right))[None]
    labels = np.zeros((1, len(right)), "int32")
    metrics.update({"boxes": found[None], "scores": scores, "labels": labels}, targets)
    return metrics.result()["VOC_AP50"]


@pytest.mark.parametrize(
    ("interpolation", "expected"), [("11_point", 0.6161616), ("all_point", 0.6203704)]
)
def test_ten_ranked_detections(interpolation, expected):
    metrics = VOCDetectionMetrics(interpolation=interpolation)
    value = ranked(metrics, [1, 0, 1, 1, 0, 1, 0, 0, 1, 0], num_objects=6)
    assert value == pytest.approx(expected, abs=1e-7)


def test_recall_of_three_tenths_falls_short_of_the_point():
    value = ranked(VOCDetectionMetrics(interpolation="11_point"), [1, 1, 1], num_objects=10)
    assert value == pytest.approx(3 / 11)


def test_difficult_boxes_count_neither_way():
    metrics = VOCDetectionMetrics()
    assert ranked(metrics, [1, 0, 1], 2, difficult=[False, True]) == pytest.approx(1.0)
    metrics.reset()
    assert ranked(metrics, [1, 0, 1], 2) == pytest.approx(0.5 + 0.5 * 2 / 3)
    metrics.reset()
    assert math.isnan(ranked(metrics, [1], 1, difficult=[True]))


def one_image(metrics, truth, found, scores, labels=None):
    labels = [0] * len(found) if labels is None else labels
    metrics.update(
        {
            "boxes": np.array([found], "float32").reshape(1, -1, 4),
            "scores": np.array([scores], "float32"),
            "labels": np.array([labels], "int32"),
        },
        {
            "boxes": np.array([truth], "float32").reshape(1, -1, 4),
            "labels": np.zeros((1, len(truth)), "int32"),
        },
    )


def test_second_detection_of_a_box_is_wrong_even_beside_a_free_one():
    """VOC looks at the box of the largest overlap only."""
    metrics = VOCDetectionMetrics()
    one_image(metrics, [(0, 0, 10, 10), (2, 0, 12, 10)], [(0, 0, 10, 10)] * 2, [0.9, 0.8])
    assert metrics.result()["VOC_AP50"] == pytest.approx(0.5)


def test_iou_must_exceed_the_threshold():
    metrics = VOCDetectionMetrics(iou_thresholds=(0.49, 0.5))
    one_image(metrics, [(0, 0, 10, 10)], [(0, 0, 10, 5)], [0.9])
    assert metrics.result() == {"VOC_AP49": 1.0, "VOC_AP50": 0.0}


def test_inclusive_corners_widen_boxes():
    """IoU of (0, 0, 10, 10) and (1, 1, 11, 11) is 0.680672, and 0.704225 with whole pixels."""
    for inclusive, expected in ((False, 0.0), (True, 1.0)):
        metrics = VOCDetectionMetrics(iou_thresholds=(0.7,), inclusive_corners=inclusive)
        one_image(metrics, [(0, 0, 10, 10)], [(1, 1, 11, 11)], [0.9])
        assert metrics.result()["VOC_AP70"] == expected


def test_nothing_found_and_nothing_to_find():
    metrics = VOCDetectionMetrics()
    one_image(metrics, [(0, 0, 10, 10)], [], [])
    assert metrics.result()["VOC_AP50"] == 0.0
    metrics.reset()
    one_image(metrics, [], [(0, 0, 10, 10)], [0.9])
    assert math.isnan(metrics.result()["VOC_AP50"])


def test_false_alarms_in_empty_images_count():
    metrics = VOCDetectionMetrics()
    one_image(metrics, [], [(0, 0, 10, 10)], [0.95])
    one_image(metrics, [(0, 0, 10, 10)], [(0, 0, 10, 10)], [0.9])
    assert metrics.result()["VOC_AP50"] == pytest.approx(0.5)


def test_classes_are_averaged_by_name():
    metrics = VOCDetectionMetrics(per_class=True, class_names=["cat", "dog"])
    metrics.update(
        {
            "boxes": np.array([[(0, 0, 9, 9), (50, 50, 60, 60)]]),
            "scores": np.array([[0.9, 0.8]]),
            "labels": np.array([[0, 0]]),
        },
        {
            "boxes": np.array([[(0, 0, 9, 9), (50, 50, 60, 60), (0, 0, 0, 0)]]),
            "labels": np.array([[0, 1, -1]]),
        },
    )
    expected = {"VOC_AP50": 0.5, "VOC_AP50/cat": 1.0, "VOC_AP50/dog": 0.0}
    assert metrics.result() == expected
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metrics))
    assert copy.get_config() == metrics.get_config()


@pytest.mark.parametrize("arguments", [{"iou_thresholds": (50,)}, {"interpolation": "101_point"}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="VOCDetectionMetrics"):
        VOCDetectionMetrics(**arguments)
