import hashlib
import itertools

import numpy as np
import pytest

from kvision.data import DIGIT_SEMANTIC_CLASS_NAMES, digit_scenes
from kvision.data.digit_scenes import _glyphs

pytest.importorskip("sklearn")

DIGEST = "4fe6072d6ad622d1414c9e5d95c8b11c39239200fe6381055c68d5e7e1879839"


@pytest.fixture(scope="module")
def scenes():
    return digit_scenes(60, seed=11)


def real_boxes(scenes, k):
    real = scenes["bounding_boxes"]["labels"][k] >= 0
    return scenes["bounding_boxes"]["boxes"][k][real]


def digest(scenes):
    parts = (scenes["images"], *scenes["bounding_boxes"].values(), scenes["instance_ids"])
    return hashlib.sha256(
        b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
    ).hexdigest()


def test_shapes_dtypes_and_padding(scenes):
    assert {
        key: (value.shape, value.dtype.name)
        for key, value in scenes.items()
        if key != "bounding_boxes"
    } == {
        "images": ((60, 128, 128, 3), "uint8"),
        "segmentation_masks": ((60, 128, 128, 1), "int32"),
        "instance_ids": ((60, 128, 128, 1), "int32"),
        "image_id": ((60,), "int32"),
        "original_size": ((60, 2), "int32"),
    }
    boxes, labels = scenes["bounding_boxes"]["boxes"], scenes["bounding_boxes"]["labels"]
    assert (boxes.shape, boxes.dtype) == ((60, 8, 4), np.float32)
    assert (labels.shape, labels.dtype) == ((60, 8), np.int32)
    counts = (labels >= 0).sum(1)
    assert counts.min() == 3
    assert counts.max() == 8
    for row, count in zip(labels, counts, strict=True):
        assert (row[:count] >= 0).all()
        assert (row[count:] == -1).all()
    np.testing.assert_array_equal(boxes[labels < 0], 0)


def test_the_same_bits_on_every_machine():
    """The digest was made with NumPy 2.4 on x86-64; a difference means another data set."""
    assert digest(digit_scenes(6, seed=7)) == DIGEST


def test_a_scene_does_not_depend_on_how_many_are_asked_for():
    few, many = digit_scenes(2, seed=3), digit_scenes(5, seed=3)
    np.testing.assert_array_equal(few["images"], many["images"][:2])
    np.testing.assert_array_equal(few["instance_ids"], many["instance_ids"][:2])


def test_seed_and_split_change_the_scenes():
    images = [
        digit_scenes(1, seed=s, split=p)["images"]
        for s, p in ((0, "train"), (1, "train"), (0, "test"))
    ]
    for first, second in itertools.combinations(images, 2):
        assert (first != second).any()


def test_the_splits_draw_on_disjoint_halves_of_the_digits():
    from sklearn.datasets import load_digits

    train, test = _glyphs("train"), _glyphs("test")
    assert len(train[0]) + len(test[0]) == len(load_digits().images)
    both = {image.tobytes() for image in train[0]} & {image.tobytes() for image in test[0]}
    assert not both
    for _, labels in (train, test):
        assert set(labels) == set(range(10))


def test_boxes_overlap_no_more_than_allowed():
    def largest_iou(limit):
        scenes = digit_scenes(40, num_digits=(6, 12), max_overlap=limit, masks=False)
        largest = 0.0
        for k in range(40):
            for a, b in itertools.combinations(real_boxes(scenes, k), 2):
                inner = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
                areas = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()
                largest = max(largest, inner / (areas - inner))
        return largest

    assert largest_iou(0.0) == 0
    assert 0.2 < largest_iou(0.3) <= 0.3


def test_masks_lie_in_their_boxes_and_agree_with_the_labels(scenes):
    for k in range(60):
        boxes = real_boxes(scenes, k).astype(int)
        instances, classes = (
            scenes["instance_ids"][k, ..., 0],
            scenes["segmentation_masks"][k, ..., 0],
        )
        assert set(np.unique(instances)) == set(range(len(boxes) + 1))
        np.testing.assert_array_equal(classes == 0, instances == 0)
        for i, (x1, y1, x2, y2) in enumerate(boxes):
            rows, columns = np.nonzero(instances == i + 1)
            assert y1 <= rows.min() <= rows.max() < y2
            assert x1 <= columns.min() <= columns.max() < x2
            label = scenes["bounding_boxes"]["labels"][k, i]
            assert (classes[instances == i + 1] == label + 1).all()
            assert DIGIT_SEMANTIC_CLASS_NAMES[label + 1] == str(label)


def test_the_box_of_a_digit_in_full_view_is_tight():
    scenes = digit_scenes(30, max_overlap=0.0, seed=2)
    for k in range(30):
        for i, box in enumerate(real_boxes(scenes, k)):
            rows, columns = np.nonzero(scenes["instance_ids"][k, ..., 0] == i + 1)
            np.testing.assert_array_equal(
                box, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            )


@pytest.mark.parametrize(
    ("scale", "largest"), [((1.0, 1.0), 16), ((3.0, 3.0), 48), ((1.0, 2.0), 32)]
)
def test_scale_sets_the_height(scale, largest):
    boxes = digit_scenes(20, scale=scale, masks=False, num_digits=(2, 3))["bounding_boxes"]["boxes"]
    heights = boxes[..., 3] - boxes[..., 1]
    assert 0.9 * largest <= heights.max() <= largest
    if scale[0] == scale[1]:
        assert heights[heights > 0].min() >= 0.8 * largest


def test_any_size_and_one_to_twelve_digits():
    scenes = digit_scenes(3, image_size=(96, 240), num_digits=(12, 12), scale=(1, 2))
    assert scenes["images"].shape == (3, 96, 240, 3)
    assert (scenes["bounding_boxes"]["labels"] >= 0).all()
    single = digit_scenes(3, image_size=(17, 16), num_digits=(1, 1), scale=(1, 1))
    assert (single["bounding_boxes"]["labels"] >= 0).all()


def test_digits_stand_out_from_a_plain_background():
    scenes = digit_scenes(10, background="plain", clutter=False, max_overlap=0.0)
    for image, instances in zip(
        scenes["images"].astype(int), scenes["instance_ids"][..., 0], strict=True
    ):
        empty = image[instances == 0]
        ground = np.median(empty, 0)
        for i in range(1, instances.max() + 1):
            assert np.abs(np.median(image[instances == i], 0) - ground).sum() > 100


def test_without_masks_the_rest_is_the_same():
    lean, full = digit_scenes(3, masks=False), digit_scenes(3)
    assert set(full) - set(lean) == {"segmentation_masks", "instance_ids"}
    np.testing.assert_array_equal(lean["images"], full["images"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, "`split` must be 'train' or 'test'.*'val'"),
        ({"num_digits": (3, 13)}, "`num_digits` must be .* within 1..12"),
        ({"num_digits": (0, 3)}, "`num_digits` must be .* within 1..12"),
        ({"scale": (0.5, 1)}, "`scale` must be .* within 1..3"),
        ({"max_overlap": 1.0}, "`max_overlap` must be an IoU"),
        ({"background": "photo"}, "`background` must be"),
        ({"image_size": (40, 128)}, "at scale 3.0 a digit is 48 pixels high"),
        ({"image_size": (48, 48), "scale": (3, 3)}, "3 digits of scale .* do not fit a scene"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=f"digit_scenes: .*{message}"):
        digit_scenes(1, **arguments)
