"""Models small enough to export in a second, one a task."""

import keras
import numpy as np
import pytest

from kvision.layers import FeatureSpec
from kvision.models.classification import ImageClassifier
from kvision.models.segmentation import Segmenter


@keras.saving.register_keras_serializable("kvision_tests")
class PatchDetector(keras.Model):
    """Finds bright, red or green patches: one candidate box a cell of 8 by 8 pixels."""

    task = "detection"

    def __init__(self, image_size=(64, 80), resize_policy="letterbox", class_names=None, top=12):
        super().__init__()
        self.num_classes = 3
        self.image_size = image_size
        self.resize_policy = resize_policy
        self.class_names = class_names
        self.top = top
        self.features = keras.layers.Conv2D(8, 8, strides=8, padding="same", activation="relu")
        self.head = keras.layers.Conv2D(self.num_classes + 4, 3, padding="same")
        self.features.build((None, None, None, 3))
        self.head.build((None, None, None, 8))
        generator = np.random.default_rng(0)
        for variable in self.variables:
            variable.assign(generator.normal(0, 0.3, variable.shape))

    def call(self, images, training=None):
        return {"cells": self.head(self.features(images / 128.0 - 1.0))}

    def decode(self, raw):
        ops = keras.ops
        cells = raw["cells"]
        batch, rows, columns = ops.shape(cells)[:3]
        y, x = ops.meshgrid(ops.arange(rows), ops.arange(columns), indexing="ij")
        centers = ops.cast(ops.stack([x, y], axis=-1), "float32") * 8.0 + 4.0
        half = 4.0 + 16.0 * ops.sigmoid(cells[..., 3:5])
        middle = centers + cells[..., 5:7]
        edges = ops.cast(ops.stack([columns, rows] * 2), "float32") * 8.0
        boxes = ops.concatenate([middle - half, middle + half], axis=-1)
        boxes = ops.clip(boxes, 0.0, edges)
        scores = ops.sigmoid(cells[..., :3])
        best = ops.reshape(ops.max(scores, axis=-1), (batch, rows * columns))
        kept, places = ops.top_k(best, self.top)
        labels = ops.reshape(ops.argmax(scores, axis=-1), (batch, rows * columns))
        labels = ops.cast(ops.take_along_axis(labels, places, axis=1), "int32")
        boxes = ops.reshape(boxes, (batch, rows * columns, 4))
        boxes = ops.take_along_axis(boxes, places[..., None], axis=1)
        number = ops.sum(ops.cast(kept > 0.6, "int32"), axis=1)
        valid = ops.arange(self.top)[None] < number[:, None]
        return {
            "boxes": ops.where(valid[..., None], boxes, 0.0),
            "scores": ops.where(valid, kept, 0.0),
            "labels": ops.where(valid, labels, -1),
            "num_detections": number,
        }


@pytest.fixture(scope="session")
def tf():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("a SavedModel is written on the TensorFlow backend")
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="session")
def patch_detector():
    """The class: tests choose the image size and the policy."""
    return PatchDetector


def _two_convolutions():
    """A backbone of one level, of fixed weights."""
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Rescaling(1 / 128, -1),
            keras.layers.Conv2D(8, 5, padding="same", activation="relu"),
            keras.layers.Conv2D(6, 3, padding="same"),
        ]
    )
    generator = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(generator.normal(0, 0.3, variable.shape))
    return model


@keras.saving.register_keras_serializable("kvision_tests")
class PatchSegmenter(Segmenter):
    """Gives each pixel one of six classes."""

    def __init__(self, **kwargs):
        super().__init__(num_classes=6, **kwargs)
        self.features = _two_convolutions()

    def call(self, images, training=None):
        return self.features(images, training=training)


@pytest.fixture(scope="session")
def patch_segmenter():
    """Makes one of a resize policy."""
    return lambda policy="letterbox": PatchSegmenter(image_size=(64, 80), resize_policy=policy)


@pytest.fixture(scope="session")
def patch_classifier():
    """Makes one."""

    def make():
        backbone = _two_convolutions()
        backbone = keras.Model(backbone.inputs, {"P0": backbone.outputs[0]})
        backbone.feature_specs = {"P0": FeatureSpec(6, 1)}
        return ImageClassifier(backbone, 4, hidden_units=(5,), pool_size=2, image_size=(64, 80))

    return make


@pytest.fixture(scope="session")
def pictures():
    """Three uint8 pictures of different sizes."""
    generator = np.random.default_rng(1)
    return [
        generator.integers(0, 256, (-(-h // 8), -(-w // 8), 3), "uint8")
        .repeat(8, axis=0)
        .repeat(8, axis=1)[:h, :w]
        for h, w in [(64, 96), (75, 50), (120, 131)]
    ]
