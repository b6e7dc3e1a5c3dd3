import warnings

import numpy as np
import pytest

from kvision.data import VOC_CLASS_NAMES, read_voc
from tests.data.conftest import voc_object

pytest.importorskip("PIL")

NAMES = ("cat", "dog")


def read(voc, **arguments):
    return read_voc(voc.root, "train", class_names=NAMES, **arguments)


def test_boxes_labels_and_difficult_of_a_whole_data_set(voc):
    voc.add("a", voc_object("dog"), voc_object("cat", (1, 1, 80, 100), difficult=1))
    voc.add("b", suffix=".png")
    dataset = read(voc)
    assert len(dataset) == 2
    assert dataset.class_names == NAMES
    first, second = dataset
    np.testing.assert_array_equal(
        first.bounding_boxes["boxes"], [[10, 20, 50, 60], [0, 0, 80, 100]]
    )
    assert first.bounding_boxes["labels"].tolist() == [1, 0]
    assert first.bounding_boxes["difficult"].tolist() == [False, True]
    assert first.original_size == (100, 80)
    assert (first.image_id, second.image_id) == (0, 1)
    assert second.bounding_boxes["boxes"].shape == (0, 4)
    assert dataset.report.problems == ()


def test_corner_coordinates_are_taken_as_they_stand(voc):
    voc.add("a", voc_object("cat"))
    boxes = read(voc, one_based=False)[0].bounding_boxes["boxes"]
    np.testing.assert_array_equal(boxes, [[11, 21, 50, 60]])


@pytest.mark.parametrize(("one_based", "left"), [(True, 0), (False, -1)])
def test_a_box_may_reach_one_pixel_outside(voc, one_based, left):
    voc.add("a", voc_object("cat", (left, left, 81, 101)))
    boxes = read(voc, one_based=one_based)[0].bounding_boxes["boxes"]
    np.testing.assert_array_equal(boxes, [[-1, -1, 81, 101]])


def test_the_size_comes_from_the_image_where_the_annotation_has_none(voc):
    voc.add("a", voc_object("cat"), size=None)
    voc.add("b", voc_object("cat"), size=(0, 0))
    assert [example.original_size for example in read(voc)] == [(100, 80)] * 2


def test_voc_names_are_the_default(voc):
    voc.add("a", voc_object("tvmonitor"))
    dataset = read_voc(voc.root, "train")
    assert dataset.num_classes == len(VOC_CLASS_NAMES) == 20
    assert dataset[0].bounding_boxes["labels"].tolist() == [19]


BAD_BOXES = {
    "unknown class": (voc_object("bird"), "the class 'bird' is unknown"),
    "no class": (voc_object(""), "the class '' is unknown"),
    "no area": (voc_object("cat", (30, 30, 30, 30)), "has no area"),
    "reversed": (voc_object("cat", (50, 20, 10, 60)), "has no area"),
    "outside": (voc_object("cat", (200, 200, 240, 240)), "reaches outside its image of 80 x 100"),
    "over the edge": (voc_object("cat", (40, 40, 82, 90)), "reaches outside"),
    "over the edge once counted from 0": (voc_object("cat", (-1, 1, 30, 30)), "reaches outside"),
    "not numbers": (voc_object("cat", ("a", 1, 2, 3)), "is not four numbers"),
    "not finite": (voc_object("cat", (1, 1, "nan", 50)), "is not finite"),
    "no box": ("<object><name>cat</name></object>", "is not four numbers"),
}


@pytest.mark.parametrize("kind", BAD_BOXES)
def test_a_bad_box_is_refused_or_left_out_alone(voc, kind):
    bad, reason = BAD_BOXES[kind]
    voc.add("a", voc_object("dog"), bad)
    with pytest.raises(ValueError, match=rf"read_voc: .*a\.xml: .*{reason}"):
        read(voc)
    with pytest.warns(UserWarning, match=r"skipped 0 image\(s\) and 1 box\(es\)"):
        dataset = read(voc, on_error="skip")
    assert dataset[0].bounding_boxes["labels"].tolist() == [1]
    (problem,) = dataset.report.problems
    assert problem.file == str(voc.annotation("a"))
    assert reason in problem.reason


def test_a_box_over_the_edge_by_rounding_is_kept_unclipped(voc):
    voc.add("a", voc_object("cat", (0.5, 1, 80.9, 100)))
    boxes = read(voc)[0].bounding_boxes["boxes"]
    np.testing.assert_allclose(boxes, [[-0.5, 0, 80.9, 100]])


def missing_image(voc, truncate):
    voc.image("a").unlink()


def missing_annotation(voc, truncate):
    voc.annotation("a").unlink()


def truncated_annotation(voc, truncate):
    truncate(voc.annotation("a"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing_image, r"a\.jpg: the image file is missing"),
        (missing_annotation, r"a\.xml: the annotation file is missing"),
        (truncated_annotation, r"a\.xml: the annotation is not well-formed XML"),
    ],
)
def test_what_is_damaged_at_once_is_found_at_once(voc, truncate, damage, message):
    voc.add("a", voc_object("cat"))
    voc.add("b", voc_object("dog"))
    damage(voc, truncate)
    with pytest.raises(ValueError, match=message):
        read(voc)
    with pytest.warns(UserWarning, match=r"skipped 1 image\(s\) and 0 box\(es\)"):
        dataset = read(voc, on_error="skip")
    assert [example.image_id for example in dataset] == [1]


def test_a_split_without_a_list_is_refused(voc):
    with pytest.raises(ValueError, match=r"`split`='val' has no list of images: .*val\.txt"):
        read_voc(voc.root, "val")


def test_an_unknown_policy_is_refused(voc):
    with pytest.raises(ValueError, match="`on_error` must be one of .*'ignore'"):
        read(voc, on_error="ignore")


@pytest.mark.parametrize(
    ("split", "images", "boxes", "problem"),
    [
        ("train", 205, [2381, 214, 209], "BloodImage_00343"),
        ("val", 44, [483, 44, 38], "BloodImage_00338"),
        ("test", 43, [484, 43, 45], None),
    ],
)
def test_blood_cells(shared_data, split, images, boxes, problem):
    names = ("RBC", "WBC", "Platelets")
    if problem:
        with pytest.raises(ValueError, match=rf"{problem}\.xml: the box .* has no area"):
            read_voc(shared_data / "bccd", split, class_names=names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = read_voc(shared_data / "bccd", split, class_names=names, on_error="skip")
    assert len(dataset) == images
    labels = np.concatenate([example.bounding_boxes["labels"] for example in dataset])
    assert np.bincount(labels).tolist() == boxes
    assert dataset.report.skipped_boxes == bool(problem)
    assert dataset.report.skipped_images == 0
