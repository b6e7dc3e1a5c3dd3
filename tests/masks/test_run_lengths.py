"""Run lengths against the fact sheet's worked examples, COCO's own code and brute force."""

import json

import numpy as np
import pytest

from kvision.data import (
    ids_to_runs,
    mask_to_polygons,
    mask_to_runs,
    polygons_to_runs,
    rle_to_runs,
    runs_to_ids,
    runs_to_mask,
    runs_to_rle,
)

ROWS_1_2 = np.zeros((4, 5), bool)
ROWS_1_2[1:3, 1:4] = True
ROWS_1_3 = np.zeros((4, 5), bool)
ROWS_1_3[1:4, 2:5] = True
WORKED = [
    (ROWS_1_2, [5, 2, 2, 2, 2, 2, 5], "5220003"),
    (ROWS_1_3, [9, 3, 1, 3, 1, 3], "931000"),
    (np.ones((2, 2), bool), [0, 4], "04"),
    (np.zeros((2, 3), bool), [6], "6"),
]


def masks(count=200, most=14):
    rng = np.random.default_rng(7)
    for _ in range(count):
        yield rng.random(rng.integers(1, most, 2)) < rng.random()


@pytest.fixture
def api():
    """COCO's maskApi, as faster-coco-eval carries it on."""
    return pytest.importorskip("faster_coco_eval.core.mask")


@pytest.mark.parametrize(("mask", "runs", "text"), WORKED)
def test_worked_examples(api, mask, runs, text):
    assert mask_to_runs(mask).tolist() == runs
    np.testing.assert_array_equal(runs_to_mask(runs, mask.shape), mask)
    rle = {"size": list(mask.shape), "counts": text}
    assert runs_to_rle(runs, mask.shape) == rle
    assert runs_to_rle(runs, mask.shape, compressed=False) == rle | {"counts": runs}
    for counts in (text, text.encode(), runs):
        assert rle_to_runs(rle | {"counts": counts}).tolist() == runs


def test_the_worked_polygon(api):
    assert polygons_to_runs([[1, 1, 4, 1, 4, 3, 1, 3]], (4, 5)).tolist() == WORKED[0][1]
    assert mask_to_polygons(ROWS_1_2) == [[1, 1, 4, 1, 4, 3, 1, 3]]


def test_rle_is_what_coco_writes(api):
    for mask in masks():
        packed = api.encode(np.asfortranarray(mask.astype("uint8")))["counts"]
        packed = packed.decode() if isinstance(packed, bytes) else packed
        rle = runs_to_rle(mask_to_runs(mask), mask.shape)
        assert json.loads(json.dumps(rle)) == {"size": list(mask.shape), "counts": packed}
        np.testing.assert_array_equal(runs_to_mask(rle_to_runs(rle), mask.shape), mask)


def test_long_runs_and_negative_differences_survive_the_string(api):
    runs = [70_000, 3, 1, 40_000, 5, 60_000, 99_000, 1, 2, 1_000, 500_000, 84]
    size = (sum(runs) // 16, 16)
    assert (
        runs_to_rle(runs, size)["counts"]
        == api.frPyObjects({"size": list(size), "counts": runs}, *size)["counts"].decode()
    )
    assert rle_to_runs(runs_to_rle(runs, size)).tolist() == runs


def test_padding_changes_nothing():
    runs = [*WORKED[0][1], 0, 0, 0]
    np.testing.assert_array_equal(runs_to_mask(runs, (4, 5)), ROWS_1_2)
    assert runs_to_rle(runs, (4, 5), compressed=False)["counts"] == WORKED[0][1]
    assert not runs_to_mask([0, 0], (4, 5)).any()
    assert runs_to_rle([0, 0], (4, 5), compressed=False)["counts"] == [20]


def test_unions_of_polygons_are_coco_s(api):
    rng = np.random.default_rng(1)
    for _ in range(50):
        polygons = [rng.uniform(-2, 34, 2 * rng.integers(3, 8)).tolist() for _ in range(3)]
        expected = np.any([api.decode(api.frPyObjects([p], 24, 32)[0]) for p in polygons], axis=0)
        found = runs_to_mask(polygons_to_runs(polygons, (24, 32)), (24, 32))
        np.testing.assert_array_equal(found, expected)
    assert polygons_to_runs([], (4, 5)).tolist() == [20]


def test_outlines_give_the_mask_back_to_coco(api):
    holes = 0
    for mask in masks():
        polygons = mask_to_polygons(mask)
        if not polygons:
            assert not mask.any()
            continue
        holes += len(polygons) == 1
        drawn = api.merge(api.frPyObjects([list(map(float, p)) for p in polygons], *mask.shape))
        np.testing.assert_array_equal(api.decode(drawn), mask)
    assert holes > 20


def test_outlines_are_of_parts_and_their_length_is_the_perimeter():
    mask = np.zeros((8, 9), bool)
    mask[1:4, 1:4] = mask[5:7, 2:8] = True
    polygons = mask_to_polygons(mask)
    assert sorted(map(len, polygons)) == [8, 8]
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    (path,) = mask_to_polygons(ring)  # the outline, to the hole, around it and back
    steps = np.abs(np.diff(np.reshape(path, (-1, 2)), axis=0)).sum(-1)
    assert steps.sum() == 20 + 4 + 2 * 5  # the way to the first corner of the hole, (3, 2)


def test_label_maps_and_runs():
    rng = np.random.default_rng(3)
    for _ in range(100):
        ids = rng.integers(0, 6, rng.integers(1, 12, 2))
        runs = ids_to_runs(ids[..., None], 7)
        assert runs.shape[0] == 7
        for i, row in enumerate(runs):
            np.testing.assert_array_equal(runs_to_mask(row, ids.shape), ids == i + 1)
        np.testing.assert_array_equal(runs_to_ids(runs, ids.shape), ids)
    assert ids_to_runs(np.zeros((3, 4), int)).shape == (0, 0)


def test_the_smallest_object_is_painted_on_top():
    rng = np.random.default_rng(5)
    for _ in range(50):
        shape = rng.integers(2, 12, 2)
        objects = [rng.random(shape) < rng.random() for _ in range(4)]
        runs = np.zeros((4, 150), "int32")
        for row, mask in zip(runs, objects, strict=True):
            row[: len(mask_to_runs(mask))] = mask_to_runs(mask)
        expected = np.zeros(shape, int)
        for i in sorted(range(4), key=lambda i: -objects[i].sum()):
            expected[objects[i]] = i + 1
        np.testing.assert_array_equal(runs_to_ids(runs, shape), expected)
        as_list = [mask_to_runs(mask).tolist() for mask in objects]
        np.testing.assert_array_equal(runs_to_ids(as_list, shape), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mask_to_runs(np.ones(4)), r"mask_to_runs: `mask` must have shape .*\(4,\)"),
        (lambda: runs_to_mask([3, 4], (2, 2)), r"runs_to_mask: .* fill 2 x 2 = 4 pixels.* 7 pix"),
        (lambda: runs_to_rle([6, -2], (2, 2)), r"runs_to_rle: .* the least -2"),
        (lambda: rle_to_runs({"size": [2, 2], "counts": [3]}), "rle_to_runs: .* 3 pixels in all"),
        (lambda: rle_to_runs({"size": [2, 2], "counts": "P"}), "'P' is not a compressed RLE"),
        (lambda: rle_to_runs({"size": [2, 2], "counts": " "}), "' ' is not a compressed RLE"),
        (lambda: polygons_to_runs([[1, 2, 3, 4]], (9, 9)), "three or more corners.*1, 2, 3, 4"),
        (lambda: polygons_to_runs([[1, 2] * 3 + [0]], (9, 9)), "polygons_to_runs: a polygon must"),
        (lambda: polygons_to_runs([[1, np.nan] * 3], (9, 9)), "polygons_to_runs: a polygon must"),
    ],
)
def test_what_is_wrong_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
