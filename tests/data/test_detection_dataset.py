import os
import subprocess
import sys

import numpy as np
import pytest

from kvision.boxes.resize import PADDING_COLOR
from kvision.data import read_coco, read_voc, to_fit
from tests.data.conftest import voc_object, write_image

tf = pytest.importorskip("tensorflow")


def read(voc, **arguments):
    return read_voc(voc.root, "train", class_names=("cat", "dog"), **arguments)


def bright_box(image):
    rows, columns = np.nonzero(image[..., 0] > 130)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("policy", ["letterbox", "stretch"])
def test_boxes_mark_the_same_pixels_after_resizing(voc, policy):
    voc.add("a", voc_object("dog"), suffix=".png")
    (batch,) = read(voc).dataset(2, (64, 128), resize_policy=policy).as_numpy_iterator()
    assert batch["images"].shape == (1, 64, 128, 3)
    assert batch["images"].dtype == np.uint8
    box = batch["bounding_boxes"]["boxes"][0, 0]
    np.testing.assert_allclose(bright_box(batch["images"][0]), box, atol=0.51)
    scale = {"letterbox": (51 / 80, 0.64), "stretch": (1.6, 0.64)}[policy]
    np.testing.assert_allclose(box, np.array([10, 20, 50, 60]) * (scale * 2), rtol=1e-6)
    padding = batch["images"][0, :, 51:]
    assert (padding == PADDING_COLOR).all() == (policy == "letterbox")
    np.testing.assert_array_equal(batch["original_size"], [[100, 80]])


def test_padding_is_static_and_wide_enough(voc):
    voc.add("a", *[voc_object("dog")] * 3)
    voc.add("b", voc_object("cat", difficult=1))
    dataset = read(voc)
    (batch,) = dataset.dataset(2, (32, 32)).as_numpy_iterator()
    boxes = batch["bounding_boxes"]
    np.testing.assert_array_equal(boxes["labels"], [[1, 1, 1], [0, -1, -1]])
    np.testing.assert_array_equal(boxes["boxes"][1, 1:], 0)
    np.testing.assert_array_equal(boxes["difficult"], [[0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(batch["image_id"], [0, 1])
    spec = dataset.dataset(2, (32, 32), max_boxes=5, drop_remainder=True).element_spec
    assert spec["images"].shape == (2, 32, 32, 3)
    assert spec["bounding_boxes"]["boxes"].shape == (2, 5, 4)
    with pytest.raises(ValueError, match="`max_boxes`=2 would cut boxes off: an image has 3"):
        dataset.dataset(2, (32, 32), max_boxes=2)


def test_shuffling_is_set_by_its_seed(voc):
    for name in "abcdefgh":
        voc.add(name, voc_object("cat"))

    def ids(**arguments):
        batches = read(voc).dataset(3, (16, 16), **arguments).as_numpy_iterator()
        return np.concatenate([batch["image_id"] for batch in batches]).tolist()

    assert ids() == list(range(8))
    assert ids(shuffle=True, seed=1) == ids(shuffle=True, seed=1) != ids(shuffle=True, seed=2)
    assert sorted(ids(shuffle=True, seed=1)) == list(range(8))


def truncated(voc, truncate):
    truncate(voc.image("b"))


def of_another_size(voc, truncate):
    write_image(voc.image("b"), width=100, height=80)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncated, "cannot be decoded .*[Tt]runcated"),
        (of_another_size, "is 100 x 80 pixels, its annotation says 80 x 100"),
    ],
)
def test_a_bad_image_is_refused_or_left_out_when_its_turn_comes(voc, truncate, damage, reason):
    for name in "abcde":
        voc.add(name, voc_object("dog"))
    damage(voc, truncate)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"read_voc: .*b\.jpg: .*{reason}"):
        list(read(voc).dataset(2, (16, 16)))

    dataset = read(voc, on_error="skip")
    batches = dataset.dataset(2, (16, 16))
    with pytest.warns(
        UserWarning, match=rf"skipped 1 image\(s\) and 0 .*b\.jpg: .*{reason}"
    ) as told:
        ids = [batch["image_id"].tolist() for batch in batches.as_numpy_iterator()]
    assert len(told) == 1
    assert ids == [[0, 2], [3, 4]]
    assert dataset.report.skipped_images == 1
    assert len(list(batches)) == 2  # a second pass finds nothing new, so it is silent
    assert dataset.report.skipped_images == 1


def test_a_good_data_set_is_read_alike_under_both_policies(voc):
    for name in "abc":
        voc.add(name, voc_object("dog"))
    strict, lenient = (
        list(read(voc, on_error=policy).dataset(2, (16, 16)).as_numpy_iterator())
        for policy in ("raise", "skip")
    )
    assert len(strict) == len(lenient) == 2
    for one, other in zip(strict, lenient, strict=True):
        np.testing.assert_array_equal(one["images"], other["images"])


def test_a_strict_dataset_knows_its_length(voc):
    for name in "abc":
        voc.add(name)
    assert read(voc).dataset(2, (16, 16)).cardinality() == 2


def test_no_images_and_bad_arguments_are_refused(voc):
    voc.add("a")
    with pytest.raises(ValueError, match="read_voc: the resize policy must be"):
        read(voc).dataset(1, (8, 8), resize_policy="crop")
    voc.image("a").unlink()
    with pytest.warns(UserWarning, match="skipped 1"):
        empty = read(voc, on_error="skip")
    with pytest.raises(ValueError, match="read_voc: there are no images to read"):
        empty.dataset(1, (8, 8))


def test_real_photographs_reach_fit_form(shared_data):
    root = shared_data / "coco_tiny"
    dataset = read_coco(root / "annotations" / "instances_val.json", root / "images")
    batches = list(dataset.dataset(4, (64, 64)).map(to_fit).as_numpy_iterator())
    assert len(batches) == 3
    for images, targets in batches:
        assert images.shape == (4, 64, 64, 3)
        assert set(targets) == {"boxes", "labels", "is_crowd", "area", "image_id", "original_size"}
        real = targets["labels"] >= 0
        assert (targets["boxes"][real][:, :2] < targets["boxes"][real][:, 2:]).all()
        assert targets["boxes"].min() >= 0
        assert targets["boxes"].max() <= 64


def test_readers_work_while_keras_runs_on_jax(voc):
    pytest.importorskip("jax")
    voc.add("a", voc_object("dog"))
    code = (
        "import sys; from kvision.data import read_voc, to_fit\n"
        "data = read_voc(sys.argv[1], 'train', class_names=('cat', 'dog'))\n"
        "(images, targets), = data.dataset(1, (64, 64)).map(to_fit).as_numpy_iterator()\n"
        "print(targets['boxes'][0, 0].tolist(), targets['labels'].tolist())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(voc.root)],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    boxes = (np.array([10, 20, 50, 60]) * ([51 / 80, 0.64] * 2)).round(3)
    assert str(boxes[1]) in result.stdout
    assert "[[1]]" in result.stdout
