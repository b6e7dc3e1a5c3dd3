"""Rules for layers and models: built before the loss, boxes in float32."""

import inspect

import keras
import numpy as np
import pytest
from keras import ops

from tests.contract.instances import DETECTORS, IMAGE_SHAPE, INSTANCES
from tests.contract.public_api import public_classes

BOX_ARGUMENTS = {"anchors", "boxes", "proposals", "rois", "scores"}


def _is_detector(value):
    return issubclass(value, keras.Model) and getattr(value, "loss_names", ())


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, IMAGE_SHAPE).astype("float32")
    boxes = np.array(
        [[[4, 4, 30, 25], [20, 30, 60, 61]], [[1, 2, 20, 40], [0, 0, 0, 0]]], "float32"
    )
    ids = np.zeros((*IMAGE_SHAPE[:3], 1), "int32")
    ids[0, 4:25, 4:30], ids[0, 30:61, 20:60], ids[1, 2:40, 1:20] = 1, 2, 1
    labels = np.array([[0, 2], [1, -1]], "int32")
    return images, {"boxes": boxes, "labels": labels, "instance_ids": ids}


@pytest.fixture
def mixed_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


def test_every_detector_is_held_to_the_contract():
    found = {name for name, value in public_classes().items() if _is_detector(value)}
    assert found == set(DETECTORS)


@pytest.mark.parametrize("name", DETECTORS)
def test_the_loss_builds_nothing(name, batch):
    images, targets = batch
    model = DETECTORS[name]()
    raw = model(images, training=True)
    layers = list(model._flatten_layers())
    assert [layer.name for layer in layers if not layer.built] == []
    variables = {id(variable) for variable in model.variables}
    loss = model.compute_loss(images, targets, raw, training=True)
    assert np.isfinite(ops.convert_to_numpy(loss))
    assert {id(variable) for variable in model.variables} == variables
    assert len(list(model._flatten_layers())) == len(layers)


def _float_dtypes(tensors):
    return {keras.backend.standardize_dtype(t.dtype) for t in tensors} - {"int32", "bool"}


def _survives_bfloat16(boxes):
    boxes = ops.convert_to_numpy(boxes)
    rounded = ops.cast(ops.cast(boxes, "bfloat16"), "float32")
    return np.array_equal(boxes, ops.convert_to_numpy(rounded))


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.usefixtures("mixed_precision")
def test_boxes_and_scores_are_float32_under_mixed_precision(name, batch):
    images, targets = batch
    model = DETECTORS[name]()
    assert model.compute_dtype == "bfloat16"
    raw = model(images)
    detections = model.decode(raw)
    assert _float_dtypes(detections.values()) == {"float32"}
    if "boxes" in detections:
        assert not _survives_bfloat16(detections["boxes"])
    for key in set(raw) - {"pyramid"}:
        assert _float_dtypes(keras.tree.flatten(raw[key])) <= {"float32"}, key
    loss = model.compute_loss(images, targets, model(images, training=True), training=True)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"


@pytest.mark.parametrize("name", sorted(INSTANCES))
def test_layers_that_take_boxes_do_not_cast_them(name):
    instance = INSTANCES[name]()
    if isinstance(instance, keras.layers.Layer):
        arguments = set(inspect.signature(instance.call).parameters)
        assert not arguments & BOX_ARGUMENTS or not instance.autocast
