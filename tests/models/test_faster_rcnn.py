"""Faster R-CNN as a model: shapes, losses, sampling, saving, precision, learning."""

import inspect

import keras
import numpy as np
import pytest
from keras import ops

from kvision.backbones import VGG, ResNet50, ResNetTiny
from kvision.layers import FeatureSpec
from kvision.models.detection import FasterRCNN
from tests.models.tiny_faster_rcnn import SIDE, TinyBackbone, squares, tiny_faster_rcnn

BACKEND = keras.backend.backend()


def numpy_losses(model, images, targets, training):
    images = ops.convert_to_tensor(images)
    targets = keras.tree.map_structure(ops.convert_to_tensor, targets)
    raw = model(images, training=training)
    losses = model.compute_losses(images, targets, raw, training)
    return {name: float(ops.convert_to_numpy(value)) for name, value in losses.items()}


def iteration(model):
    return int(ops.convert_to_numpy(model.iteration))


def test_raw_outputs():
    images, _ = squares(2)
    model = tiny_faster_rcnn()
    anchors = 3 * (16 * 16 + 8 * 8 + 4 * 4)
    raw = model(images)
    pyramid = raw.pop("pyramid")
    assert {name: tuple(x.shape) for name, x in pyramid.items()} == {
        "P2": (2, 16, 16, 24),
        "P3": (2, 8, 8, 24),
        "P4": (2, 4, 4, 24),
    }
    described = {
        name: (tuple(x.shape), keras.backend.standardize_dtype(x.dtype)) for name, x in raw.items()
    }
    assert described == {
        "rpn_logits": ((2, anchors), "float32"),
        "rpn_deltas": ((2, anchors, 4), "float32"),
        "proposals": ((2, 40, 4), "float32"),
        "num_proposals": ((2,), "int32"),
        "image_size": ((2, 2), "float32"),
        "class_logits": ((2, 40, 3), "float32"),
        "box_deltas": ((2, 40, 3, 4), "float32"),
    }
    training = model(images, training=True)
    assert set(raw) - set(training) == {"class_logits", "box_deltas"}
    assert tuple(training["proposals"].shape) == (2, 80, 4)


def test_box_outputs_are_those_of_the_proposals():
    images, _ = squares(2)
    model = tiny_faster_rcnn()
    raw = model(images)
    logits, deltas = model.box_outputs(raw["pyramid"], raw["proposals"])
    for actual, expected in ((logits, raw["class_logits"]), (deltas, raw["box_deltas"])):
        np.testing.assert_allclose(
            ops.convert_to_numpy(actual), ops.convert_to_numpy(expected), atol=1e-6
        )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tensors of other backends have a size")
def test_images_of_unknown_size_are_refused():
    with pytest.raises(ValueError, match="static height and width"):
        tiny_faster_rcnn()(keras.Input((None, SIDE, 3)))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("levels", ()),
        ("levels", ("P2", "P4")),
        ("anchor_sizes", (16,)),
        ("anchor_sizes", ((16, 20), (32,), (64,))),
        ("box_regression_loss", "l1"),
        ("smooth_l1_beta", -1),
        ("rois_per_image", 0),
        ("max_detections", 0),
        ("nms_threshold", 1.5),
        ("roi_positive_fraction", -0.1),
        ("rpn_negative_iou", 0.8),
        ("anchor_sizes", (0, 32, 64)),
        ("aspect_ratios", (1.0, -2.0)),
        ("aspect_ratios", ()),
        ("roi_sampling_ratio", -1),
        ("roi_output_size", (7, 7)),
        ("roi_aligned", "yes"),
        ("score_threshold", float("nan")),
        ("fpn_filters", 0),
        ("fpn_filters", 24.5),
        ("rpn_min_side", -1.0),
        ("box_head_units", 0),
        ("seed", None),
    ],
)
def test_arguments_are_checked(argument, value):
    with pytest.raises(ValueError, match=f"FasterRCNN: `{argument}`"):
        tiny_faster_rcnn(**{argument: value})


def _vgg():
    return VGG((1, 1, 1, 1, 1), widths=(2, 3, 4, 5, 6))


def test_the_pyramid_begins_at_stride_4():
    """Lin et al., 2017: P2 to P5. A VGG has maps of stride 1 and 2 besides."""
    model = tiny_faster_rcnn(backbone=_vgg(), anchor_sizes=(8, 16, 32, 48, 64))
    assert model.levels == ("P2", "P3", "P4", "P5")
    raw = model(np.zeros((1, SIDE, SIDE, 3), "float32"))
    sides = {name: tuple(level.shape[1:3]) for name, level in raw["pyramid"].items()}
    assert sides == {"P2": (16, 16), "P3": (8, 8), "P4": (4, 4), "P5": (2, 2), "P6": (1, 1)}


def test_levels_can_be_chosen(tmp_path):
    model = tiny_faster_rcnn(backbone=_vgg(), levels=("P4", "P3"))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.levels == ("P3", "P4")
    raw = loaded(np.zeros((1, SIDE, SIDE, 3), "float32"))
    assert list(raw["pyramid"]) == ["P3", "P4", "P5"]


def test_feature_specs_put_on_a_functional_backbone_are_saved(tmp_path):
    images, _ = squares(1)
    inputs = keras.Input((None, None, 3))
    fine = keras.layers.Conv2D(4, 3, 4, padding="same")(inputs)
    coarse = keras.layers.Conv2D(8, 3, 2, padding="same")(fine)
    backbone = keras.Model(inputs, {"P2": fine, "P3": coarse})
    backbone.feature_specs = {"P2": FeatureSpec(4, 4), "P3": FeatureSpec(8, 8)}
    model = tiny_faster_rcnn(backbone=backbone)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.backbone.feature_specs == backbone.feature_specs
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0)["boxes"], model.predict(images, verbose=0)["boxes"]
    )


def test_pixels_reach_the_backbone_in_float32():
    class Witness(TinyBackbone):
        def call(self, images):
            seen.append(keras.backend.standardize_dtype(images.dtype))
            return super().call(images)

    seen = []
    backbone = Witness(dtype="mixed_bfloat16")
    backbone.autocast = False
    images, _ = squares(1)
    tiny_faster_rcnn(backbone=backbone, dtype="mixed_bfloat16")(images)
    assert seen == ["float32"]


def test_config_holds_every_argument():
    config = tiny_faster_rcnn().get_config()
    parameters = set(inspect.signature(FasterRCNN.__init__).parameters) - {"self", "kwargs"}
    assert parameters <= set(config)


def test_saved_model_is_the_same(tmp_path):
    images, targets = squares(4)
    model = tiny_faster_rcnn(class_names=["red", "green"], image_size=SIDE, seed=3)
    model.compile(keras.optimizers.SGD(0.01), evaluator=())
    model.fit(images, targets, batch_size=2, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    assert iteration(loaded) == iteration(model) == 2
    expected, actual = (m.predict(images, verbose=0) for m in (model, loaded))
    assert expected["num_detections"].min() > 0
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value)


def test_losses_of_a_batch_are_the_mean_over_its_parts():
    images, targets = squares(4)
    model = tiny_faster_rcnn()
    whole = numpy_losses(model, images, targets, True)
    parts = []
    for part in (slice(3, 4), slice(0, 3)):
        model.iteration.assign(0)
        own = {name: value[part] for name, value in targets.items()}
        parts.append(numpy_losses(model, images[part], own, True))
    for name, value in whole.items():
        assert parts[0][name] / 4 + parts[1][name] * 3 / 4 == pytest.approx(value, rel=1e-5)


def test_sampling_follows_seed_iteration_and_image_id():
    images, targets = squares(2)
    targets["image_id"] = np.array([5, 6], "int32")

    def class_loss(model, ids=(5, 6)):
        own = {**targets, "image_id": np.array(ids, "int32")}
        return numpy_losses(model, images, own, True)["class_loss"]

    model = tiny_faster_rcnn()
    first, second = class_loss(model), class_loss(model)
    assert first != second
    assert iteration(model) == 2
    model.iteration.assign(0)
    assert class_loss(model) == first
    model.iteration.assign(0)
    assert class_loss(model, (7, 8)) != first
    other = tiny_faster_rcnn(seed=1)
    other.set_weights(model.get_weights())
    other.iteration.assign(0)
    assert class_loss(other) != first


def test_training_steps_count_from_1_on_every_backend():
    class Counting(FasterRCNN):
        def sample_anchors(self, anchors, ground_truth, step):
            samples = super().sample_anchors(anchors, ground_truth, step)
            steps.append(int(ops.convert_to_numpy(step)))
            return samples

    steps = []
    images, targets = squares(2)
    model = tiny_faster_rcnn()
    model.__class__ = Counting
    for training in (True, True, False, True):
        numpy_losses(model, images, targets, training)
    assert steps == [1, 2, 0, 3]


def test_evaluation_leaves_the_iteration_and_repeats_itself():
    images, targets = squares(2)
    model = tiny_faster_rcnn()
    first = numpy_losses(model, images, targets, False)
    assert iteration(model) == 0
    assert numpy_losses(model, images, targets, False) == first
    assert all(value > 0 for value in first.values())


@pytest.mark.parametrize("num_slots", [0, 3])
@pytest.mark.parametrize("training", [True, False])
def test_images_without_ground_truth(num_slots, training):
    images, _ = squares(2)
    targets = {
        "boxes": np.zeros((2, num_slots, 4), "float32"),
        "labels": np.full((2, num_slots), -1, "int32"),
    }
    losses = numpy_losses(tiny_faster_rcnn(), images, targets, training)
    assert losses["rpn_box_loss"] == losses["box_loss"] == 0
    assert losses["rpn_objectness_loss"] == pytest.approx(np.log(2), abs=0.02)
    assert losses["class_loss"] == pytest.approx(np.log(3), abs=0.1)


@pytest.mark.parametrize("mark", ["is_crowd", "difficult"])
def test_marked_boxes_are_not_learnt(mark):
    images, targets = squares(2)
    model = tiny_faster_rcnn()
    plain = numpy_losses(model, images, {**targets, mark: np.zeros((2, 3), bool)}, False)
    assert plain == numpy_losses(model, images, targets, False)
    marked = numpy_losses(model, images, {**targets, mark: np.ones((2, 3), bool)}, False)
    assert marked["rpn_box_loss"] == marked["box_loss"] == 0
    assert marked["class_loss"] > 0


def test_everything_marked_leaves_nothing_to_learn():
    images, _ = squares(1)
    targets = {
        "boxes": np.array([[(-200, -200, 300, 300)]], "float32"),
        "labels": np.zeros((1, 1), "int32"),
        "is_crowd": np.ones((1, 1), bool),
    }
    losses = numpy_losses(tiny_faster_rcnn(), images, targets, True)
    assert set(losses.values()) == {0.0}


def test_l2_loss():
    images, targets = squares(2)
    smooth, l2 = tiny_faster_rcnn(smooth_l1_beta=1.0), tiny_faster_rcnn(box_regression_loss="l2")
    l2.set_weights(smooth.get_weights())
    smooth, l2 = (numpy_losses(m, images, targets, False) for m in (smooth, l2))
    # Anchors are matched above an IoU at which all offsets are within 1.
    assert l2["rpn_box_loss"] == pytest.approx(2 * smooth["rpn_box_loss"], rel=1e-5)
    assert l2["box_loss"] > smooth["box_loss"]
    assert l2["class_loss"] == smooth["class_loss"]


def gradients(model, images, targets, names):
    """Gradient of the sum of some losses with respect to each trainable variable, by its path."""
    images = ops.convert_to_tensor(images)
    targets = keras.tree.map_structure(ops.convert_to_tensor, targets)
    variables = model.trainable_variables

    def loss():
        losses = model.compute_losses(images, targets, model(images, training=True), True)
        return sum(losses[name] for name in names)

    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss()
        found = tape.gradient(value, [v.value for v in variables])
    elif BACKEND == "torch":
        model.zero_grad()
        loss().backward()
        found = [v.value.grad for v in variables]
    else:
        import jax

        def stateless(values):
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return loss()

        found = jax.grad(stateless)([v.value for v in variables])
    largest = {}
    for variable, gradient in zip(variables, found, strict=True):
        gradient = ops.zeros(1) if gradient is None else ops.convert_to_tensor(gradient)
        largest[variable.path] = float(ops.max(ops.abs(gradient)))
    return largest


def test_every_weight_learns_and_proposals_pass_no_gradient():
    images, targets = squares(2)
    model = tiny_faster_rcnn()
    largest = gradients(model, images, targets, model.loss_names)
    assert min(largest.values()) > 0
    assert np.isfinite(list(largest.values())).all()
    second_stage = gradients(model, images, targets, ("class_loss", "box_loss"))
    assert all(value == 0 for path, value in second_stage.items() if "rpn_head" in path)
    assert all(value > 0 for path, value in second_stage.items() if "box_head" in path)


def test_gradients_without_ground_truth_are_finite():
    images, targets = squares(2)
    targets = {**targets, "labels": np.full((2, 3), -1, "int32")}
    model = tiny_faster_rcnn()
    assert np.isfinite(list(gradients(model, images, targets, model.loss_names).values())).all()


def test_mixed_precision_keeps_boxes_and_losses_in_float32():
    images, targets = squares(2)
    model = tiny_faster_rcnn(dtype="mixed_bfloat16")
    raw = model(images)
    assert "bfloat16" in str(raw["pyramid"].pop("P2").dtype)
    del raw["pyramid"]
    floats = {n: str(x.dtype) for n, x in raw.items() if n != "num_proposals"}
    assert all("float32" in dtype for dtype in floats.values()), floats
    detections = model.decode(raw)
    assert "float32" in str(detections["boxes"].dtype)
    targets = keras.tree.map_structure(ops.convert_to_tensor, targets)
    training = model(images, training=True)
    for loss in model.compute_losses(images, targets, training, True).values():
        assert "float32" in str(loss.dtype)
        assert np.isfinite(ops.convert_to_numpy(loss))


def test_odd_image_sizes():
    images = np.random.default_rng(0).uniform(0, 255, (1, 50, 70, 3)).astype("float32")
    targets = {
        "boxes": np.array([[(5, 5, 30, 30)]], "float32"),
        "labels": np.zeros((1, 1), "int32"),
    }
    model = tiny_faster_rcnn()
    assert np.isfinite(list(numpy_losses(model, images, targets, True).values())).all()
    boxes = ops.convert_to_numpy(model.decode(model(images))["boxes"])
    assert boxes[..., 2].max() <= 70
    assert boxes[..., 3].max() <= 50


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def test_fit_learns_to_find_squares():
    images, targets = squares(32)
    model = tiny_faster_rcnn()
    model.compile(keras.optimizers.Adam(3e-3), evaluator=())
    history = model.fit(images, targets, batch_size=8, epochs=20, verbose=0).history
    assert iteration(model) == 80
    assert set(history) == {"loss", *model.loss_names}
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    detections = model.predict(images, batch_size=8, verbose=0)
    found = total = 0
    for b in range(len(images)):
        for box, label in zip(targets["boxes"][b], targets["labels"][b], strict=True):
            if label < 0:
                continue
            total += 1
            found += any(
                score > 0.5 and own == label and iou(box, candidate) > 0.5
                for candidate, score, own in zip(
                    detections["boxes"][b],
                    detections["scores"][b],
                    detections["labels"][b],
                    strict=True,
                )
            )
    assert found >= 0.8 * total


def test_parameters_of_the_c4_form():
    """Detectron2's count of 80 classes, and the box of the background that it has not."""
    with keras.StatelessScope(initialize_variables=False):  # shapes alone
        model = FasterRCNN(
            ResNet50(version="v1.5", normalization="frozen_batch"),
            80,
            fpn_filters=None,
            anchor_sizes=((32, 64, 128, 256, 512),),
            roi_output_size=14,
        )
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert parameters == 33_791_644 + 4 * (2048 + 1)


def test_the_c4_form_is_a_backbone_cut_in_two():
    images, _ = squares(2)
    backbone = ResNetTiny(normalization="group")
    anchors = ((16, 32, 64),)
    model = tiny_faster_rcnn(
        backbone=backbone, fpn_filters=None, anchor_sizes=anchors, roi_output_size=4
    )
    raw = model(images)
    assert set(raw["pyramid"]) == {"P4"}
    maps = backbone(images)
    np.testing.assert_allclose(
        ops.convert_to_numpy(raw["pyramid"]["P4"]), ops.convert_to_numpy(maps["P4"]), atol=1e-5
    )
    # Of a region that is the whole image, each bin a cell, the last stage gives the last map.
    whole = np.tile(np.array([0, 0, SIDE, SIDE], "float32"), (2, 1, 1))
    model.roi_aligned, model.roi_sampling_ratio = True, 1
    features = model.region_features(raw["pyramid"], whole)
    np.testing.assert_allclose(
        ops.convert_to_numpy(features)[:, 0], ops.convert_to_numpy(maps["P5"]), atol=1e-4
    )
    logits, _ = model.box_outputs(raw["pyramid"], whole)
    mean = ops.convert_to_numpy(maps["P5"]).mean(axis=(1, 2))
    expected = mean @ ops.convert_to_numpy(model.box_head.classifier.kernel)
    np.testing.assert_allclose(ops.convert_to_numpy(logits)[:, 0], expected, atol=1e-4)


def test_a_backbone_that_cannot_be_cut():
    with pytest.raises(ValueError, match="split_last_stage: `backbone` must be a functional model"):
        tiny_faster_rcnn(fpn_filters=None, anchor_sizes=((16, 32, 64),))
