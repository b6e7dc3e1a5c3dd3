"""Pasted objects against a loop over objects, written from the paper's words."""

import keras
import numpy as np
import pytest

from kvision.data import RandomCopyPaste, as_dataset, augment, digit_scenes

SIZE = (48, 64)


def scenes(count=4, rows=8):
    """Rectangles that may hide each other, more rows than objects, one crowd an image."""
    rng = np.random.default_rng(2)
    batch = {
        "images": rng.integers(0, 256, (count, *SIZE, 3)).astype("uint8"),
        "bounding_boxes": {
            "boxes": np.zeros((count, rows, 4), "float32"),
            "labels": np.full((count, rows), -1, "int32"),
            "is_crowd": np.zeros((count, rows), bool),
            "area": np.zeros((count, rows), "float32"),
        },
        "segmentation_masks": np.zeros((count, *SIZE, 1), "int32"),
        "instance_ids": np.zeros((count, *SIZE, 1), "int32"),
        "image_id": np.arange(count, dtype="int32"),
    }
    boxes = batch["bounding_boxes"]
    for k in range(count):
        # Padding may stand between objects, as `augment` leaves it.
        for i in rng.permutation(rows)[: 3 + k % 3]:
            x, y = rng.integers(0, 40), rng.integers(0, 30)
            w, h = rng.integers(4, 24), rng.integers(4, 18)
            batch["instance_ids"][k, y : y + h, x : x + w] = i + 1
            batch["segmentation_masks"][k, y : y + h, x : x + w] = 10 + i
            boxes["labels"][k, i] = i
            boxes["area"][k, i] = 100 * k + i
        for i in np.flatnonzero(boxes["labels"][k] >= 0):
            mask = batch["instance_ids"][k, ..., 0] == i + 1
            if mask.any():
                boxes["boxes"][k, i] = around(mask)
            else:
                boxes["labels"][k, i], boxes["area"][k, i] = -1, 0
        boxes["is_crowd"][k, np.argmax(boxes["labels"][k])] = True
    return batch


def around(mask):
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def paste_by_hand(batch, partner, chosen):
    """For each object of the partner in turn: its pixels, its row; then what is hidden goes."""
    after = keras.tree.map_structure(np.copy, batch)
    boxes, given = after["bounding_boxes"], batch["bounding_boxes"]
    for k, other in enumerate(partner):
        free = list(np.flatnonzero(given["labels"][k] < 0))
        covered = np.zeros(SIZE, bool)
        for i in range(chosen.shape[1]):
            wanted = chosen[k, i] and given["labels"][other, i] >= 0
            if not wanted or given["is_crowd"][other, i] or not free:
                continue
            row = free.pop(0)
            mask = batch["instance_ids"][other, ..., 0] == i + 1
            covered |= mask
            for key in ("images", "segmentation_masks"):
                after[key][k][mask] = batch[key][other][mask]
            after["instance_ids"][k][mask] = row + 1
            for key in boxes:
                boxes[key][k, row] = given[key][other, i]
        for row in np.flatnonzero(given["labels"][k] >= 0):
            left = after["instance_ids"][k, ..., 0] == row + 1
            if left.any():
                boxes["boxes"][k, row] = around(left)
            else:
                boxes["labels"][k, row] = -1
                for key in ("boxes", "is_crowd", "area"):
                    boxes[key][k, row] = 0
    return after


class Told(RandomCopyPaste):
    """Pastes what it is told."""

    plan = None

    def get_random_transformation(self, data, training=True, seed=None):
        partner, chosen = self.plan
        xp = self.backend
        return {
            "partner": xp.convert_to_tensor(partner, "int32"),
            "chosen": xp.convert_to_tensor(chosen),
        }


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("rows", [5, 8, 20])
def test_it_is_what_the_loop_does(seed, rows, monkeypatch):
    batch = scenes(rows=rows)
    rng = np.random.default_rng(seed)
    plan = rng.permutation(4), rng.random((4, rows)) < 0.7
    monkeypatch.setattr(Told, "plan", plan)
    after = augment([Told()])(batch)
    expected = paste_by_hand(batch, *plan)
    assert (expected["instance_ids"] != batch["instance_ids"]).any()
    for found, wanted in zip(keras.tree.flatten(after), keras.tree.flatten(expected), strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == wanted.dtype


def consistent(batch):
    for k, labels in enumerate(batch["bounding_boxes"]["labels"]):
        ids = np.unique(batch["instance_ids"][k])
        np.testing.assert_array_equal(ids[ids > 0], np.flatnonzero(labels >= 0) + 1)


def test_draws_differ_and_rows_go_on_telling_the_pixels():
    batch = scenes(rows=20)
    paste = augment([RandomCopyPaste(seed=1)])
    first, second = paste(batch), paste(batch)
    assert (first["images"] != second["images"]).any()
    consistent(first)
    again = augment([RandomCopyPaste(seed=1)])(batch)
    np.testing.assert_array_equal(first["instance_ids"], again["instance_ids"])
    for nothing in (RandomCopyPaste(0.0), RandomCopyPaste(object_probability=0.0)):
        np.testing.assert_array_equal(augment([nothing])(batch)["images"], batch["images"])
    alone = keras.tree.map_structure(lambda part: part[:1], batch)
    np.testing.assert_array_equal(
        augment([RandomCopyPaste()])(alone)["instance_ids"], alone["instance_ids"]
    )


def test_it_works_after_other_layers_and_in_tf_data():
    pytest.importorskip("tensorflow")
    from kvision.data import RandomScaledCrop

    layers = [
        keras.layers.RandomFlip("horizontal", seed=1),
        RandomScaledCrop(50, 60, (0.3, 2.0), seed=2),
        RandomCopyPaste(seed=3),
        keras.layers.RandomFlip("vertical", seed=4),
    ]
    batch = digit_scenes(6, image_size=(64, 64), num_digits=(3, 5))
    padded = {
        key: np.pad(values, [(0, 0), (0, 6), *[(0, 0)] * (values.ndim - 2)], constant_values=-1)
        for key, values in batch["bounding_boxes"].items()
    }
    batch["bounding_boxes"] = padded
    (after,) = as_dataset(batch, 6).map(augment(layers)).as_numpy_iterator()
    consistent(after)
    assert after["instance_ids"].shape == (6, 50, 60, 1)
    # A digit's pixels are of its class, wherever it comes from.
    for k in range(6):
        for i in np.unique(after["instance_ids"][k])[1:]:
            inside = after["segmentation_masks"][k][after["instance_ids"][k] == i]
            assert (inside == after["bounding_boxes"]["labels"][k, i - 1] + 1).all()


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match=r"RandomCopyPaste: `probability` must be in 0\.\.1"):
        RandomCopyPaste(1.5)
    with pytest.raises(ValueError, match=r"`object_probability` must be .*Received: -1"):
        RandomCopyPaste(object_probability=-1)
    batch = scenes()
    del batch["instance_ids"]
    with pytest.raises(ValueError, match="RandomCopyPaste needs `bounding_boxes` and `instance_"):
        augment([RandomCopyPaste()])(batch)
    with pytest.raises(NotImplementedError, match="pasted by `kvision.data.augment`"):
        RandomCopyPaste().transform_images(batch["images"], None)
