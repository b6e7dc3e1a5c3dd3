"""Anchors against the figures of torchvision's generator."""

import numpy as np
import pytest

from kvision.boxes import cell_anchors, grid_anchors, pyramid_anchors

RATIOS = (0.5, 1.0, 2.0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (16, [(-11, -6, 11, 6), (-8, -8, 8, 8), (-6, -11, 6, 11)]),
        (32, [(-23, -11, 23, 11), (-16, -16, 16, 16), (-11, -23, 11, 23)]),
        (64, [(-45, -23, 45, 23), (-32, -32, 32, 32), (-23, -45, 23, 45)]),
        (128, [(-91, -45, 91, 45), (-64, -64, 64, 64), (-45, -91, 45, 91)]),
        (256, [(-181, -91, 181, 91), (-128, -128, 128, 128), (-91, -181, 91, 181)]),
        (512, [(-362, -181, 362, 181), (-256, -256, 256, 256), (-181, -362, 181, 362)]),
    ],
)
def test_cell_anchors_are_torchvisions(size, expected):
    np.testing.assert_array_equal(cell_anchors((size,), RATIOS), expected)


def test_cell_anchors_are_ratio_major():
    expected = [
        *[(-23, -11, 23, 11), (-28, -14, 28, 14), (-35, -18, 35, 18)],
        *[(-16, -16, 16, 16), (-20, -20, 20, 20), (-25, -25, 25, 25)],
        *[(-11, -23, 11, 23), (-14, -28, 14, 28), (-18, -35, 18, 35)],
    ]
    np.testing.assert_array_equal(cell_anchors((32, 40, 50), RATIOS), expected)


def test_grid_is_ordered_by_row_column_anchor():
    cell = cell_anchors((16,), RATIOS)
    anchors = grid_anchors((3, 4), (16, 16), cell)
    assert anchors.shape == (36, 4)
    assert anchors.dtype == np.float32
    np.testing.assert_array_equal(anchors[:3], cell)
    np.testing.assert_array_equal(anchors[3:6], cell + [16, 0, 16, 0])
    np.testing.assert_array_equal(anchors[12:15], cell + [0, 16, 0, 16])
    np.testing.assert_array_equal(anchors[-1], (42, 21, 54, 43))


def test_pyramid_counts_and_strides():
    sizes = ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21))
    levels = pyramid_anchors((800, 1344), sizes, ((32,), (64,), (128,), (256,), (512,)), RATIOS)
    assert [len(level) for level in levels] == [201600, 50400, 12600, 3150, 819]
    # The stride is side // cells: 800 // 13 = 61, not 64, as in torchvision.
    np.testing.assert_array_equal(levels[4][21 * 3] - levels[4][0], (0, 61, 0, 61))
    np.testing.assert_array_equal(levels[4][3] - levels[4][0], (64, 0, 64, 0))


def test_pyramid_anchors_cannot_be_changed():
    (level,) = pyramid_anchors((32, 32), ((2, 2),), ((16,),), RATIOS)
    with pytest.raises(ValueError, match="read-only"):
        level[0] = 0
