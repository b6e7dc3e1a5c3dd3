"""Batches of images with label maps, from folders."""

import importlib.util
import json

import numpy as np
import pytest

from kvision.boxes.resize import PADDING_COLOR
from kvision.data import read_label_maps, to_fit

Image = pytest.importorskip("PIL.Image")

NAMES = ("left", "middle", "right")


@pytest.fixture
def folder(tmp_path):
    """Images of 12 x 24 pixels whose brightness grows to the right in step with their labels."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in "abc":
        write(tmp_path, name)
    return tmp_path


def write(root, name, size=(12, 24), label_size=None, **options):
    def across(height, width):
        return np.broadcast_to((np.arange(width) * 3 // width)[None], (height, width))

    image = np.repeat((across(*size) * 100)[..., None], 3, -1).astype("uint8")
    Image.fromarray(image).save(root / "images" / f"{name}.png", **options)
    labels = across(*(label_size or size)).astype("uint8")
    Image.fromarray(labels).save(root / "labels" / f"{name}.png")


def read(root, **arguments):
    return read_label_maps(root / "images", root / "labels", NAMES, **arguments)


def views(dataset, *arguments, **options):
    """Both kinds of batches, where there is TensorFlow."""
    yield list(dataset.batches(*arguments, **options))
    if importlib.util.find_spec("tensorflow"):
        yield list(dataset.dataset(*arguments, **options).as_numpy_iterator())


def test_batches_hold_labels_beside_their_images(folder):
    for first, last in views(read(folder), 2, (12, 24)):
        assert (first["images"].shape, first["images"].dtype) == ((2, 12, 24, 3), np.uint8)
        masks = first["segmentation_masks"]
        assert (masks.shape, masks.dtype) == ((2, 12, 24, 1), np.int32)
        np.testing.assert_array_equal(masks * 100, first["images"][..., :1])
        np.testing.assert_array_equal(first["image_id"], [0, 1])
        np.testing.assert_array_equal(last["original_size"], [[12, 24]])
        assert len(last["images"]) == 1


@pytest.mark.parametrize("policy", ["letterbox", "stretch"])
@pytest.mark.parametrize("size", [(6, 12), (24, 48), (9, 21), (30, 31)])
def test_labels_are_resized_with_the_geometry_of_the_images(folder, size, policy):
    """Each label is that of the original pixel in which the centre of the new one lies."""
    scale = min(size[0] / 12, size[1] / 24)
    inside = size if policy == "stretch" else (int(12 * scale + 0.5), int(24 * scale + 0.5))
    columns = np.floor((np.arange(inside[1]) + 0.5) * 24 / inside[1]).astype(int)
    for (batch,) in views(read(folder, names=["a"]), 1, size, resize_policy=policy):
        (masks,), (image,) = batch["segmentation_masks"], batch["images"]
        expected = np.full(size, 255)
        expected[: inside[0], : inside[1]] = columns * 3 // 24
        np.testing.assert_array_equal(masks[..., 0], expected)
        padding = masks[..., 0] == 255
        assert (image[padding] == PADDING_COLOR).all()
        # Bilinear brightness crosses half-way between two classes where the label changes.
        crossed = (image[0, : inside[1], 0].astype(int)) / 100
        assert np.abs(crossed - masks[0, : inside[1], 0]).max() <= 0.5 + 0.01


def test_images_may_keep_their_own_size(folder):
    for batches in views(read(folder), 2, None):
        assert batches[0]["images"].shape == (2, 12, 24, 3)
    write(folder, "d", size=(8, 9))
    for batches in views(read(folder), 1, None):
        assert [batch["images"].shape[1:3] for batch in batches] == [(12, 24)] * 3 + [(8, 9)]
        assert batches[3]["segmentation_masks"].shape == (1, 8, 9, 1)
    with pytest.raises(ValueError, match="`batch_size` must be 1, .* 2 different sizes"):
        read(folder).batches(2, None)


def test_names_choose_the_images_and_their_order(folder):
    (folder / "list.txt").write_text("c.png more words\n\na\n")
    for names in (folder / "list.txt", str(folder / "list.txt"), ["c", "a.png"]):
        found = [example.path[-5:] for example in read(folder, names=names)]
        assert found == ["c.png", "a.png"]
    with pytest.raises(ValueError, match=r"read_label_maps: `names`='.*none.txt' has no list"):
        read(folder, names=folder / "none.txt")


def test_a_suffix_and_colours_as_camvid_has_them(folder):
    colors = {"left": (9, 9, 9), "middle": (9, 9, 8), "right": [(7, 0, 0), (7, 0, 1)]}
    pixels = np.zeros((12, 24, 3), "uint8") + np.array((7, 0, 1), "uint8")
    Image.fromarray(pixels).save(folder / "labels" / "a_L.png")
    dataset = read(folder, names=["a"], label_suffix="_L", colors=colors)
    (batch,) = dataset.batches(1, (12, 24))
    np.testing.assert_array_equal(batch["segmentation_masks"], 2)


def without_labels(folder, truncate):
    (folder / "labels" / "b.png").unlink()


def of_another_size(folder, truncate):
    write(folder, "b", label_size=(12, 25))


def without_an_image(folder, truncate):
    (folder / "images" / "b.png").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_labels, r"labels/b\.png: the image file is missing"),
        (of_another_size, r"labels/b\.png: the label map is 25 x 12 pixels, its image 24 x 12"),
        (without_an_image, r"images/b\.\w+: the image file is missing"),
    ],
)
def test_what_does_not_match_is_met_at_once(folder, truncate, damage, message):
    damage(folder, truncate)
    with pytest.raises(ValueError, match=f"read_label_maps: .*{message}"):
        read(folder, names=list("abc"))
    with pytest.warns(UserWarning, match=rf"skipped 1 image\(s\).*{message}"):
        dataset = read(folder, names=list("abc"), on_error="skip")
    for batches in views(dataset, 2, (12, 24)):
        assert [batch["image_id"].tolist() for batch in batches] == [[0, 2]]


def with_an_unknown_label(folder, truncate):
    labels = np.zeros((12, 24), "uint8")
    labels[3, 5] = 77
    Image.fromarray(labels).save(folder / "labels" / "b.png")


def with_half_a_file(folder, truncate):
    noise = np.random.default_rng(0).integers(0, 3, (12, 24)).astype("uint8")
    Image.fromarray(noise).save(folder / "labels" / "b.png")
    truncate(folder / "labels" / "b.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_an_unknown_label, r"the index 77 \(1 pixel\(s\), the first in row 3, column 5\)"),
        (with_half_a_file, "cannot be decoded"),
    ],
)
def test_bad_pixels_are_met_when_their_turn_comes(folder, truncate, damage, message):
    tf = pytest.importorskip("tensorflow")
    damage(folder, truncate)
    where = rf"read_label_maps: .*labels/b\.png: .*{message}"
    with pytest.raises(ValueError, match=where):
        list(read(folder).batches(1, (12, 24)))
    with pytest.raises(tf.errors.InvalidArgumentError, match=where):
        list(read(folder).dataset(1, (12, 24)))
    for view in ("dataset", "batches"):
        dataset = read(folder, on_error="skip")
        with pytest.warns(UserWarning, match=message):
            batches = list(getattr(dataset, view)(3, (12, 24)))
        assert [np.array(batch["image_id"]).tolist() for batch in batches] == [[0, 2]]


def test_missing_folders_are_named(folder):
    with pytest.raises(ValueError, match="read_label_maps: the folder .*nowhere is missing"):
        read_label_maps(folder / "images", folder / "nowhere", NAMES)


def test_an_orientation_turns_image_and_size(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    write(folder, "a", size=(24, 12), label_size=(12, 24), exif=exif)
    (example,) = read(folder, names=["a"])
    assert example.original_size == (12, 24)
    (batch,) = read(folder, names=["a"]).batches(1, None)
    assert batch["images"].shape == (1, 12, 24, 3)
    with pytest.raises(ValueError, match=r"labels/a\.png: the label map is 24 x 12 pixels"):
        read(folder, names=["a"], apply_exif=False)


def test_real_label_maps_with_gaps_between_their_indices(shared_data):
    """COCO's panoptic categories run to 200 with holes; 0 is unlabelled."""
    root = shared_data / "coco_tiny"
    categories = json.loads((root / "semantic_categories.json").read_text())
    values = {category["name"]: category["id"] for category in categories if category["id"]}
    dataset = read_label_maps(
        root / "images",
        root / "semantic",
        values,
        names=root / "val.txt",
        values=values,
        ignore=[0],
    )
    assert len(dataset) == 12
    ids = np.array(list(values.values()))
    for example, batch in zip(dataset, dataset.batches(1, None), strict=True):
        images, masks = to_fit(batch)
        assert images.shape[:3] == masks.shape[:3]
        written = np.asarray(Image.open(example.label_path)).astype(int)
        meant = np.where(masks == 255, 0, ids[np.minimum(masks, len(ids) - 1)])
        np.testing.assert_array_equal(meant[0, ..., 0], written)
