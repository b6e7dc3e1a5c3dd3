"""Windows cut from images of any size."""

import keras
import numpy as np
import pytest

from kvision.data import as_batches, augment, cut_tiles, to_fit


def scene(height, width, seed=0):
    """A batch of one image in which each pixel and each 5 x 5 object can be told from others."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((height, width), "int32")
    corners = [(y, x) for y in range(1, height - 5, 7) for x in range(1, width - 5, 7)]
    for number, (y, x) in enumerate(corners, 1):
        ids[y : y + 5, x : x + 5] = number
    boxes = np.array([[x, y, x + 5, y + 5] for y, x in corners], "float32")
    return {
        "images": rng.integers(0, 256, (1, height, width, 3)).astype("uint8"),
        "instance_ids": ids[None, ..., None],
        "segmentation_masks": (ids[None, ..., None] > 0).astype("int32"),
        "bounding_boxes": {
            "boxes": boxes[None],
            "labels": np.arange(len(boxes), dtype="int32")[None] % 3,
            "area": np.full((1, len(boxes)), 25, "float32"),
            "is_crowd": np.zeros((1, len(boxes)), "bool"),
        },
        "image_id": np.array([seed]),
    }


def test_they_cover_the_image_evenly():
    batch = scene(32, 50)
    tiles = cut_tiles([batch], (32, 20))
    for tile, left in zip(tiles["images"], (0, 15, 30), strict=True):
        np.testing.assert_array_equal(tile, batch["images"][0, :, left : left + 20])
    np.testing.assert_array_equal(
        tiles["segmentation_masks"], (tiles["instance_ids"] > 0).astype("int32")
    )
    assert tiles["images"].dtype == "uint8"
    assert "image_id" not in tiles


def test_objects_have_their_rows_boxes_and_labels():
    batch = scene(40, 61)
    tiles = cut_tiles([batch], (24, 24))
    truth = batch["bounding_boxes"]
    starts = [(y, x) for y in (0, 16) for x in (0, 18, 37)]  # 18.5 is rounded to even
    assert len(tiles["images"]) == len(starts)
    for index, (top, left) in enumerate(starts):
        boxes = {key: values[index] for key, values in tiles["bounding_boxes"].items()}
        ids = tiles["instance_ids"][index, ..., 0]
        was = batch["instance_ids"][0, top : top + 24, left : left + 24, 0]
        rows = np.unique(was[was > 0]) - 1
        number = len(rows)
        moved = truth["boxes"][0, rows] - np.array([left, top, left, top])
        np.testing.assert_array_equal(boxes["boxes"][:number], np.clip(moved, 0, 24))
        np.testing.assert_array_equal(boxes["labels"][:number], truth["labels"][0, rows])
        np.testing.assert_array_equal(boxes["labels"][number:], -1)
        np.testing.assert_array_equal(boxes["boxes"][number:], 0)
        np.testing.assert_array_equal(
            boxes["area"][:number], np.bincount(ids.ravel(), minlength=number + 1)[1:]
        )
        for row in range(number):
            np.testing.assert_array_equal(ids == row + 1, was == rows[row] + 1)


def test_small_images_are_filled():
    tiles = cut_tiles([scene(10, 40), scene(40, 10, seed=1)], (24, 24))
    assert tiles["images"].shape == (4, 24, 24, 3)
    assert not tiles["images"][:2, 10:].any()
    assert not tiles["instance_ids"][2:, :, 10:].any()
    assert (tiles["segmentation_masks"][:2, 10:] == 255).all()
    empty = {"images": np.zeros((2, 9, 9, 3), "uint8")}
    assert cut_tiles([empty], (4, 4)).keys() == {"images"}
    assert len(cut_tiles([empty], (4, 4))["images"]) == 18


def test_a_window_without_objects_has_padding():
    batch = scene(8, 16)
    batch["instance_ids"][:] = 0
    tiles = cut_tiles([batch], (8, 8))
    assert tiles["bounding_boxes"]["labels"].shape == (2, 0)


def test_they_are_trained_on():
    tiles = cut_tiles([scene(40, 61), scene(30, 30, seed=1)], (24, 24))
    layers = [keras.layers.RandomFlip("horizontal", seed=0)]
    batches = to_fit(as_batches(tiles, 4).map(augment(layers)), task="instances")
    images, targets = next(iter(batches))
    assert images.shape == (4, 24, 24, 3)
    assert targets["instance_ids"].shape == (4, 24, 24, 1)


@pytest.mark.parametrize("size", [(0, 4), (4,), (4, 4, 4)])
def test_a_bad_size_is_refused(size):
    with pytest.raises(ValueError, match="tile_size"):
        cut_tiles([scene(8, 8)], size)


def test_boxes_without_maps_are_refused():
    batch = scene(8, 8)
    del batch["instance_ids"]
    with pytest.raises(ValueError, match="instance_ids"):
        cut_tiles([batch], (4, 4))


def test_nothing_is_refused():
    with pytest.raises(ValueError, match="no images"):
        cut_tiles([], (4, 4))
