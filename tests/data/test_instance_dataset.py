"""Masks of objects in batches: drawn, resized, padded, and in step with the boxes."""

import json

import numpy as np
import pytest

from kvision.boxes import resize_images
from kvision.data import (
    InstanceDataset,
    mask_to_runs,
    paint_instances,
    read_coco,
    read_instance_maps,
    runs_to_mask,
    to_fit,
    write_instance_map,
)
from tests.data.test_coco import COCOFile

Image = pytest.importorskip("PIL.Image")
api = pytest.importorskip("faster_coco_eval.core.mask")

SQUARE = [10, 20, 50, 20, 50, 60, 10, 60]
TRIANGLE = [12.5, 70.2, 60.1, 75.9, 30.3, 95.0]
STRIPES = np.zeros((100, 80), bool)
STRIPES[5:50:3, 30:70:3] = True


@pytest.fixture
def coco(tmp_path):
    file = COCOFile(tmp_path)
    file.content["annotations"][0]["segmentation"] = [SQUARE, TRIANGLE]
    file.content["annotations"][1]["segmentation"] = {
        "size": [100, 80],
        "counts": mask_to_runs(STRIPES).tolist(),
    }
    speck = file.box(3, 7, 3, [3, 3, 1, 1]) | {"segmentation": [[3, 3, 4, 3, 4, 4, 3, 4]]}
    file.content["annotations"].append(speck)
    return file


def drawn_by_coco(polygons, size):
    return api.decode(api.merge(api.frPyObjects([list(map(float, p)) for p in polygons], *size)))


def test_masks_of_their_own_size_are_coco_s(coco):
    dataset = coco.read(masks=True)
    assert isinstance(dataset, InstanceDataset)
    (batch,) = dataset.batches(2, None)
    runs = batch["mask_runs"]
    assert runs.shape[:2] == batch["bounding_boxes"]["labels"].shape == (2, 3)
    assert runs.dtype == "int32"
    expected = [drawn_by_coco([SQUARE, TRIANGLE], (100, 80)), STRIPES]
    for row, mask in zip(runs[0], expected, strict=False):
        np.testing.assert_array_equal(runs_to_mask(row, (100, 80)), mask)
    assert not runs[1].any()  # an image without objects


@pytest.mark.parametrize(("size", "policy"), [((64, 96), "letterbox"), ((200, 50), "stretch")])
def test_polygons_are_scaled_and_rle_is_resized_to_nearest(coco, size, policy):
    batch = coco.read(masks=True).batches(2, size, resize_policy=policy)[0]
    down, across = (0.64, 51 / 80) if policy == "letterbox" else (2.0, 50 / 80)
    scaled = [(np.reshape(p, (-1, 2)) * [across, down]).ravel() for p in (SQUARE, TRIANGLE)]
    polygons, stripes, _ = (runs_to_mask(row, size) for row in batch["mask_runs"][0])
    np.testing.assert_array_equal(polygons, drawn_by_coco(scaled, size))
    resized = resize_images(
        STRIPES[..., None].astype("uint8"), size, policy, interpolation="nearest"
    )
    np.testing.assert_array_equal(stripes, resized[..., 0])
    boxes = batch["bounding_boxes"]["boxes"][0, 0]
    np.testing.assert_allclose(boxes, [10 * across, 20 * down, 50 * across, 60 * down], rtol=1e-5)


def test_an_object_without_a_pixel_left_becomes_padding(coco):
    (batch,) = coco.read(masks=True).batches(2, (50, 40))
    boxes = batch["bounding_boxes"]
    assert boxes["labels"][0].tolist() == [1, 0, -1]
    assert not boxes["boxes"][0, 2].any()
    assert not batch["mask_runs"][0, 2].any()
    assert coco.read(masks=True).batches(2, (100, 80))[0]["bounding_boxes"]["labels"][0, 2] == 0


def test_runs_have_one_length_which_none_exceeds(coco):
    rng = np.random.default_rng(0)
    for k in range(30):
        polygon = rng.uniform(0, 80, 2 * rng.integers(3, 20)).tolist()
        coco.content["annotations"].append(
            coco.box(10 + k, 5, 3, [1, 1, 70, 70]) | {"segmentation": [polygon, TRIANGLE]}
        )
    for size in ((100, 80), (30, 30), (333, 401)):
        dataset = coco.read(masks=True)
        batches = list(dataset.batches(1, size))
        assert len({batch["mask_runs"].shape for batch in batches}) == 1
        assert all((batch["mask_runs"].sum(-1) <= size[0] * size[1]).all() for batch in batches)


def test_tensorflow_gives_the_same_batches(coco):
    pytest.importorskip("tensorflow")
    dataset = coco.read(masks=True)
    for size in (None, (50, 40)):
        arrays = dataset.batches(2, size)[0]
        (tensors,) = dataset.dataset(2, size).as_numpy_iterator()
        np.testing.assert_array_equal(tensors["mask_runs"], arrays["mask_runs"])
        for key, values in arrays["bounding_boxes"].items():
            np.testing.assert_array_equal(tensors["bounding_boxes"][key], values)
        (painted,) = dataset.dataset(2, size).map(paint_instances).as_numpy_iterator()
        expected = paint_instances(arrays)
        np.testing.assert_array_equal(painted["instance_ids"], expected["instance_ids"])
        labels = expected["bounding_boxes"]["labels"]
        np.testing.assert_array_equal(painted["bounding_boxes"]["labels"], labels)


def test_painting_makes_a_label_map_and_padding_of_what_is_covered(coco):
    hole = coco.box(4, 7, 3, [10, 20, 2, 2]) | {"segmentation": [[10, 20, 12, 20, 12, 22, 10, 22]]}
    coco.content["annotations"] += [hole, hole | {"id": 5}]
    batch = coco.read(masks=True).batches(2, None)[0]
    painted = paint_instances(batch)
    assert "mask_runs" not in painted
    ids = painted["instance_ids"][0, ..., 0]
    assert painted["instance_ids"].shape == (2, 100, 80, 1)
    assert (ids[20:22, 10:12] == 5).all()  # of two that are equal, the later
    assert painted["bounding_boxes"]["labels"][0].tolist() == [1, 0, 0, -1, 0]
    masks = [runs_to_mask(row, ids.shape) for row in batch["mask_runs"][0]]
    for order in (1, 0, 2, 4):  # the largest first; the crowd of stripes has 15 * 14 pixels
        assert masks[order].any()
    np.testing.assert_array_equal(ids > 0, np.any(masks, axis=0))
    assert (ids[masks[1]] == 2).all()  # fewer pixels than the square
    assert set(to_fit(painted, "instances")[1]) >= {"instance_ids", "boxes", "is_crowd"}
    with pytest.raises(ValueError, match="paint_instances: the batch has no mask_runs"):
        paint_instances(painted)


BAD_MASKS = {
    "none": ({}, "'segmentation'"),
    "empty": ({"segmentation": []}, "it is empty"),
    "short": ({"segmentation": [[1, 2, 3, 4]]}, "three or more corners"),
    "text": ({"segmentation": [["a"] * 6]}, "could not convert"),
    "size": ({"segmentation": {"size": [80, 100], "counts": [8000]}}, "80 x 100 pixels"),
    "counts": ({"segmentation": {"size": [100, 80], "counts": [7]}}, "7 pixels in all"),
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_a_bad_mask_is_refused_or_left_out_with_its_box(coco, kind):
    change, reason = BAD_MASKS[kind]
    coco.content["annotations"].append(coco.box(9, 7, 3, [1, 1, 9, 9]) | change)
    assert len(coco.read()[0].bounding_boxes["labels"]) == 4  # without masks, it is not looked at
    with pytest.raises(
        ValueError, match=rf"read_coco: .*instances\.json: annotation 9: .*{reason}"
    ):
        coco.read(masks=True)
    with pytest.warns(UserWarning, match=r"skipped 0 image\(s\) and 1 box\(es\)"):
        dataset = coco.read(masks=True, on_error="skip")
    assert len(dataset[0].masks) == len(dataset[0].bounding_boxes["labels"]) == 3


def test_label_maps_are_resized_with_their_images(tmp_path):
    for folder in ("images", "maps"):
        (tmp_path / folder).mkdir()
    ids = np.zeros((40, 60), "int32")
    ids[4:20, 6:30], ids[24, 40], ids[30:40, 30:60] = 3, 5, 9
    Image.fromarray(np.zeros((40, 60, 3), "uint8")).save(tmp_path / "images" / "a.png")
    write_instance_map(tmp_path / "maps" / "a.png", ids)
    dataset = read_instance_maps(tmp_path / "images", tmp_path / "maps")
    batch = dataset.batches(1, (30, 30))[0]
    found = batch["instance_ids"][0, ..., 0]
    assert set(np.unique(found)) == {0, 1, 3}  # the speck, id 2, falls between the pixels
    assert not found[20:].any()  # the padding of the letterbox
    boxes = batch["bounding_boxes"]
    assert boxes["labels"][0].tolist() == [0, -1, 0]
    np.testing.assert_array_equal(boxes["boxes"][0], [[3, 2, 15, 10], [0] * 4, [15, 15, 30, 20]])
    assert boxes["area"][0].tolist() == [384, 0, 300]
    pytest.importorskip("tensorflow")
    (tensors,) = dataset.dataset(1, (30, 30)).as_numpy_iterator()
    np.testing.assert_array_equal(tensors["instance_ids"], batch["instance_ids"])
    np.testing.assert_array_equal(tensors["bounding_boxes"]["labels"], boxes["labels"])


@pytest.mark.parametrize("split", ["val", "test"])
def test_real_photographs(shared_data, split):
    """All masks are those that COCO's code draws from the file."""
    root = shared_data / "coco_tiny"
    path = root / "annotations" / f"instances_{split}.json"
    dataset = read_coco(path, root / "images", masks=True)
    truth = {}
    for item in json.loads(path.read_text())["annotations"]:
        truth.setdefault(item["image_id"], []).append(item["segmentation"])
    checked = 0
    for batch in dataset.batches(1, None):
        size = tuple(batch["original_size"][0])
        for row, segmentation in zip(
            batch["mask_runs"][0], truth.get(int(batch["image_id"][0]), []), strict=False
        ):
            rle = api.frPyObjects(segmentation, *map(int, size))
            rle = api.merge(rle) if isinstance(rle, list) else rle
            np.testing.assert_array_equal(runs_to_mask(row, size), api.decode(rle))
            checked += 1
    assert checked == {"val": 63, "test": 111}[split]
