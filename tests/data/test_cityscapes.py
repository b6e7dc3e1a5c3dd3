"""Cityscapes' two trees of folders, made small."""

import numpy as np
import pytest

from kvision.data import (
    CITYSCAPES_CLASS_NAMES,
    CITYSCAPES_COLORS,
    CITYSCAPES_INSTANCE_CLASS_NAMES,
    read_cityscapes,
    read_cityscapes_instances,
)

Image = pytest.importorskip("PIL.Image")

# The evaluated ids in the order of their trainIds, from the authors' labels.py.
EVALUATED = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
FRAME = "ulm_000000_000019"


def write(root, city, frame, labels, kind="gtFine_labelIds"):
    annotations = kind.split("_")[0]
    for tree, name, pixels in (
        ("leftImg8bit", "leftImg8bit", np.zeros((*labels.shape, 3), "uint8")),
        (annotations, kind, labels),
    ):
        folder = root / tree / "train" / city
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{frame}_{name}.png")


def labels_of(dataset):
    return [batch["segmentation_masks"][0, ..., 0] for batch in dataset.batches(1, None)]


def test_ids_become_the_nineteen_classes(tmp_path):
    write(tmp_path, "ulm", FRAME, np.arange(34, dtype="uint8").reshape(2, 17))
    dataset = read_cityscapes(tmp_path, "train")
    assert dataset.num_classes == len(CITYSCAPES_COLORS) == 19
    (labels,) = labels_of(dataset)
    expected = np.full(34, 255)
    expected[EVALUATED] = np.arange(19)
    np.testing.assert_array_equal(labels.ravel(), expected)
    assert CITYSCAPES_CLASS_NAMES[13] == "car"
    assert CITYSCAPES_COLORS[13] == (0, 0, 142)


def test_train_ids_and_coarse_annotations_are_other_files(tmp_path):
    train_ids = np.array([[0, 18, 255]], "uint8")
    write(tmp_path, "ulm", FRAME, train_ids, "gtFine_labelTrainIds")
    write(tmp_path, "ulm", FRAME, np.array([[33, 7, 0]], "uint8"), "gtCoarse_labelIds")
    (labels,) = labels_of(read_cityscapes(tmp_path, "train", labels="labelTrainIds"))
    np.testing.assert_array_equal(labels, train_ids)
    (labels,) = labels_of(read_cityscapes(tmp_path, "train", annotations="gtCoarse"))
    np.testing.assert_array_equal(labels, [[18, 0, 255]])


def test_images_of_all_cities_are_in_the_order_of_their_paths(tmp_path):
    for city in ("ulm", "aachen"):
        write(tmp_path, city, f"{city}_000001_000019", np.zeros((2, 2), "uint8"))
    found = [example.path.split("/")[-2] for example in read_cityscapes(tmp_path, "train")]
    assert found == ["aachen", "ulm"]


def test_what_is_wrong_is_named(tmp_path):
    write(tmp_path, "ulm", FRAME, np.array([[40]], "uint8"))
    with pytest.raises(ValueError, match=rf"read_cityscapes: .*{FRAME}_gtFine_labelIds.*index 40"):
        labels_of(read_cityscapes(tmp_path, "train"))
    with pytest.raises(ValueError, match=rf"{FRAME}_gtFine_labelTrainIds\.png: .* missing"):
        read_cityscapes(tmp_path, "train", labels="labelTrainIds")
    with pytest.raises(ValueError, match="`split`='val' has no folder of images: .*leftImg8bit"):
        read_cityscapes(tmp_path, "val")
    with pytest.raises(ValueError, match="`labels` must be one of .*Received: 'color'"):
        read_cityscapes(tmp_path, "train", labels="color")


def test_persons_and_vehicles_are_told_apart(tmp_path):
    # Road, a group of persons, two persons, a car, a caravan (which is not evaluated), the plate.
    values = np.array([[7, 24, 24000, 24001], [26000, 29000, 24001, 65535]], "uint16")
    write(tmp_path, "ulm", FRAME, values, "gtFine_instanceIds")
    dataset = read_cityscapes_instances(tmp_path, "train")
    assert dataset.class_names == CITYSCAPES_INSTANCE_CLASS_NAMES
    assert dataset.class_names == tuple(
        "person rider car truck bus train motorcycle bicycle".split()
    )
    (example,) = dataset
    boxes = example.bounding_boxes
    assert boxes["labels"].tolist() == [0, 0, 0, 2]
    assert boxes["is_crowd"].tolist() == [True, False, False, False]
    assert boxes["area"].tolist() == [1, 1, 2, 1]
    np.testing.assert_array_equal(
        boxes["boxes"], [[1, 0, 2, 1], [2, 0, 3, 1], [2, 0, 4, 2], [0, 1, 1, 2]]
    )
    (batch,) = dataset.batches(1, None)
    np.testing.assert_array_equal(batch["instance_ids"][0, ..., 0], [[0, 1, 2, 3], [4, 0, 3, 0]])


def test_a_missing_map_of_instances_is_named(tmp_path):
    write(tmp_path, "ulm", FRAME, np.zeros((2, 2), "uint8"))
    reason = rf"read_cityscapes_instances: .*{FRAME}_gtFine_instanceIds\.png: .* missing"
    with pytest.raises(ValueError, match=reason):
        read_cityscapes_instances(tmp_path, "train")
