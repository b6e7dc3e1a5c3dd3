"""AP of instances against Cityscapes' own script, and its rules one by one."""

from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.metrics import CityscapesInstanceMetrics
from tests.metrics.test_coco_mask_metrics import padded, runs_of

CLASSES = (24, 26, 33)
VOID = 4


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(Path(__file__).parents[1] / "golden" / "cityscapes_instances.npz"))


def samples(golden):
    """Each image of the golden file as a batch of one: `(detections, targets)`."""
    masks = np.unpackbits(golden["masks"], axis=-1).astype("int32")
    for index, numbers in enumerate(golden["truth"]):
        objects = [number for number in np.unique(numbers) if number >= 1000 or number in CLASSES]
        labels = [CLASSES.index(n // 1000 if n >= 1000 else n) for n in objects]
        ids = np.zeros(numbers.shape, "int32")
        for row, number in enumerate(objects):
            ids[numbers == number] = row + 1
        targets = {
            "instance_ids": ids[None, ..., None],
            "labels": np.array([[*labels, -1]]),
            "is_crowd": np.array([[*(number < 1000 for number in objects), False]]),
            "semantic": np.where(numbers == VOID, 255, 0)[None],
            "image_id": np.array([index]),
        }
        found = [CLASSES.index(label) for label in golden["labels"][index]]
        yield (
            {
                "mask_runs": padded([runs_of(mask) for mask in masks[index]]),
                "labels": np.array([found]),
                "scores": golden["scores"][index][None],
            },
            targets,
        )


def test_the_script_of_cityscapes(golden):
    metrics = CityscapesInstanceMetrics(per_class=True, class_names=["person", "car", "bicycle"])
    for detections, targets in samples(golden):
        for _ in range(2):  # an image counts once
            metrics.update(detections, targets, image_size=golden["truth"].shape[1:])
    result = metrics.result()
    expected = golden["average_precision"]
    for row, name in enumerate(("person", "car", "bicycle")):
        assert result[f"instance_AP/{name}"] == pytest.approx(expected[row].mean(), abs=1e-12)
    assert result["instance_AP"] == pytest.approx(expected.mean(), abs=1e-12)
    assert result["instance_AP50"] == pytest.approx(expected[:, 0].mean(), abs=1e-12)
    assert 0.1 < result["instance_AP"] < 0.8
    for threshold, values in zip(np.arange(0.5, 1.0, 0.05), expected.T, strict=True):
        ours = [metrics._average_precision(label, threshold) for label in range(3)]
        assert ours == pytest.approx(values, abs=1e-12)


def row_of(*ids):
    return np.repeat(np.array(ids, "int32"), 100)[None, None]


def evaluated(truth, found, *, labels=(0, 0), scores=(0.9, 0.5), **more):
    """Objects of label 0; each number stands for 100 pixels."""
    metrics = CityscapesInstanceMetrics()
    metrics.update(
        {"instance_ids": row_of(*found), "labels": [labels], "scores": [scores]},
        {"instance_ids": row_of(*truth), "labels": [labels], **more},
        image_size=(1, 100 * len(truth)),
    )
    return metrics.result()["instance_AP50"]


def test_the_rules():
    assert evaluated([1, 1, 2, 0], [1, 1, 2, 0]) == 1.0
    # One of two is found: recall one half, at a precision of 1.
    assert evaluated([1, 1, 2, 0], [1, 1, 0, 0]) == pytest.approx(0.5)
    # An IoU of one half is none.
    assert evaluated([1, 1, 0, 0], [1, 0, 0, 0]) == 0.0
    # A better scored detection of nothing: half of the step to recall 1 is at precision 1/2, half
    # at 0. Then the same in void.
    assert evaluated([0, 0, 1, 1], [1, 1, 2, 2]) == pytest.approx(0.25)
    void = {"semantic": row_of(255, 255, 0, 0)}
    assert evaluated([0, 0, 1, 1], [1, 1, 2, 2], **void) == 1.0
    # In a group by more than half, by half.
    group = {"is_crowd": [[False, True]]}
    assert evaluated([2, 2, 2, 0, 1, 1], [0, 1, 1, 1, 2, 2], **group) == 1.0
    assert evaluated([2, 2, 0, 0, 1, 1], [0, 1, 1, 0, 2, 2], **group) < 1.0


def test_sizes_are_those_of_original_images():
    metrics = CityscapesInstanceMetrics()
    ids = np.zeros((1, 20, 20), "int32")
    ids[0, :6, :8] = 1  # 48 pixels, and 192 of the original image
    objects = {"instance_ids": ids, "labels": [[0]]}
    found = {**objects, "scores": [[1.0]]}
    metrics.update(found, objects, image_size=(20, 20), resize_policy="stretch")
    assert np.isnan(metrics.result()["instance_AP"])
    metrics.reset()
    original = {**objects, "original_size": np.array([[40, 40]])}
    metrics.update(found, original, image_size=(20, 20), resize_policy="stretch")
    assert metrics.result()["instance_AP"] == 1.0


def test_nothing_at_all_and_serialisation():
    metrics = CityscapesInstanceMetrics(min_area=3, per_class=True, class_names=["a"])
    assert np.isnan(list(metrics.result().values())).all()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metrics))
    assert copy.get_config() == metrics.get_config()
    with pytest.raises(ValueError, match="CityscapesInstanceMetrics.update: `targets` must have"):
        copy.update({"labels": [[0]]}, {"labels": [[0]]}, image_size=(4, 5))
