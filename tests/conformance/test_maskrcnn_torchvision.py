"""Mask R-CNN against torchvision's, on photographs, with the same weights.

tests/golden/make_maskrcnn.py wrote what torchvision says; both sides draw the weights by
tests/golden/seeded_weights.py.
"""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.backbones import ResNet50
from kvision.models.instances import MaskRCNN
from kvision.ops import paste_masks
from kvision.weights import load_torchvision
from tests.conformance.test_fasterrcnn_torchvision import pair
from tests.golden.seeded_weights import seeded_state_dict

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "maskrcnn.npz")
PHOTOGRAPHS = json.loads(str(GOLDEN["photographs"]))


@pytest.fixture(scope="module")
def model():
    model = MaskRCNN(ResNet50(version="v1.5", normalization="frozen_batch"), num_classes=90)
    report = load_torchvision(model, seeded_state_dict(json.loads(str(GOLDEN["shapes"]))))
    assert report.complete
    assert len(report.loaded) == len(model.weights) - 1  # The count of training steps is ours.
    return model


@pytest.fixture(scope="module", params=PHOTOGRAPHS)
def outputs(request, model, shared_data):
    """Golden values of a photograph, and ours by the same names, in the same order."""
    image = keras.utils.load_img(shared_data / "coco_tiny" / "images" / f"{request.param}.jpg")
    image = np.asarray(image)
    prefix = f"{request.param}/"
    golden = {key[len(prefix) :]: GOLDEN[key] for key in GOLDEN if key.startswith(prefix)}
    assert image.sum(dtype="int64") == golden["pixels"], "the photograph was decoded otherwise"
    golden["pasted"] = np.unpackbits(golden["pasted"], axis=-1)[..., : image.shape[1]].astype(bool)
    decoded = model.decode(model(image[None].astype("float32"), training=False))
    ours = {key: keras.ops.convert_to_numpy(value)[0] for key, value in decoded.items()}
    assert ours.pop("num_detections") == len(golden["scores"]) >= 50
    order = pair(golden, ours)
    assert sorted(order) == list(range(len(order)))
    ours = {key: value[order] for key, value in ours.items()}
    pasted = paste_masks(
        ours["masks"][None],
        ours["boxes"][None],
        image_size=image.shape[:2],
        form="dense",
        rule="torchvision",
    )
    return golden, {**ours, "pasted": keras.ops.convert_to_numpy(pasted)[0]}


def test_detections(outputs):
    golden, ours = outputs
    np.testing.assert_array_equal(ours["labels"], golden["labels"] - 1)
    np.testing.assert_allclose(ours["boxes"], golden["boxes"], rtol=0, atol=1e-2)
    np.testing.assert_allclose(ours["scores"], golden["scores"], rtol=0, atol=1e-4)


def test_mask_probabilities(outputs):
    golden, ours = outputs
    expected = golden["masks"]
    assert 0.1 < np.mean(expected > 0.5) < 0.9
    np.testing.assert_allclose(ours["masks"][: len(expected)], expected, rtol=0, atol=1e-4)


def test_pasted_masks(outputs):
    golden, ours = outputs
    both = (golden["pasted"] & ours["pasted"]).sum(axis=(1, 2))
    either = (golden["pasted"] | ours["pasted"]).sum(axis=(1, 2))
    assert np.median(either) > 100
    assert (both[either > 0] / either[either > 0]).min() >= 0.999
