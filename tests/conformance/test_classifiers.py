"""Classifiers against torchvision's and keras.applications', on photographs, with the same weights.

tests/golden/make_classifiers.py wrote what torchvision says; keras.applications runs beside us.
Weights are drawn by tests/golden/seeded_weights.py.
"""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from kvision import backbones
from kvision.models.classification import ImageClassifier
from kvision.weights import load_keras, load_torchvision
from tests.golden.photographs import photographs
from tests.golden.seeded_weights import seed_keras_weights, seeded_state_dict

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "classifiers.npz")
VGG_HEAD = {"pool_size": 7, "hidden_units": (4096, 4096)}
TORCHVISION = {
    "vgg11": lambda: ImageClassifier(backbones.VGG11(), 1000, **VGG_HEAD),
    "vgg13": lambda: ImageClassifier(backbones.VGG13(), 1000, **VGG_HEAD),
    "vgg16": lambda: ImageClassifier(backbones.VGG16(), 1000, **VGG_HEAD),
    "vgg16_bn": lambda: ImageClassifier(backbones.VGG16(normalization="batch"), 1000, **VGG_HEAD),
    "vgg19": lambda: ImageClassifier(backbones.VGG19(), 1000, **VGG_HEAD),
    "resnet18": lambda: ImageClassifier(backbones.ResNet18(), 1000),
    "resnet34": lambda: ImageClassifier(backbones.ResNet34(), 1000),
    "resnet50": lambda: ImageClassifier(backbones.ResNet50(version="v1.5"), 1000),
    "resnet101": lambda: ImageClassifier(backbones.ResNet101(version="v1.5"), 1000),
    "resnet152": lambda: ImageClassifier(backbones.ResNet152(version="v1.5"), 1000),
    "mobilenet_v2": lambda: ImageClassifier(backbones.MobileNetV2(), 1000),
}
CAFFE = {"normalize_pixels": "caffe"}
INCEPTION = {"normalize_pixels": "inception"}
RESNET = {"epsilon": 1.001e-5, **CAFFE}
APPLICATIONS = {
    "VGG16": lambda: ImageClassifier(backbones.VGG16(**CAFFE), 1000, **VGG_HEAD),
    "VGG19": lambda: ImageClassifier(backbones.VGG19(**CAFFE), 1000, **VGG_HEAD),
    "ResNet50": lambda: ImageClassifier(backbones.ResNet50(**RESNET), 1000),
    "ResNet101": lambda: ImageClassifier(backbones.ResNet101(**RESNET), 1000),
    "ResNet152": lambda: ImageClassifier(backbones.ResNet152(**RESNET), 1000),
    "Xception": lambda: ImageClassifier(backbones.Xception(), 1000),
    "MobileNetV2": lambda: ImageClassifier(
        backbones.MobileNetV2(padding="same", epsilon=1e-3, **INCEPTION), 1000
    ),
}
MODULES = {
    "VGG16": keras.applications.vgg16,
    "VGG19": keras.applications.vgg19,
    "Xception": keras.applications.xception,
    "MobileNetV2": keras.applications.mobilenet_v2,
}


def logits(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


def assert_close(ours, theirs):
    assert ours.shape == theirs.shape
    # Far less than what tells one photograph from another.
    assert theirs.std(axis=0).mean() > 10e-4 * np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def _small_in_every_run(names, small):
    """Marks all but the small ones as too slow for every run."""
    marks = pytest.mark.conformance
    return [name if name in small else pytest.param(name, marks=marks) for name in names]


@pytest.mark.parametrize("name", _small_in_every_run(TORCHVISION, {"resnet18", "mobilenet_v2"}))
def test_logits_equal_torchvision(name, shared_data):
    images = photographs(shared_data / "coco_tiny" / "images", 256, 224)
    assert images.sum(dtype="int64") == GOLDEN["pixels"], "the photographs were decoded otherwise"
    model = TORCHVISION[name]()
    report = load_torchvision(model, seeded_state_dict(json.loads(str(GOLDEN[f"{name}/shapes"]))))
    assert report.complete
    assert len(report.loaded) == len(model.variables)
    assert_close(logits(model, images), GOLDEN[f"{name}/logits"])


@pytest.mark.parametrize("name", _small_in_every_run(APPLICATIONS, {"MobileNetV2"}))
def test_logits_equal_keras_applications(name, shared_data):
    size = 299 if name == "Xception" else 224
    images = photographs(shared_data / "coco_tiny" / "images", size, size)
    application = getattr(keras.applications, name)(weights=None, classifier_activation=None)
    seed_keras_weights(application)
    model = APPLICATIONS[name]()
    report = load_keras(model, application)
    assert report.complete
    assert len(report.loaded) == len(model.variables)
    preprocess = MODULES.get(name, keras.applications.resnet).preprocess_input
    assert_close(logits(model, images), logits(application, preprocess(images.astype("float32"))))
