"""What Keras compiles with XLA trains on the native kernels, and learns what it learns without."""

import re

import keras
import numpy as np
import pytest

from kvision.layers import MultiscaleRoIAlign, NonMaxSuppression, RoIAlign, RoIPool
from kvision.losses import IoULoss
from kvision.ops import elementwise_iou, nms
from kvision.testing import running
from tests.contract.instances import INSTANCES
from tests.models.tiny_faster_rcnn import squares, tiny_faster_rcnn

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="it is TensorFlow's way to XLA"
)


@pytest.fixture(autouse=True)
def _native():
    with running("native"):
        yield


def drawn(*shape, high=1.0):
    return np.random.default_rng(sum(shape)).uniform(0, high, shape).astype("float32")


BOXES = np.concatenate([drawn(4, 6, 2, high=20), 20 + drawn(4, 6, 2, high=12)], -1)


def pooling_model(pool, levels):
    """Boxes on maps that a convolution makes."""
    images, boxes = keras.Input((32, 32, 3)), keras.Input((6, 4))
    maps = {
        f"P{level}": keras.layers.Conv2D(4, 3, 2**level, padding="same")(images) for level in levels
    }
    pooled = pool(maps if len(levels) > 1 else maps[f"P{levels[0]}"], boxes)
    return keras.Model([images, boxes], keras.layers.Dense(1)(pooled))


def suppression_model():
    """The best of boxes whose scores are learnt."""
    features, boxes = keras.Input((6, 5)), keras.Input((6, 4))
    scores = keras.layers.Dense(3, activation="sigmoid")(features)
    return keras.Model(
        [features, boxes], NonMaxSuppression(0.4, max_output_size=3)(boxes, scores)["scores"]
    )


IMAGES, BINS = drawn(4, 32, 32, 3), np.ones((4, 6, 2, 2, 1))
# What makes a model, its inputs and targets, the kernels that its training step calls.
MODELS = {
    "RoIAlign": (
        lambda: pooling_model(RoIAlign(2, spatial_scale=0.25), [2]),
        ([IMAGES, BOXES], BINS),
        {"roi_align", "roi_align_gradient"},
    ),
    "MultiscaleRoIAlign": (
        lambda: pooling_model(MultiscaleRoIAlign(2, canonical_size=64), [2, 3]),
        ([IMAGES, BOXES], BINS),
        {"roi_align", "roi_align_gradient"},
    ),
    "RoIPool": (
        lambda: pooling_model(RoIPool(2, spatial_scale=0.25), [2]),
        ([IMAGES, BOXES], BINS),
        {"roi_pool", "roi_pool_gradient"},
    ),
    "NonMaxSuppression": (
        suppression_model,
        ([drawn(4, 6, 5), BOXES], np.ones((4, 3))),
        {"batched_nms"},
    ),
}


def kernels_called(model, data):
    """The native kernels in the program of a training step."""
    import tensorflow as tf

    step = tf.function(model.train_step, jit_compile=True)
    data = tf.nest.map_structure(tf.constant, data)
    program = step.experimental_get_compiler_ir(data)(stage="optimized_hlo")
    return set(re.findall(r'custom_call_target="kvision_(\w+)"', program))


def check_training(make, data, kernels, **compiled):
    """Raises `AssertionError` unless a model learns the same with XLA as without it."""
    losses = {}
    for jit_compile in (True, False):
        keras.utils.set_random_seed(0)
        model = make()
        model.compile(**compiled, jit_compile=jit_compile)
        assert model.jit_compile == jit_compile
        history = model.fit(*data, batch_size=2, epochs=3, shuffle=False, verbose=0).history
        losses[jit_compile] = history.pop("loss")
        assert losses[jit_compile][-1] < losses[jit_compile][0]
        metrics = {name: values[-1] for name, values in history.items()}
        losses[jit_compile] += metrics.values()
        if jit_compile:
            assert kernels_called(model, data) == kernels
    np.testing.assert_allclose(losses[True], losses[False], 1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_functional_model_with_a_layer(name):
    make, data, kernels = MODELS[name]
    check_training(make, data, kernels, optimizer="sgd", loss="mse")


def test_an_op_called_from_a_loss_and_from_a_metric():
    def kept(targets, predictions):
        indices = nms(predictions, predictions[:, 0], iou_threshold=0.5, max_output_size=4)
        return keras.ops.cast(indices >= 0, "float32")

    def make():
        inputs = keras.Input((3,))
        return keras.Model(inputs, keras.layers.Dense(4, bias_initializer="ones")(inputs))

    targets = np.tile(np.float32([(2, 1, 5, 3)]), (4, 1))
    check_training(
        make,
        (drawn(4, 3) + np.float32([0, 1, 2]), targets),
        {"elementwise_iou", "elementwise_iou_gradient", "nms"},
        optimizer="sgd",
        loss=IoULoss("giou"),
        metrics=[elementwise_iou, kept],
    )


def test_faster_rcnn():
    check_training(
        lambda: tiny_faster_rcnn(seed=3),
        squares(4),
        {"batched_nms", "match_boxes", "roi_align", "roi_align_gradient"},
        optimizer="sgd",
        evaluator=(),
    )


@pytest.mark.parametrize("name", INSTANCES)
def test_keras_may_compile_everything(name):
    instance = INSTANCES[name]()
    # Keras augments outside of the step that it compiles.
    augments = name.startswith("kvision.data.")
    if isinstance(instance, keras.layers.Layer) and not augments:
        assert all(layer.supports_jit for layer in (instance, *instance._flatten_layers()))
