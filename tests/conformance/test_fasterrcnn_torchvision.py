"""Faster R-CNN against torchvision's, on photographs, with the same weights.

tests/golden/make_fasterrcnn.py wrote what torchvision says; both sides draw the weights by
tests/golden/seeded_weights.py.
"""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.backbones import ResNet50
from kvision.models.detection import FasterRCNN
from kvision.weights import load_torchvision
from tests.golden.seeded_weights import seeded_state_dict

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fasterrcnn.npz")
PHOTOGRAPHS = json.loads(str(GOLDEN["photographs"]))
LEVELS = ("P2", "P3", "P4", "P5", "P6")
ANCHORS = 3


@pytest.fixture(scope="module")
def model():
    backbone = ResNet50(version="v1.5", normalization="frozen_batch")
    model = FasterRCNN(backbone, num_classes=90)
    report = load_torchvision(model, seeded_state_dict(json.loads(str(GOLDEN["shapes"]))))
    assert report.complete
    assert len(report.loaded) == len(model.weights) - 1  # The count of training steps is ours.
    return model


@pytest.fixture(scope="module", params=PHOTOGRAPHS)
def outputs(request, model, shared_data):
    """Golden values of a photograph, and ours by the same names."""
    image = keras.utils.load_img(shared_data / "coco_tiny" / "images" / f"{request.param}.jpg")
    image = np.asarray(image)[None]
    prefix = f"{request.param}/"
    golden = {key[len(prefix) :]: GOLDEN[key] for key in GOLDEN if key.startswith(prefix)}
    assert image.sum(dtype="int64") == golden["pixels"], "the photograph was decoded otherwise"
    raw = model(image.astype("float32"), training=False)
    ours = {key: keras.ops.convert_to_numpy(value)[0] for key, value in model.decode(raw).items()}
    ours |= {f"pyramid/{level}": to_numpy(raw["pyramid"][level]) for level in LEVELS}
    shapes = [ours[f"pyramid/{level}"].shape[:3] for level in LEVELS]
    ours |= by_level("objectness", to_numpy(raw["rpn_logits"]), shapes, ANCHORS)
    ours |= by_level("rpn_deltas", to_numpy(raw["rpn_deltas"]), shapes, 4 * ANCHORS)
    class_logits, box_deltas = model.box_outputs(raw["pyramid"], golden["proposals"][None])
    ours["class_logits"], ours["box_deltas"] = to_numpy(class_logits)[0], to_numpy(box_deltas)[0]
    return golden, ours


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def by_level(name, array, shapes, channels):
    """Splits the values of all levels, one after another, into maps."""
    flat, maps = array.ravel(), {}
    for level, shape in zip(LEVELS, shapes, strict=True):
        size = int(np.prod(shape)) * channels
        maps[f"{name}/{level}"], flat = flat[:size].reshape(*shape, channels), flat[size:]
    assert flat.size == 0
    return maps


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["pyramid", "objectness", "rpn_deltas"])
def test_maps(outputs, name, level):
    golden, ours = (side[f"{name}/{level}"] for side in outputs)
    assert ours.shape == tuple(golden[:4])
    np.testing.assert_allclose(ours.ravel()[:: int(golden[5])], golden[6:], rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.abs(ours.astype("float64")).sum(), golden[4], rtol=1e-5)


def test_box_head_on_equal_proposals(outputs):
    golden, ours = outputs
    np.testing.assert_allclose(ours["class_logits"], golden["class_logits"], rtol=0, atol=1e-4)
    deltas = golden["box_deltas"].reshape(-1, 91, 4)
    np.testing.assert_allclose(ours["box_deltas"], deltas, rtol=0, atol=1e-4)


def test_detections(outputs):
    golden, ours = outputs
    count = len(golden["scores"])
    assert count >= 50
    assert golden["scores"].min() > 0.05
    assert ours["num_detections"] == count
    order = pair(golden, ours)
    assert sorted(order) == list(range(count))
    np.testing.assert_array_equal(ours["labels"][order], golden["labels"] - 1)
    np.testing.assert_allclose(ours["boxes"][order], golden["boxes"], rtol=0, atol=1e-2)
    np.testing.assert_allclose(ours["scores"][order], golden["scores"], rtol=0, atol=1e-4)


def pair(golden, ours):
    """For each golden detection the nearest of ours, so that equal scores may change places."""
    distance = np.abs(golden["boxes"][:, None] - ours["boxes"][None]).max(axis=2)
    distance += 1e3 * (golden["labels"][:, None] - 1 != ours["labels"][None])
    return distance.argmin(axis=1)
