import itertools

import keras
import numpy as np
import pytest

from kvision.data import RandomScaledCrop, as_dataset, augment
from kvision.data.augment import _PIXEL_LAYERS

L = keras.layers
SIZE = (72, 96)
RECTANGLES = [(6, 4, 30, 28), (40, 8, 60, 34), (70, 30, 90, 66), (12, 40, 34, 60)]
COLOURS = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (250, 250, 20)]
GROUND = 90


def scene(count=6):
    """Four rectangles a scene, each of a colour, an instance and a class of its own."""
    image = np.full((*SIZE, 3), GROUND, "uint8")
    instances = np.zeros((*SIZE, 1), "int32")
    for i, (x1, y1, x2, y2) in enumerate(RECTANGLES):
        image[y1:y2, x1:x2] = COLOURS[i]
        instances[y1:y2, x1:x2] = i + 1
    boxes = np.zeros((6, 4), "float32")
    boxes[:4] = RECTANGLES
    batch = {
        "images": image,
        "bounding_boxes": {
            "boxes": boxes,
            "labels": np.array([5, 0, 7, 2, -1, -1], "int32"),
            "is_crowd": np.array([0, 0, 1, 0, 0, 0], bool),
            "area": np.array([576, 520, 720, 440, 0, 0], "float32"),
        },
        "segmentation_masks": instances * 10 + 300,
        "instance_ids": instances,
        "image_id": np.int32(3),
        "original_size": np.array(SIZE, "int32"),
    }
    return keras.tree.map_structure(lambda part: np.repeat(np.asarray(part)[None], count, 0), batch)


GEOMETRIC = {
    "flip": lambda: [L.RandomFlip("horizontal", seed=1)],
    "vertical flip": lambda: [L.RandomFlip("vertical", seed=1)],
    "both flips": lambda: [L.RandomFlip(seed=1)],
    "translation": lambda: [L.RandomTranslation(0.3, 0.3, fill_mode="constant", seed=1)],
    "zoom": lambda: [L.RandomZoom((-0.4, 0.4), (-0.2, 0.3), fill_mode="constant", seed=1)],
    "rotation": lambda: [L.RandomRotation(0.15, fill_mode="constant", fill_value=114, seed=1)],
    "crop": lambda: [L.RandomCrop(40, 50, seed=5)],
    "center crop": lambda: [L.CenterCrop(41, 96)],
    "scaled crop": lambda: [RandomScaledCrop(60, 80, seed=5)],
    "large scaled crop": lambda: [RandomScaledCrop(90, 100, (0.5, 1.5), seed=5)],
    "chain": lambda: [
        L.RandomFlip("horizontal", seed=1),
        L.RandomZoom(0.2, fill_mode="constant", seed=2),
        L.RandomContrast(0.1, seed=3),
        L.RandomCrop(60, 80, seed=4),
    ],
}
UPRIGHT = sorted(set(GEOMETRIC) - {"rotation"})


def by_dataset(function, batch):
    tf = pytest.importorskip("tensorflow")
    assert tf.executing_eagerly()
    (result,) = as_dataset(batch, len(batch["images"])).map(function).as_numpy_iterator()
    return result


def by_numpy(function, batch):
    return function(batch)


def extent(mask):
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.fixture(params=[by_numpy, by_dataset])
def run(request):
    return request.param


@pytest.mark.parametrize("name", GEOMETRIC)
def test_boxes_and_masks_stay_on_their_pixels(name, run):
    before = scene()
    after = run(augment(GEOMETRIC[name](), ignore_label=77), before)
    moved = 0
    for k, i in itertools.product(range(6), range(4)):
        instance = after["instance_ids"][k, ..., 0] == i + 1
        box = after["bounding_boxes"]["boxes"][k, i]
        if after["bounding_boxes"]["labels"][k, i] < 0:
            assert not instance.any()
            continue
        # A sliver of less than a pixel may have a box and no pixel's centre.
        if not instance.any():
            assert (box[2:] - box[:2]).min() < 1
            continue
        moved += (box != before["bounding_boxes"]["boxes"][k, i]).any()
        found = np.array(extent(instance))
        if name in UPRIGHT:
            np.testing.assert_allclose(found, box, atol=1)
        else:
            assert (found[:2] >= box[:2] - 1).all()
            assert (found[2:] <= box[2:] + 1).all()
            if (box > 0).all() and (box[2:] < after["images"].shape[2:0:-1]).all():
                np.testing.assert_allclose(found, box, atol=1.5)
        assert (after["segmentation_masks"][k, ..., 0][instance] == 310 + 10 * i).all()
        colour = np.median(after["images"][k][instance], 0)
        assert np.abs(colour - COLOURS[i]).max() < 40
    assert moved > 5


@pytest.mark.parametrize("name", GEOMETRIC)
def test_dtypes_padding_and_the_rest_are_kept(name, run):
    before = scene()
    after = run(augment(GEOMETRIC[name]()), before)
    assert list(after) == list(before) or set(after) == set(before)
    pairs = zip(keras.tree.flatten(before), keras.tree.flatten(after), strict=True)
    assert all(one.dtype == other.dtype for one, other in pairs)
    boxes = after["bounding_boxes"]
    gone = boxes["labels"] < 0
    assert gone[:, 4:].all()
    for key in ("boxes", "is_crowd", "area"):
        assert not boxes[key][gone].any()
        if key != "boxes":
            kept = before["bounding_boxes"][key][~gone]
            np.testing.assert_array_equal(boxes[key][~gone], kept)
    np.testing.assert_array_equal(boxes["labels"][~gone], before["bounding_boxes"]["labels"][~gone])
    height, width = after["images"].shape[1:3]
    assert boxes["boxes"].min() >= 0
    assert (boxes["boxes"] <= [width, height, width, height]).all()
    assert set(np.unique(after["segmentation_masks"])) <= {255, 300, 310, 320, 330, 340}
    np.testing.assert_array_equal(after["original_size"], before["original_size"])


def test_a_flip_is_exact_below_the_pixel():
    before = scene()
    before["bounding_boxes"]["boxes"][:, 0] = [6.25, 4.5, 29.75, 27.125]
    after = augment([L.RandomFlip("horizontal", seed=1)])(before)
    flipped = (after["images"] != before["images"]).any((1, 2, 3))
    assert 0 < flipped.sum() < 6
    expected = np.where(flipped[:, None], [66.25, 4.5, 89.75, 27.125], [6.25, 4.5, 29.75, 27.125])
    np.testing.assert_array_equal(after["bounding_boxes"]["boxes"][:, 0], expected)


def test_a_center_crop_shifts_and_clips_exactly():
    after = augment([L.CenterCrop(32, 48)])(scene(1))
    boxes, labels = (after["bounding_boxes"][key][0, :4] for key in ("boxes", "labels"))
    np.testing.assert_array_equal(
        boxes, [[0, 0, 6, 8], [16, 0, 36, 14], [46, 10, 48, 32], [0, 20, 10, 32]]
    )
    np.testing.assert_array_equal(labels, [5, 0, 7, 2])


def test_a_box_that_is_hardly_visible_becomes_padding_with_its_mask():
    after = augment([L.CenterCrop(32, 48)], min_visibility=0.2)(scene(1))
    np.testing.assert_array_equal(after["bounding_boxes"]["labels"][0], [-1, 0, -1, 2, -1, -1])
    assert set(np.unique(after["instance_ids"])) == {0, 2, 4}
    assert 330 in after["segmentation_masks"]


def test_a_box_that_left_the_image_becomes_padding():
    after = augment([L.CenterCrop(20, 20)])(scene(1))
    np.testing.assert_array_equal(after["bounding_boxes"]["labels"][0], [-1, 0, -1, -1, -1, -1])
    np.testing.assert_array_equal(after["bounding_boxes"]["boxes"][0, 0], 0)


def test_what_was_filled_is_ignored_whatever_the_image_is_filled_with():
    layer = L.RandomTranslation((0.5, 0.5), 0.0, fill_mode="constant", fill_value=114)
    after = augment([layer], ignore_label=11)(scene(1))
    assert (after["images"][0, :36] == 114).all()
    assert (after["segmentation_masks"][0, :36] == 11).all()
    assert (after["instance_ids"][0, :36] == 0).all()
    assert (after["segmentation_masks"][0, 36:] >= 300).all()


ARGUMENTS = {
    "RandomColorJitter": {"value_range": (0, 255), "brightness_factor": 0.3, "hue_factor": 0.2},
    "RandomPosterization": {"factor": 4},
}


@pytest.mark.filterwarnings("ignore:Tensor.T is deprecated:UserWarning")  # Keras on PyTorch
@pytest.mark.parametrize("kind", _PIXEL_LAYERS)
def test_pixel_layers_leave_the_targets_alone(kind, run):
    name = kind.__name__
    needs_factor = name.startswith("Random") and name not in ("RandomGaussianBlur",)
    arguments = ARGUMENTS.get(name, {"factor": 0.5} if needs_factor else {})
    before = scene(2)
    if name == "AutoContrast":
        before["images"] //= 2
    if name == "Equalization":
        before["images"][:, :10, :10] = np.arange(100).reshape(10, 10, 1)
    after = run(augment([kind(**arguments)]), before)
    assert after["images"].dtype == np.uint8
    for key in ("bounding_boxes", "segmentation_masks", "instance_ids"):
        keras.tree.map_structure(np.testing.assert_array_equal, after[key], before[key])


def test_masks_may_lack_their_channel_axis():
    before = scene(2)
    squeezed = {**before}
    for key in ("segmentation_masks", "instance_ids"):
        squeezed[key] = before[key][..., 0]
    layers = [L.RandomRotation(0.2, fill_mode="constant", seed=3)]
    with_axis, without = augment(layers)(before), augment(layers)(squeezed)
    for key in ("segmentation_masks", "instance_ids"):
        np.testing.assert_array_equal(without[key], with_axis[key][..., 0])


def test_float_images_stay_float_and_boxes_alone_are_enough():
    before = scene(2)
    batch = {
        "images": before["images"].astype("float32"),
        "bounding_boxes": before["bounding_boxes"],
    }
    after = augment([L.RandomZoom(0.3, fill_mode="constant", seed=1)])(batch)
    assert after["images"].dtype == np.float32
    assert set(after) == {"images", "bounding_boxes"}


@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.RandomZoom((-0.3, -0.3), fill_mode="constant", seed=1),
        lambda: L.RandomColorJitter(contrast_factor=0.5, seed=1),
    ],
)
def test_a_low_precision_policy_changes_nothing(layer):
    expected = augment([layer()])(scene(1))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        result = augment([layer()])(scene(1))
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    keras.tree.map_structure(np.testing.assert_array_equal, result, expected)


def test_the_batch_given_is_not_changed():
    before, copy = scene(2), scene(2)
    augment([L.CenterCrop(20, 20)], min_visibility=0.5)(before)
    keras.tree.map_structure(np.testing.assert_array_equal, before, copy)


@pytest.mark.parametrize(
    "layer",
    [
        L.CutMix(),
        L.MixUp(),
        L.RandomPerspective(),
        L.RandAugment(),
        L.Resizing(8, 8),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_targets_cannot_follow_are_refused_by_name(layer):
    with pytest.raises(ValueError, match=f"boxes and masks cannot follow {type(layer).__name__}"):
        augment([layer])


def test_what_cannot_be_done_to_a_batch_is_refused():
    for crop in (L.RandomCrop(72, 40), L.RandomCrop(100, 120), L.CenterCrop(73, 96)):
        with pytest.raises(ValueError, match=f"augment: {type(crop).__name__} of .* smaller than"):
            augment([crop])(scene(1))
    with pytest.raises(ValueError, match="RandomRotation with fill_mode='reflect' would paint"):
        augment([L.RandomRotation(0.1)])(scene(1))
    boxes_alone = scene(1)
    del boxes_alone["instance_ids"]
    with pytest.raises(ValueError, match="boxes cannot follow RandomElasticTransform without"):
        augment([L.RandomElasticTransform()])(boxes_alone)
    with pytest.raises(ValueError, match=r"cannot carry: \['mask_runs'\].*`paint_instances`"):
        augment([L.RandomFlip()])(scene(1) | {"mask_runs": np.zeros((1, 6, 9), "int32")})
    with pytest.raises(ValueError, match=r"targets it cannot carry: \['keypoints'\]"):
        augment([L.RandomFlip()])(scene(1) | {"keypoints": np.zeros((1, 6, 17, 3))})
    with pytest.raises(ValueError, match="`images` must have shape"):
        augment([L.RandomFlip()])({"images": np.zeros((8, 8, 3))})
    with pytest.raises(ValueError, match="`min_visibility` must be in"):
        augment([], min_visibility=1.0)


TURNING = {
    "rotation": lambda: [L.RandomRotation(0.3, fill_mode="constant", seed=1)],
    "elastic": lambda: [
        L.RandomElasticTransform(1.0, scale=1.0, fill_mode="constant", seed=1),
    ],
    "rotation and flip": lambda: [
        L.RandomRotation(0.3, fill_mode="constant", seed=1),
        L.RandomFlip(seed=2),
    ],
}


@pytest.mark.parametrize("name", TURNING)
def test_boxes_are_drawn_anew_around_what_was_turned_or_bent(name, run):
    after = run(augment(TURNING[name]()), scene())
    left = 0
    for k, i in itertools.product(range(6), range(6)):
        instance = after["instance_ids"][k, ..., 0] == i + 1
        assert instance.any() == (after["bounding_boxes"]["labels"][k, i] >= 0)
        if instance.any():
            left += 1
            box = after["bounding_boxes"]["boxes"][k, i]
            np.testing.assert_array_equal(box, extent(instance))
    assert left > 12


def test_an_object_without_a_pixel_left_becomes_padding(run):
    before = scene()
    before["instance_ids"][before["instance_ids"] == 2] = 0
    before["instance_ids"][:, 50, 41] = 2  # one pixel in a box of 20 x 26
    before["bounding_boxes"]["boxes"][:, 4] = (0, 0, 9, 9)
    before["bounding_boxes"]["labels"][:, 4] = 1  # never had a pixel
    after = run(augment([L.CenterCrop(40, 54)]), before)  # columns from 21, rows from 16
    assert (after["bounding_boxes"]["labels"][:, 1] == 0).all()
    after = run(augment([L.CenterCrop(30, 54)]), before)  # rows from 21 to 51
    assert (after["bounding_boxes"]["labels"][:, 1] == 0).all()
    after = run(augment([L.CenterCrop(20, 54)]), before)  # rows from 26 to 46
    assert (after["bounding_boxes"]["labels"][:, 1] == -1).all()
    moved = run(augment([L.RandomFlip("horizontal", seed=1)]), before)
    assert (moved["bounding_boxes"]["labels"][:, 4] == 1).all()


def test_semantic_masks_alone_may_be_reflected():
    before = scene(1)
    batch = {key: before[key] for key in ("images", "segmentation_masks")}
    after = augment([L.RandomTranslation((0.5, 0.5), 0.0)])(batch)
    assert 255 not in after["segmentation_masks"]


@pytest.mark.parametrize("name", GEOMETRIC)
def test_pixel_weights_go_with_their_pixels(name, run):
    before = scene()
    weights = np.random.default_rng(0).permutation(before["instance_ids"][0].size).astype("float32")
    weights = np.broadcast_to(weights.reshape(*SIZE, 1) + 1, before["instance_ids"].shape)
    before |= {
        "segmentation_masks": (weights - 1).astype("int32"),
        "pixel_weights": weights,
    }
    after = run(augment(GEOMETRIC[name](), ignore_label=-1), before)
    assert after["pixel_weights"].dtype == np.float32
    # What is filled is ignored, and its weight is 0.
    np.testing.assert_array_equal(after["pixel_weights"] - 1, after["segmentation_masks"])
    assert (after["pixel_weights"] != weights[:, :40, :50]).any() if name == "crop" else True
