"""Mask R-CNN as a model: outputs, losses, both forms of targets, saving, learning."""

import keras
import numpy as np
import pytest
from keras import ops

from kvision.models.instances import MaskRCNN
from kvision.ops import crop_masks, paste_masks
from tests.models.instances.tiny_mask_rcnn import (
    discs,
    losses,
    tiny_mask_rcnn,
    tiny_mask_rcnn_c4,
)

both_forms = pytest.mark.parametrize("make", [tiny_mask_rcnn, tiny_mask_rcnn_c4])


def to_runs(ids, num_objects):
    """Run lengths of a label map's objects, `(num_objects, R)`, from COCO's definition."""
    rows = []
    for number in range(1, num_objects + 1):
        pixels = (ids == number).ravel(order="F").astype(int)
        changes = np.flatnonzero(np.diff(np.concatenate([[0], pixels])))
        rows.append(np.diff(np.concatenate([[0], changes, [pixels.size]])))
    width = max(map(len, rows))
    return np.stack([np.pad(row, (0, width - len(row))) for row in rows]).astype("int32")


def _head_side(make):
    """Bins of the regions of the mask head; those of the box head without a pyramid."""
    return 7 if make is tiny_mask_rcnn else None


@both_forms
def test_outputs(make):
    images, _ = discs(2)
    model = make()
    side = 14 if make is tiny_mask_rcnn else 6  # twice the 7, or the half of 6, that it reads
    raw = model(images)
    decoded = model.decode(raw)
    described = {
        name: (tuple(x.shape), keras.backend.standardize_dtype(x.dtype))
        for name, x in decoded.items()
    }
    assert described == {
        "boxes": ((2, 20, 4), "float32"),
        "scores": ((2, 20), "float32"),
        "labels": ((2, 20), "int32"),
        "num_detections": ((2,), "int32"),
        "masks": ((2, 20, side, side), "float32"),
    }
    assert {"mask_logits", "detections"} <= set(raw)
    assert not {"mask_logits", "detections"} & set(model(images, training=True))


@both_forms
def test_masks_are_those_of_the_detections(make):
    """The regions are the detected boxes, the classes the detected ones, image by image."""
    images, _ = discs(3)
    model = make(score_threshold=0.6, max_detections=60)
    kernel = model.box_head.classifier.kernel
    kernel.assign(np.random.default_rng(0).normal(0, 3, kernel.shape))  # or all score 1 / 3
    raw = model(images)
    decoded = {name: ops.convert_to_numpy(x) for name, x in model.decode(raw).items()}
    counts = decoded["num_detections"].tolist()
    assert 0 < min(counts) < max(counts) < 60
    for b, count in enumerate(decoded["num_detections"]):
        maps = {name: x[b : b + 1] for name, x in raw["pyramid"].items()}
        boxes, labels = decoded["boxes"][b : b + 1, :count], decoded["labels"][b : b + 1, :count]
        regions = model.region_features(maps, boxes, output_size=_head_side(make))
        expected = ops.sigmoid(model.mask_head(regions, labels + 1))
        np.testing.assert_allclose(
            decoded["masks"][b, :count], ops.convert_to_numpy(expected)[0], atol=1e-5
        )
        assert (decoded["masks"][b, count:] == 0).all()


@both_forms
def test_the_mask_loss_is_of_the_positive_regions_and_their_own_classes(make):
    images, targets = discs(3)
    targets["image_id"] = np.arange(3, dtype="int32")
    model = make()
    seen = []
    sample_regions = model.sample_regions

    def recording(*args):
        seen.append(sample_regions(*args))
        return seen[-1]

    model.sample_regions = recording
    loss = losses(model, images, targets, True)["mask_loss"]
    raw = model(ops.convert_to_tensor(images), training=True)
    (samples,) = seen
    counts = ops.convert_to_numpy(samples.num_positive)
    assert counts.min() > 0
    side = 14 if make is tiny_mask_rcnn else 6
    means = []
    for b, count in enumerate(counts):
        boxes = ops.convert_to_numpy(samples.boxes)[b, :count]
        labels = ops.convert_to_numpy(samples.labels)[b, :count]
        rows = ops.convert_to_numpy(samples.matches)[b, :count]
        np.testing.assert_array_equal(targets["labels"][b, rows], labels)
        maps = {name: x[b : b + 1] for name, x in raw["pyramid"].items()}
        regions = model.region_features(maps, boxes[None], output_size=_head_side(make))
        logits = ops.convert_to_numpy(model.mask_head(regions, labels[None] + 1))[0]
        expected = ops.convert_to_numpy(
            crop_masks(
                targets["instance_ids"][b : b + 1, ..., 0],
                boxes[None],
                rows[None],
                output_size=side,
            )
        )[0]
        cross_entropy = np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0)
        means.append((cross_entropy - logits * expected).mean())
    assert loss == pytest.approx(np.mean(means), rel=1e-4)


@both_forms
@pytest.mark.parametrize("training", [True, False])
def test_run_lengths_are_as_good_as_a_label_map(make, training):
    images, targets = discs(2)
    model = make()
    expected = losses(model, images, targets, training)
    runs = [to_runs(ids[..., 0], targets["labels"].shape[1]) for ids in targets["instance_ids"]]
    width = max(row.shape[1] for row in runs)
    targets["mask_runs"] = np.stack([np.pad(r, ((0, 0), (0, width - r.shape[1]))) for r in runs])
    del targets["instance_ids"]
    model.iteration.assign(0)
    assert losses(model, images, targets, training) == pytest.approx(expected, rel=1e-6)


def test_losses_of_a_batch_are_the_mean_over_its_parts():
    images, targets = discs(4)
    model = tiny_mask_rcnn()
    whole = losses(model, images, targets, True)
    parts = []
    for part in (slice(3, 4), slice(0, 3)):
        model.iteration.assign(0)
        own = {name: value[part] for name, value in targets.items()}
        parts.append(losses(model, images[part], own, True))
    for name, value in whole.items():
        assert parts[0][name] / 4 + parts[1][name] * 3 / 4 == pytest.approx(value, rel=1e-5)


def test_nothing_to_draw_is_no_loss():
    images, targets = discs(2)
    targets["labels"] = np.full_like(targets["labels"], -1)
    for training in (True, False):
        assert losses(tiny_mask_rcnn(), images, targets, training)["mask_loss"] == 0


def test_targets_without_masks_are_refused():
    images, targets = discs(2)
    del targets["instance_ids"]
    model = tiny_mask_rcnn()
    model.compile("sgd")
    with pytest.raises(ValueError, match="MaskRCNN: targets must hold `instance_ids` or"):
        model.fit(images, targets, verbose=0)


def test_label_maps_of_another_size_are_refused():
    images, targets = discs(2)
    targets["instance_ids"] = targets["instance_ids"][:, ::2]
    model = tiny_mask_rcnn()
    model.compile("sgd")
    with pytest.raises(ValueError, match="MaskRCNN: `instance_ids` must be as large as the images"):
        model.fit(images, targets, verbose=0)


def test_a_list_of_images_is_refused():
    images, _ = discs(2)
    with pytest.raises(ValueError, match="images must be one array .* a list of 2"):
        tiny_mask_rcnn().predict(list(images))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("mask_roi_output_size", 0),
        ("mask_head_filters", None),
        ("mask_head_convs", -1),
        ("roi_positive_fraction", 0.01),
        ("nms_threshold", 2.0),
    ],
)
def test_arguments_are_checked(argument, value):
    with pytest.raises(ValueError, match=f"MaskRCNN: `{argument}`"):
        tiny_mask_rcnn(**{argument: value})


@pytest.mark.parametrize("sizes", [(16, 32, 64), ((16, 32), (64, 128))])
def test_one_map_has_one_set_of_anchors(sizes):
    with pytest.raises(ValueError, match="`anchor_sizes` must have one entry"):
        tiny_mask_rcnn_c4(anchor_sizes=sizes)


def test_parameters_of_the_c4_form():
    """Detectron2's count of 80 classes, and the columns of the background that it has not."""
    with keras.StatelessScope(initialize_variables=False):
        from kvision.models.catalog import create

        model = create("mask_rcnn_c4", num_classes=80)
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert parameters == 35_909_612 + 4 * (2048 + 1) + (256 + 1)


@both_forms
def test_saved_model_is_the_same(make, tmp_path):
    images, targets = discs(4)
    model = make(class_names=["red", "green"], image_size=64, seed=3)
    model.compile(keras.optimizers.SGD(0.01), evaluator=())
    model.fit(images, targets, batch_size=2, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is MaskRCNN
    assert loaded.get_config() == model.get_config()
    expected, actual = (m.predict(images, verbose=0) for m in (model, loaded))
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value)


def test_frozen_stages_of_the_c4_form_stay_frozen():
    model = tiny_mask_rcnn_c4()
    before = len(model.trainable_variables)
    for layer in model.backbone.layers:
        layer.trainable = not layer.name.startswith("stage5")
    frozen = [v for v in model.backbone.variables if "stage5" in v.path]
    assert len(model.trainable_variables) == before - len(frozen)
    again = MaskRCNN.from_config(model.get_config())
    assert len(again.trainable_variables) == len(model.trainable_variables)


def test_fit_learns_to_draw_discs():
    images, targets = discs(32)
    model = tiny_mask_rcnn()
    model.compile(keras.optimizers.Adam(3e-3), evaluator=())
    model.fit(images, targets, batch_size=8, epochs=25, verbose=0)
    detections = model.predict(images, batch_size=8, verbose=0)
    sure = detections["scores"] > 0.5
    masks = detections["masks"] * sure[:, :, None, None]
    ids = ops.convert_to_numpy(paste_masks(masks, detections["boxes"], image_size=64))
    expected = targets["instance_ids"][..., 0] > 0
    overlap = ((ids > 0) & expected).sum() / ((ids > 0) | expected).sum()
    assert overlap > 0.7  # boxes that are full of disc reach pi / 4 at best
