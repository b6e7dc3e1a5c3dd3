"""Overlaps and clipping against worked tables."""

import numpy as np
from keras import ops

from kvision.boxes import box_area, clip_boxes, pairwise_intersection, pairwise_iou, shortest_side

BOXES = np.array(
    [
        (0, 0, 10, 10),
        (1, 1, 11, 11),
        (0, 0, 10, 5),
        (20, 20, 30, 30),
        (21, 21, 31, 31),
        (0, 0, 5, 10),
    ],
    "float32",
)


def test_pairwise_iou_of_a_worked_table():
    expected = np.eye(6)
    for i, j, value in [
        (0, 1, 0.680672),
        (0, 2, 0.5),
        (0, 5, 0.5),
        (1, 2, 0.315789),
        (1, 5, 0.315789),
        (2, 5, 0.333333),
        (3, 4, 0.680672),
    ]:
        expected[i, j] = expected[j, i] = value
    actual = ops.convert_to_numpy(pairwise_iou(BOXES, BOXES))
    np.testing.assert_allclose(actual, expected, atol=5e-7)


def test_pairwise_iou_broadcasts_over_a_batch():
    batch = np.stack([BOXES, BOXES[::-1]])
    actual = ops.convert_to_numpy(pairwise_iou(batch, BOXES[:3]))
    single = ops.convert_to_numpy(pairwise_iou(BOXES, BOXES[:3]))
    np.testing.assert_array_equal(actual, np.stack([single, single[::-1]]))


def test_empty_boxes_overlap_nothing():
    empty = np.array([(3, 3, 3, 3), (5, 5, 4, 4), (2, 0, 2, 9)], "float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(pairwise_iou(empty, empty)), 0)
    np.testing.assert_array_equal(ops.convert_to_numpy(pairwise_iou(empty, BOXES)), 0)
    np.testing.assert_array_equal(ops.convert_to_numpy(box_area(empty)), 0)
    np.testing.assert_array_equal(ops.convert_to_numpy(shortest_side(empty)), [0, -1, 0])


def test_pairwise_intersection():
    actual = ops.convert_to_numpy(pairwise_intersection(BOXES[:1], BOXES))
    np.testing.assert_array_equal(actual, [[100, 81, 50, 0, 0, 50]])


def test_clip_boxes():
    boxes = np.array([[(-5, -6, 70, 80), (60, 50, 90, 60), (1, 2, 3, 4)]], "float32")
    expected = [[(0, 0, 64, 48), (60, 48, 64, 48), (1, 2, 3, 4)]]
    np.testing.assert_array_equal(ops.convert_to_numpy(clip_boxes(boxes, (48, 64))), expected)
    sizes = np.array([[48.0]], "float32"), np.array([[64.0]], "float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(clip_boxes(boxes, sizes)), expected)
