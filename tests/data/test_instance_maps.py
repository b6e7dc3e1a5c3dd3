"""Label images of objects, against what others say of the same files."""

import json

import numpy as np
import pytest

from kvision.data import (
    read_instance_map,
    read_instance_maps,
    read_mask_folders,
    write_instance_map,
)

Image = pytest.importorskip("PIL.Image")

IDS = np.zeros((6, 8), "int32")
IDS[1:3, 1:4] = 7
IDS[2:6, 5:8] = 40_000


def write(root, name, ids, colors=False):
    for folder in ("images", "maps"):
        (root / folder).mkdir(exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), 90, "uint8")).save(root / "images" / f"{name}.jpg")
    write_instance_map(root / "maps" / f"{name}_ids.png", ids, colors=colors)


def write_masks(root, name, masks):
    (root / name / "images").mkdir(parents=True)
    (root / name / "masks").mkdir()
    Image.fromarray(np.zeros((6, 8, 3), "uint8")).save(root / name / "images" / f"{name}.png")
    for k, mask in enumerate(masks):
        pixels = np.array(mask * 255, "uint8")
        Image.fromarray(pixels).save(root / name / "masks" / f"{k}.png")


@pytest.mark.parametrize("colors", [False, True])
def test_files_hold_the_numbers(tmp_path, colors):
    ids = IDS.copy()
    ids[0, 0] = 16_777_215 if colors else 65_535
    write_instance_map(tmp_path / "ids.png", ids[..., None], colors=colors)
    found = read_instance_map(tmp_path / "ids.png", colors=colors)
    assert found.dtype == "int32"
    np.testing.assert_array_equal(found, ids)
    pixels = np.asarray(Image.open(tmp_path / "ids.png")).astype(int)
    np.testing.assert_array_equal(pixels @ [1, 256, 65536] if colors else pixels, ids)
    with pytest.raises(ValueError, match=r"ids must be in 0\.\.\d+\. Received: \d+\.\.\d+"):
        write_instance_map(tmp_path / "ids.png", ids + 1, colors=colors)


@pytest.mark.parametrize("colors", [False, True])
def test_values_become_rows_in_their_order(tmp_path, colors):
    for name in "ba":
        write(tmp_path, name, IDS, colors)
    dataset = read_instance_maps(
        tmp_path / "images", tmp_path / "maps", map_suffix="_ids", class_name="cell", colors=colors
    )
    assert dataset.class_names == ("cell",)
    assert [example.path[-5:] for example in dataset] == ["a.jpg", "b.jpg"]
    boxes = dataset[1].bounding_boxes
    np.testing.assert_array_equal(boxes["boxes"], [[1, 1, 4, 3], [5, 2, 8, 6]])
    assert boxes["labels"].tolist() == [0, 0]
    assert boxes["area"].tolist() == [6, 12]
    (batch,) = dataset.batches(2, None)
    assert set(batch) == {
        "images", "instance_ids", "bounding_boxes", "image_id", "original_size",
    }  # fmt: skip
    expected = np.where(IDS == 7, 1, 0) + np.where(IDS == 40_000, 2, 0)
    np.testing.assert_array_equal(batch["instance_ids"], np.stack([expected[..., None]] * 2))
    assert batch["instance_ids"].dtype == "int32"


def test_a_folder_of_masks_is_one_map_with_the_later_on_top(tmp_path):
    first, second, hidden = (np.zeros((6, 8), bool) for _ in range(3))
    first[:3], second[2:5, :4], hidden[3, 1] = True, True, True
    write_masks(tmp_path, "x", [hidden, first, second])
    write_masks(tmp_path, "y", [first])
    dataset = read_mask_folders(tmp_path, class_name="nucleus")
    assert [len(example.bounding_boxes["labels"]) for example in dataset] == [2, 1]
    batch = dataset.batches(2, None)[0]
    expected = np.where(second, 2, first)
    np.testing.assert_array_equal(batch["instance_ids"][0, ..., 0], expected)
    boxes = batch["bounding_boxes"]["boxes"]
    np.testing.assert_array_equal(boxes[0], [[0, 0, 8, 3], [0, 2, 4, 5]])
    assert len(read_mask_folders(tmp_path, names=["y"])) == 1


def test_problems_name_the_file(tmp_path):
    write(tmp_path, "a", IDS)
    write(tmp_path, "b", IDS[:5])
    where = (tmp_path / "images", tmp_path / "maps")
    with pytest.raises(ValueError, match=r"read_instance_maps: .*maps/a\.png: .* missing"):
        read_instance_maps(*where)
    with pytest.raises(ValueError, match=r"maps/b_ids\.png: .* 8 x 5 pixels, .* 8 x 6"):
        read_instance_maps(*where, map_suffix="_ids")
    with pytest.raises(ValueError, match=r"maps/a_ids\.png: its pixels are .* not 8 bits"):
        read_instance_maps(*where, map_suffix="_ids", colors=True)
    with pytest.raises(ValueError, match=r"read_instance_maps: the folder .*none is missing"):
        read_instance_maps(tmp_path / "none", where[1])
    with pytest.warns(UserWarning, match=r"read_instance_maps: skipped 1 image"):
        dataset = read_instance_maps(*where, map_suffix="_ids", on_error="skip")
    assert [example.image_id for example in dataset] == [0]


def test_problems_of_folders_name_the_mask(tmp_path):
    write_masks(tmp_path, "x", [np.ones((6, 8)), np.ones((6, 7))])
    with pytest.raises(ValueError, match=r"read_mask_folders: .*x/masks: 1\.png: .*\(6, 7\)"):
        read_mask_folders(tmp_path)
    (tmp_path / "x" / "masks" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"x/masks: 1\.png: the image cannot be decoded"):
        read_mask_folders(tmp_path)
    write_masks(tmp_path, "w", [])
    with pytest.raises(ValueError, match=r"w/masks: there are no masks"):
        read_mask_folders(tmp_path)
    (tmp_path / "w" / "images" / "w.png").unlink()
    with pytest.raises(ValueError, match=r"read_mask_folders: .*w/images: "):
        read_mask_folders(tmp_path)
    with pytest.raises(ValueError, match="the folder .*none is missing"):
        read_mask_folders(tmp_path / "none")


def test_nuclei_in_their_original_layout_are_those_of_the_label_images(shared_data):
    root = shared_data / "dsb2018"
    native = read_mask_folders(root / "native_sample", class_name="nucleus")
    assert len(native) == 6
    for batch, example in zip(native.batches(1, None), native, strict=True):
        name = example.path.rsplit("/", 1)[1]
        labels = np.asarray(Image.open(root / "labels" / name))
        pairs = np.unique(
            np.stack([labels, batch["instance_ids"][0, ..., 0]], -1).reshape(-1, 2), axis=0
        )
        # Each value of the one map is one id of the other, and 0 is 0.
        assert len(pairs) == labels.max() + 1 == len(example.bounding_boxes["labels"]) + 1
        assert pairs[0].tolist() == [0, 0]


def test_all_nuclei_are_read(shared_data):
    root = shared_data / "dsb2018"
    for split, images, nuclei in (("val", 33, 1524), ("test", 62, 2241)):
        dataset = read_instance_maps(
            root / "images", root / "labels", names=root / f"{split}.txt", class_name="nucleus"
        )
        assert len(dataset) == images
        assert sum(len(example.bounding_boxes["labels"]) for example in dataset) == nuclei


def test_panoptic_colours_are_the_numbers_of_their_file(shared_data):
    root = shared_data / "coco_tiny"
    content = json.loads((root / "annotations" / "panoptic_val.json").read_text())
    for image in content["annotations"]:
        ids = read_instance_map(root / "panoptic" / image["file_name"], colors=True)
        values, counts = np.unique(ids[ids > 0], return_counts=True)
        found = dict(zip(values.tolist(), counts.tolist(), strict=True))
        assert found == {part["id"]: part["area"] for part in image["segments_info"]}
