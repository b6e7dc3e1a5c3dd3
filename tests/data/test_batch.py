import keras
import numpy as np
import pytest

from kvision.data import as_batches, as_dataset, digit_scenes, to_fit


def batch_of(n):
    rng = np.random.default_rng(1)
    return {
        "images": rng.integers(0, 256, (n, 8, 8, 3)).astype("uint8"),
        "bounding_boxes": {
            "boxes": rng.random((n, 2, 4)).astype("float32"),
            "labels": rng.integers(-1, 3, (n, 2)).astype("int32"),
            "is_crowd": np.zeros((n, 2), bool),
        },
        "instance_ids": np.zeros((n, 8, 8, 1), "int32"),
        "image_id": np.arange(n, dtype="int32"),
        "original_size": np.full((n, 2), 8, "int32"),
    }


def test_to_fit_splits_arrays():
    batch = batch_of(3)
    images, targets = to_fit(batch)
    assert images is batch["images"]
    assert set(targets) == {"boxes", "labels", "is_crowd", "image_id", "original_size"}
    assert targets["boxes"] is batch["bounding_boxes"]["boxes"]


def test_to_fit_says_what_is_missing():
    with pytest.raises(ValueError, match=r"to_fit: the batch has no \['bounding_boxes'\]"):
        to_fit({"images": 1})


def test_to_fit_gives_what_the_task_takes():
    masks, weights = np.ones((3, 8, 8, 1), "int32"), np.ones((3, 8, 8, 1), "float32")
    batch = batch_of(3) | {"segmentation_masks": masks}
    assert set(to_fit(batch)[1]) == set(to_fit(batch, "detection")[1])
    assert to_fit(batch, "segmentation") == (batch["images"], masks)
    del batch["bounding_boxes"]
    assert to_fit(batch) == (batch["images"], masks)
    batch["pixel_weights"] = weights
    assert to_fit(batch) == (batch["images"], masks, weights)
    labels = np.array([2, 0, 1])
    assert to_fit(batch | {"labels": labels}, "classification") == (batch["images"], labels)
    assert to_fit({"images": batch["images"], "labels": labels}) == (batch["images"], labels)


def test_instances_come_with_their_boxes_and_the_semantic_map():
    batch = batch_of(3)
    images, targets = to_fit(batch, "instances")
    assert images is batch["images"]
    assert targets["instance_ids"] is batch["instance_ids"]
    assert set(targets) - set(to_fit(batch)[1]) == {"instance_ids"}
    semantic = np.ones((3, 8, 8, 1), "int32")
    runs = np.zeros((3, 2, 5), "int32")
    del batch["instance_ids"]
    targets = to_fit(batch | {"mask_runs": runs, "segmentation_masks": semantic}, "instances")[1]
    assert targets["mask_runs"] is runs
    assert targets["semantic"] is semantic
    with pytest.raises(ValueError, match=r"to_fit: the batch has no \['instance_ids'\]"):
        to_fit(batch, "instances")


def test_scenes_of_one_digit_are_classified_by_it():
    scenes = digit_scenes(4, num_digits=(1, 1), masks=False)
    images, labels = to_fit(scenes, task="classification")
    assert images is scenes["images"]
    np.testing.assert_array_equal(labels, scenes["bounding_boxes"]["labels"].ravel())
    with pytest.raises(ValueError, match=r"images with one box each .* shape \(3, 2\)"):
        to_fit(batch_of(3), task="classification")


def test_unknown_tasks_and_missing_targets_are_named():
    with pytest.raises(ValueError, match="to_fit: `task` must be one of .* Received: 'depth'"):
        to_fit(batch_of(1), "depth")
    with pytest.raises(ValueError, match=r"to_fit: the batch has no \['segmentation_masks'\]"):
        to_fit(batch_of(1), "segmentation")
    with pytest.raises(ValueError, match=r"to_fit: the batch has no \['bounding_boxes'\]"):
        to_fit({"images": 1}, "classification")


def test_arrays_go_into_fit_without_tf_data():
    """The nested targets arrive in `compute_loss`, batch by batch, on any backend."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.dense.build((None, 3))

        def call(self, images):
            return self.dense(keras.ops.mean(keras.ops.cast(images, "float32") / 255, (1, 2)))

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(y_pred) + keras.ops.sum(y["boxes"]) * 0

    model = Model()
    model.compile("sgd")
    history = model.fit(*to_fit(batch_of(4)), batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


class TestTensorFlow:
    @pytest.fixture(autouse=True)
    def _tensorflow(self):
        pytest.importorskip("tensorflow")

    def test_the_view_holds_the_arrays_in_order(self):
        batch = batch_of(5)
        parts = list(as_dataset(batch, 2).as_numpy_iterator())
        assert [len(part["images"]) for part in parts] == [2, 2, 1]
        for key in ("images", "image_id", "original_size", "instance_ids"):
            joined = np.concatenate([part[key] for part in parts])
            np.testing.assert_array_equal(joined, batch[key])
            assert joined.dtype == batch[key].dtype

    def test_drop_remainder_gives_static_batches(self):
        dataset = as_dataset(batch_of(5), 2, drop_remainder=True)
        assert dataset.cardinality() == 2
        assert dataset.element_spec["bounding_boxes"]["boxes"].shape == (2, 2, 4)

    def test_shuffling_is_set_by_its_seed_and_keeps_images_with_their_boxes(self):
        batch = batch_of(16)

        def ids(seed):
            dataset = as_dataset(batch, 4, shuffle=True, seed=seed)
            epochs = [list(dataset.as_numpy_iterator()) for _ in range(2)]
            for part in epochs[0]:
                np.testing.assert_array_equal(
                    part["bounding_boxes"]["boxes"],
                    batch["bounding_boxes"]["boxes"][part["image_id"]],
                )
                np.testing.assert_array_equal(part["images"], batch["images"][part["image_id"]])
            return [
                np.concatenate([part["image_id"] for part in epoch]).tolist() for epoch in epochs
            ]

        first, again, other = ids(1), ids(1), ids(2)
        assert first == again != other
        assert first[0] != first[1]
        assert sorted(first[0]) == sorted(first[1]) == list(range(16))

    def test_to_fit_maps_a_dataset(self):
        images, targets = next(to_fit(as_dataset(batch_of(4), 2)).as_numpy_iterator())
        assert images.shape == (2, 8, 8, 3)
        assert targets["boxes"].shape == (2, 2, 4)
        direct = next(as_dataset(batch_of(4), 2).map(to_fit).as_numpy_iterator())
        np.testing.assert_array_equal(direct[1]["boxes"], targets["boxes"])

    def test_a_task_is_asked_of_datasets_and_batches_too(self):
        masks = np.arange(4, dtype="int32").reshape(4, 1, 1, 1) * np.ones((1, 8, 8, 1), "int32")
        batch = batch_of(4) | {"segmentation_masks": masks}
        for view in (as_dataset, as_batches):
            pairs = list(to_fit(view(batch, 2), task="segmentation"))
            np.testing.assert_array_equal(np.concatenate([pair[1] for pair in pairs]), masks)
