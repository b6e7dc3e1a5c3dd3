"""Clipping and sides against worked tables."""

import numpy as np
from keras import ops

from kvision.boxes import clip_boxes, shortest_side


def test_shortest_side():
    boxes = np.array([(3, 3, 3, 3), (5, 5, 4, 4), (2, 0, 2, 9), (0, 0, 5, 4)], "float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(shortest_side(boxes)), [0, -1, 0, 4])


def test_clip_boxes():
    boxes = np.array([[(-5, -6, 70, 80), (60, 50, 90, 60), (1, 2, 3, 4)]], "float32")
    expected = [[(0, 0, 64, 48), (60, 48, 64, 48), (1, 2, 3, 4)]]
    np.testing.assert_array_equal(ops.convert_to_numpy(clip_boxes(boxes, (48, 64))), expected)
    sizes = np.array([[48.0]], "float32"), np.array([[64.0]], "float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(clip_boxes(boxes, sizes)), expected)
