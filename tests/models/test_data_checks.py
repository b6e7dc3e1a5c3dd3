"""Data that no loss can be computed from are refused with one clear sentence."""

import keras
import numpy as np
import pytest

from kvision.metrics import COCODetectionMetrics
from tests.models.tiny_detector import TinyDetector, scenes

BACKEND = keras.backend.backend()
WRONG_LABELS = r"TinyDetector: `labels` must be in 0\.\.1, as `num_classes` is 2, .*-1"


def tiny(**kwargs):
    model = TinyDetector(num_classes=2)
    model.compile("sgd", **{"evaluator": COCODetectionMetrics(), **kwargs})
    return model


def relabelled(label):
    images, targets = scenes(4)
    targets["labels"][::2, 0] = label
    return images, targets


class Batches(keras.utils.PyDataset):
    """Batches of two, checked by nobody before a step sees them."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return keras.tree.map_structure(lambda x: x[2 * index : 2 * index + 2], self.data)


@pytest.mark.parametrize("label", [-2, 2])
@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch"])
def test_labels_in_arrays(method, label):
    with pytest.raises(ValueError, match=rf"{WRONG_LABELS}.*\[{label}\]"):
        getattr(tiny(), method)(*relabelled(label))


def test_labels_in_validation_arrays_before_the_first_epoch():
    model = tiny()
    with pytest.raises(ValueError, match=WRONG_LABELS):
        model.fit(*scenes(4), validation_data=relabelled(2), verbose=0)
    assert int(model.optimizer.iterations) == 0


def error_in_a_step(jit_compile=False):
    if BACKEND == "tensorflow" and not jit_compile:
        import tensorflow as tf

        return tf.errors.InvalidArgumentError
    return ValueError


@pytest.mark.skipif(BACKEND == "jax", reason="a compiled step of JAX cannot look at values")
def test_labels_in_a_training_step():
    with pytest.raises(error_in_a_step(), match=WRONG_LABELS):
        tiny(jit_compile=False).fit(Batches(relabelled(7)), shuffle=False, verbose=0)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_labels_in_an_evaluation_step(jit_compile):
    if BACKEND == "torch" and jit_compile:
        pytest.skip("torch.compile needs a compiler of its own")
    with pytest.raises(error_in_a_step(jit_compile), match=WRONG_LABELS):
        tiny(jit_compile=jit_compile).evaluate(Batches(relabelled(7)), verbose=0)


def test_right_labels_pass_under_xla():
    if BACKEND == "torch":
        pytest.skip("torch.compile needs a compiler of its own")
    tiny(jit_compile=True).fit(Batches(scenes(4)), verbose=0)


def test_uncompiled_steps_say_it_as_a_value_error():
    with pytest.raises(ValueError, match=WRONG_LABELS):
        tiny(run_eagerly=True, jit_compile=False).fit(Batches(relabelled(2)), verbose=0)


@pytest.mark.parametrize("missing", ["boxes", "labels"])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_missing_keys(method, missing):
    images, targets = scenes(4)
    del targets[missing]
    for data in ((images, targets), (Batches((images, targets)),)):
        with pytest.raises(ValueError, match="TinyDetector: targets .*kvision.data.to_fit"):
            getattr(tiny(), method)(*data, verbose=0)


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_a_whole_batch_dictionary(method):
    images, targets = scenes(4)
    batch = {"images": images, "bounding_boxes": targets}
    for data in (batch, Batches((batch,))):
        with pytest.raises(ValueError, match="TinyDetector: images .*kvision.data.to_fit"):
            getattr(tiny(), method)(data, verbose=0)


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
@pytest.mark.parametrize("scale", [1 / 255, 257, -10])
def test_other_pixels_than_0_to_255(method, scale):
    images, targets = scenes(4)
    given = (images * scale,) if method == "predict" else (images * scale, targets)
    with pytest.warns(UserWarning, match="TinyDetector: images must have values from 0 to 255"):
        getattr(tiny(), method)(*given, verbose=0)


def test_images_of_one_colour_may_be_black():
    tiny().predict(np.zeros((1, 32, 32, 3), "float32"), verbose=0)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_no_images():
    images, targets = scenes(0)
    with pytest.raises(ValueError, match="TinyDetector: there is no image to predict"):
        tiny().predict(images, verbose=0)
    with pytest.raises(ValueError, match="TinyDetector: there is no image to evaluate"):
        tiny().evaluate(images, targets, verbose=0)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        empty = tf.data.Dataset.from_tensor_slices(scenes(2)).batch(2).take(0)
        with pytest.raises(ValueError, match="TinyDetector: there is no image to evaluate"):
            tiny().evaluate(empty, verbose=0)


@pytest.mark.parametrize("evaluator", ["coco", COCODetectionMetrics, [3]])
def test_an_evaluator_is_an_object_with_three_methods(evaluator):
    with pytest.raises(ValueError, match="TinyDetector: `evaluator` must be an object"):
        tiny(evaluator=evaluator)
