"""The detector base: losses, evaluation, prediction and saving, on the active Keras backend."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kvision.metrics import (
    COCODetectionMetrics,
    ObjectMetrics,
    PanopticQuality,
    VOCDetectionMetrics,
)
from tests.models.tiny_detector import SIDE, TinyDetector, scenes

BACKEND = keras.backend.backend()
only_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's own path")


@keras.saving.register_keras_serializable("kvision_tests")
class CountingEvaluator:
    """Counts what it is given and checks the form of it."""

    def __init__(self):
        self.resets = self.evaluations = 0

    def reset(self):
        self.resets += 1
        self.ids = []

    def update(self, detections, targets, *, image_size, resize_policy):
        assert image_size == (SIDE, SIDE)
        assert resize_policy == "letterbox"
        assert {type(v) for v in (*detections.values(), *targets.values())} == {np.ndarray}
        assert len(detections["boxes"]) == len(targets["boxes"])
        self.ids += targets["image_id"].tolist()

    def result(self):
        self.evaluations += 1
        return {"num_images": float(len(self.ids))}

    def get_config(self):
        return {}


def tiny(evaluator=None, **kwargs):
    model = TinyDetector(num_classes=1, image_size=SIDE)
    optimizer = keras.optimizers.SGD(kwargs.pop("learning_rate", 0.1))
    model.compile(optimizer, evaluator=evaluator, **kwargs)
    return model


def expected_losses(targets, offset, wrong=0):
    """Means over images: the error is the offset, and 200 more in the wrong images."""
    boxes = targets["boxes"][:, 0]
    errors = np.where(np.arange(len(boxes)) < wrong, 200 + offset, offset) ** 2
    return {"offset_loss": errors.mean(), "size_loss": boxes[:, 2].mean()}


@pytest.mark.parametrize("batch_size", [1, 3, 7, 32])
def test_evaluate_gives_losses_and_metrics(batch_size):
    images, targets = scenes(7, wrong=(0,))
    model = tiny([COCODetectionMetrics(), VOCDetectionMetrics()])
    model.offset.assign(0.01)
    result = model.evaluate(images, targets, batch_size=batch_size, return_dict=True, verbose=0)
    expected = expected_losses(targets, 0.01, wrong=1)
    assert result["loss"] == pytest.approx(sum(expected.values()), rel=1e-5)
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, rel=1e-5)
    # 6 of 7 are found and all scores are equal: the wrong one, of the first image, ranks first.
    assert result["AR_1"] == pytest.approx(6 / 7)
    assert result["VOC_AP50"] == pytest.approx(6 / 7 * 6 / 7)
    listed = model.evaluate(images, targets, batch_size=batch_size, verbose=0)
    names = ["loss", "offset_loss", "size_loss"]
    names += sorted(set(result) - set(names))
    np.testing.assert_allclose(listed, [result[name] for name in names])


def filled(boxes):
    """The label maps `(B, SIDE, SIDE)` of one box an image, without those that begin outside."""
    boxes = ops.convert_to_tensor(boxes)
    places = ops.cast(ops.arange(SIDE), "float32")
    left, top, right, bottom = (boxes[:, i, None, None] for i in range(4))
    rows, columns = places[None, :, None], places[None, None]
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return ops.cast(inside, "int32")


@keras.saving.register_keras_serializable("kvision_tests")
class PaintingDetector(TinyDetector):
    """Its detections are label maps as well."""

    def decode(self, raw):
        return {**super().decode(raw), "instance_ids": filled(raw["boxes"])}


def test_keras_metrics_are_evaluators(tmp_path):
    """Six of seven objects are found; the seventh lies far outside of its image."""
    images, targets = scenes(7, wrong=(3,))
    targets["instance_ids"] = ops.convert_to_numpy(filled(targets["boxes"][:, 0]))[..., None]
    model = PaintingDetector(num_classes=1, image_size=SIDE)
    metrics = [
        ObjectMetrics(),
        PanopticQuality(1, background_is_void=False),
        COCODetectionMetrics(),
    ]
    model.compile(keras.optimizers.SGD(0.0), evaluator=metrics)
    history = model.fit(
        images, targets, batch_size=3, epochs=2, validation_data=(images, targets), verbose=0
    ).history
    expected = {"object_f1_50": 12 / 13, "image_ap": 6 / 7, "rq": 12 / 13, "sq": 1.0, "AR_1": 6 / 7}
    for name, value in expected.items():
        assert history[f"val_{name}"] == pytest.approx([value] * 2, abs=1e-6)
        assert name not in history  # in training there is nothing decoded
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    result = loaded.evaluate(images, targets, batch_size=7, return_dict=True, verbose=0)
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-6)


@only_tensorflow
@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_evaluate_from_tf_data(steps_per_execution):
    import tensorflow as tf

    evaluator = CountingEvaluator()
    model = tiny(evaluator, steps_per_execution=steps_per_execution)
    dataset = tf.data.Dataset.from_tensor_slices(scenes(7)).batch(2)
    assert model.evaluate(dataset, return_dict=True, verbose=0)["num_images"] == 7
    assert evaluator.ids == list(range(7))
    model.evaluate(dataset.repeat(), steps=3, verbose=0)
    assert evaluator.ids == list(range(6))
    assert model.steps_per_execution == steps_per_execution


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_fit_puts_metrics_in_history_and_checkpoints(tmp_path, steps_per_execution):
    if BACKEND == "torch" and steps_per_execution > 1:
        pytest.skip("Keras refuses steps_per_execution on PyTorch")
    evaluator = CountingEvaluator()
    model = tiny([COCODetectionMetrics(), evaluator], steps_per_execution=steps_per_execution)
    model.offset.assign(20.0)
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras", monitor="val_AP50", mode="max", save_best_only=True
    )
    history = model.fit(
        *scenes(7),
        batch_size=2,
        epochs=3,
        shuffle=False,
        validation_data=scenes(5),
        validation_batch_size=2,
        callbacks=[checkpoint],
        verbose=0,
    ).history
    # SGD at rate 0.1 on the square of the offset leaves 0.8 of it a step, 4 steps an epoch.
    offsets = 20 * 0.8 ** (4 * np.arange(1, 4))
    np.testing.assert_allclose(history["val_offset_loss"], offsets**2, rtol=1e-4)
    assert history["val_num_images"] == [5.0] * 3
    assert history["val_AP50"][0] < history["val_AP50"][-1] == pytest.approx(1.0)
    assert checkpoint.best == pytest.approx(1.0)
    assert (evaluator.evaluations, evaluator.resets) == (3, 4)  # fit asks for the package first


def test_validation_steps():
    evaluator = CountingEvaluator()
    data = scenes(6)
    tiny(evaluator).fit(
        *data, batch_size=2, validation_data=data, validation_steps=2, epochs=2, verbose=0
    )
    assert evaluator.ids == [0, 1, 2, 3]


def test_one_forward_pass_a_batch():
    model = tiny(CountingEvaluator(), run_eagerly=True, jit_compile=False)
    model.calls.clear()
    model.evaluate(*scenes(7), batch_size=2, verbose=0)
    assert model.calls == ["inference"] * 4


def test_callbacks_see_the_metrics(capsys):
    seen = []

    class Witness(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            seen.append("begin")

        def on_test_batch_end(self, batch, logs=None):
            seen.append((batch, sorted(logs)))

        def on_test_end(self, logs=None):
            seen.append(logs["num_images"])

    images, targets = scenes(3)
    model = tiny(CountingEvaluator())
    model.evaluate(images, targets, batch_size=2, callbacks=[Witness()], verbose=1)
    losses = ["loss", "offset_loss", "size_loss"]
    assert seen == ["begin", (0, losses), (1, losses), 3.0]
    assert "num_images: 3.0000" in capsys.readouterr().out


def test_losses_alone():
    result = tiny(()).evaluate(*scenes(3), return_dict=True, verbose=0)
    assert set(result) == {"loss", "offset_loss", "size_loss"}


def test_training_after_evaluation_and_test_on_batch():
    images, targets = scenes(4)
    evaluator = CountingEvaluator()
    model = tiny(evaluator)
    model.evaluate(images, targets, verbose=0)
    assert set(model.train_on_batch(images, targets, return_dict=True)) == {
        "loss",
        "offset_loss",
        "size_loss",
    }
    assert set(model.test_on_batch(images, targets, return_dict=True)) == {
        "loss",
        "offset_loss",
        "size_loss",
    }
    assert evaluator.ids == list(range(4))


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_predict_decodes(steps_per_execution):
    if BACKEND == "torch" and steps_per_execution > 1:
        pytest.skip("Keras refuses steps_per_execution on PyTorch")
    images, targets = scenes(7)
    model = tiny(steps_per_execution=steps_per_execution)
    found = model.predict(images, batch_size=2, verbose=0)
    np.testing.assert_array_equal(found["boxes"], targets["boxes"][:, :1])
    assert found["labels"].dtype == np.int32
    assert found["num_detections"].tolist() == [1] * 7
    np.testing.assert_array_equal(model.predict_on_batch(images)["boxes"], found["boxes"])


def test_layers_own_losses_are_added():
    class Regularised(TinyDetector):
        def call(self, images, training=None):
            self.add_loss(self.offset * 3.0)
            return super().call(images, training)

    images, targets = scenes(2)
    model = Regularised(num_classes=1)
    model.compile("sgd", evaluator=())
    model.offset.assign(2.0)
    result = model.evaluate(images, targets, return_dict=True, verbose=0)
    parts = expected_losses(targets, 2.0)
    assert result["loss"] == pytest.approx(sum(parts.values()) + 6.0, rel=1e-5)


def test_weights_of_samples_and_classes_are_refused():
    images, targets = scenes(2)
    model = tiny(())
    weights = np.ones(2, "float32")
    for method, kwargs in (
        (model.fit, {"sample_weight": weights}),
        (model.fit, {"class_weight": {0: 1.0}}),
        (model.evaluate, {"sample_weight": weights}),
        (model.train_on_batch, {"class_weight": {0: 1.0}}),
    ):
        with pytest.raises(ValueError, match=f"TinyDetector: `{next(iter(kwargs))}`"):
            method(images, targets, **kwargs)


@only_tensorflow
def test_sample_weight_in_a_dataset_is_refused():
    import tensorflow as tf

    data = (*scenes(2), np.ones(2, "float32"))
    with pytest.raises(ValueError, match="TinyDetector: `sample_weight`"):
        tiny(()).fit(tf.data.Dataset.from_tensor_slices(data).batch(2), shuffle=False, verbose=0)


def test_missing_targets_are_named():
    with pytest.raises(ValueError, match="TinyDetector: targets"):
        tiny(()).evaluate(scenes(2)[0], verbose=0)


def test_saving_keeps_the_compilation(tmp_path):
    images, targets = scenes(3)
    model = tiny([VOCDetectionMetrics(iou_thresholds=(0.25,))], learning_rate=0.05)
    model.offset.assign(1.5)
    model.fit(images, targets, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    assert int(loaded.optimizer.iterations) == 1
    before = model.evaluate(images, targets, return_dict=True, verbose=0)
    assert "VOC_AP25" in before
    assert loaded.evaluate(images, targets, return_dict=True, verbose=0) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"num_classes": 2, "class_names": ["cat"]}, "class_names"),
        ({"num_classes": 1, "resize_policy": "squash"}, "resize policy"),
        ({"num_classes": 1, "image_size": (0, 8)}, "image_size"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"TinyDetector: .*{message}"):
        TinyDetector(**arguments)


@only_tensorflow
@pytest.mark.parametrize("num_images", [7, 8])
def test_two_replicas_evaluate_like_one(num_images):
    """7 images in batches of 2 leave one of the two replicas empty at the end."""
    script = Path(__file__).parent / "two_replicas.py"
    subprocess.run([sys.executable, str(script), str(num_images)], check=True, timeout=120)


def test_a_saved_model_leaves_the_choice_of_a_compiler_to_the_backend_that_loads_it():
    for asked in ("auto", False):
        assert tiny(jit_compile=asked).get_compile_config()["jit_compile"] == asked
