"""Batches of arrays, which need no TensorFlow, and what they share with those of tf.data."""

import keras
import numpy as np
import pytest

from kvision.boxes.resize import PADDING_COLOR
from kvision.data import as_batches, as_dataset, augment, digit_scenes, read_coco, read_voc, to_fit
from tests.data.conftest import voc_object, write_image
from tests.models.tiny_faster_rcnn import tiny_faster_rcnn


def read(voc, **arguments):
    return read_voc(voc.root, "train", class_names=("cat", "dog"), **arguments)


def ids(batches):
    return [batch["image_id"].tolist() for batch in batches]


def flat(batches):
    return sum(ids(batches), [])


@pytest.fixture
def numbers():
    return {"image_id": np.arange(10), "bounding_boxes": {"boxes": np.arange(10.0)[:, None]}}


def test_batches_hold_the_arrays_in_order(numbers):
    batches = as_batches(numbers, 4)
    assert len(batches) == batches.num_batches == 3
    assert ids(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    np.testing.assert_array_equal(batches[2]["bounding_boxes"]["boxes"], [[8], [9]])
    assert ids(as_batches(numbers, 4, drop_remainder=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(IndexError, match="there are 3 batches"):
        batches[3]


def test_each_pass_is_shuffled_anew_and_set_by_the_seed(numbers):
    batches = as_batches(numbers, 3, shuffle=True, seed=1)
    first, second = flat(batches), flat(batches)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second != list(range(10))
    again = as_batches(numbers, 3, shuffle=True, seed=1)
    assert [flat(again), flat(again)] == [first, second]
    assert flat(as_batches(numbers, 3, shuffle=True, seed=2)) != first
    assert flat(as_batches(numbers, 3, shuffle=True)) != flat(as_batches(numbers, 3, shuffle=True))


def test_functions_are_mapped_one_after_another(numbers):
    batches = as_batches(numbers, 4)
    mapped = batches.map(lambda batch: batch["image_id"] + 1).map(lambda numbers: numbers * 2)
    assert [batch.tolist() for batch in mapped] == [[2, 4, 6, 8], [10, 12, 14, 16], [18, 20]]
    assert ids(batches)[0] == [0, 1, 2, 3]


@pytest.mark.parametrize("policy", ["letterbox", "stretch"])
def test_boxes_mark_the_same_pixels_after_resizing(voc, policy):
    voc.add("a", voc_object("dog"), suffix=".png")
    (batch,) = read(voc).batches(2, (64, 128), resize_policy=policy)
    (image,) = batch["images"]
    assert (image.shape, image.dtype) == ((64, 128, 3), np.uint8)
    scale = {"letterbox": (51 / 80, 0.64), "stretch": (1.6, 0.64)}[policy]
    box = batch["bounding_boxes"]["boxes"][0, 0]
    np.testing.assert_allclose(box, np.array([10, 20, 50, 60]) * (scale * 2), rtol=1e-6)
    rows, columns = np.nonzero(image[..., 0] > 130)
    bright = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(bright, box, atol=0.51)
    assert (image[:, 51:] == PADDING_COLOR).all() == (policy == "letterbox")


def damage(voc, *names):
    for name in names:
        write_image(voc.image(name), width=100, height=80)


def test_a_bad_image_is_refused_by_its_name(voc):
    for name in "abc":
        voc.add(name, voc_object("dog"))
    damage(voc, "b")
    with pytest.raises(ValueError, match=r"read_voc: .*b\.jpg: .* its annotation says 80 x 100"):
        list(read(voc).batches(2, (16, 16)))


def test_bad_images_are_left_out_and_told_once(voc):
    for name in "abcde":
        voc.add(name, voc_object("dog"))
    damage(voc, "b", "e")
    dataset = read(voc, on_error="skip")
    batches = dataset.batches(2, (16, 16))
    with pytest.warns(UserWarning, match=r"skipped 2 image\(s\) and 0") as told:
        assert ids(batches) == [[0], [2, 3], [0]]  # the last would be empty: it begins anew
    assert len(told) == 1
    assert ids(batches) == [[0], [2, 3], [0]]  # silent: nothing new
    assert dataset.report.skipped_images == 2
    damage(voc, *"acd")
    with pytest.raises(ValueError, match="none of the images can be read"):
        batches[0]


def test_arguments_are_checked_as_those_of_dataset(voc):
    voc.add("a", *[voc_object("dog")] * 3)
    with pytest.raises(ValueError, match="`max_boxes`=2 would cut boxes off: an image has 3"):
        read(voc).batches(1, (8, 8), max_boxes=2)
    with pytest.raises(ValueError, match="read_voc: the resize policy must be"):
        read(voc).batches(1, (8, 8), resize_policy="crop")
    with pytest.raises(ValueError, match="`batch_size` must be positive"):
        read(voc).batches(0, (8, 8))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_detector_learns_from_them_on_every_backend(voc, workers):
    for name in "abcd":
        voc.add(name, voc_object("dog"))
    layers = [keras.layers.RandomFlip("horizontal", seed=1)]
    batches = read(voc).batches(2, (64, 64), shuffle=True, seed=0, workers=workers)
    model = tiny_faster_rcnn()
    model.compile(keras.optimizers.SGD(0.01))
    history = model.fit(
        batches.map(augment(layers)).map(to_fit),
        validation_data=read(voc).batches(3, (64, 64)).map(to_fit),
        epochs=2,
        shuffle=False,
        verbose=0,
    ).history
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][1] < history["loss"][0]
    assert len(history["val_AP50"]) == 2


def test_real_photographs_reach_fit_form(shared_data):
    root = shared_data / "coco_tiny"
    dataset = read_coco(root / "annotations" / "instances_val.json", root / "images")
    batches = list(to_fit(dataset.batches(4, (64, 64))))
    assert len(batches) == 3
    for images, targets in batches:
        assert images.shape == (4, 64, 64, 3)
        assert set(targets) == {"boxes", "labels", "is_crowd", "area", "image_id", "original_size"}
        real = targets["labels"] >= 0
        assert (targets["boxes"][real][:, :2] < targets["boxes"][real][:, 2:]).all()
        assert targets["boxes"].min() >= 0
        assert targets["boxes"].max() <= 64


class TestTensorFlow:
    """The same batches by tf.data, whose resizing is TensorFlow's."""

    @pytest.fixture(autouse=True)
    def _tensorflow(self):
        pytest.importorskip("tensorflow")

    def test_arrays(self):
        scenes = digit_scenes(5, masks=False)
        same(as_batches(scenes, 2), as_dataset(scenes, 2))

    @pytest.mark.parametrize("policy", ["letterbox", "stretch"])
    def test_photographs(self, shared_data, policy):
        root = shared_data / "coco_tiny"
        dataset = read_coco(root / "annotations" / "instances_val.json", root / "images")
        arguments = {"resize_policy": policy, "max_boxes": 50}
        same(
            dataset.batches(5, (200, 300), **arguments), dataset.dataset(5, (200, 300), **arguments)
        )


def same(ours, theirs):
    for actual, expected in zip(ours, theirs.as_numpy_iterator(), strict=True):
        images, others = (batch.pop("images").astype(int) for batch in (actual, expected))
        assert np.abs(images - others).max() <= 1
        keras.tree.map_structure(np.testing.assert_array_equal, actual, expected)
        keras.tree.map_structure(
            lambda a, b: np.testing.assert_equal(a.dtype, b.dtype), actual, expected
        )
