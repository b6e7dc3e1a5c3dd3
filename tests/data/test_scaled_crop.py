"""Windows at random scales: where they are, read from images that hold their own coordinates."""

import keras
import numpy as np
import pytest

from kvision.data import RandomScaledCrop, augment

HEIGHT, WIDTH = 40, 60


def coordinates(count):
    """Images of rows and columns in pixels from the edge, and of 1."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    image = np.stack([rows, columns, np.ones_like(rows)], -1).astype("float32")
    return np.repeat(image[None], count, 0)


def windows(count, *arguments, **options):
    layer = RandomScaledCrop(*arguments, seed=1, **options)
    return augment([layer])({"images": coordinates(count)})["images"]


def scales_and_places(crops):
    """Scale and the place of the window in the scaled image, by the middle of what it shows."""
    found = []
    for crop in crops:
        inside = crop[..., 2] > 1 - 1e-4
        rows, columns = np.nonzero(inside)
        y, x = rows[len(rows) // 2], columns[len(rows) // 2]
        assert inside[y, x + 1]
        step = crop[y, x + 1, 1] - crop[y, x, 1]
        found.append((1 / step, crop[y, x, 0] / step - y - 0.5, crop[y, x, 1] / step - x - 0.5))
    return np.array(found)


def test_scales_are_uniform_and_windows_lie_within_the_image():
    scale, top, left = scales_and_places(windows(120, 20, 20, (0.5, 2.0))).T
    assert 0.5 <= scale.min() < 0.6
    assert 1.9 < scale.max() <= 2.001
    assert abs(scale.mean() - 1.25) < 4 * 1.5 / np.sqrt(12 * 120)
    for place, size in ((top, HEIGHT), (left, WIDTH)):
        room = size * scale - 20
        part = place[room > 1] / room[room > 1]
        assert -0.01 < part.min() < 0.08
        assert 0.92 < part.max() < 1.01
        assert abs(part.mean() - 0.5) < 4 / np.sqrt(12 * 120)
    assert np.abs(np.corrcoef(top / (HEIGHT * scale - 20), left / (WIDTH * scale - 20))[0, 1]) < 0.4


def test_a_smaller_image_is_wholly_within_the_window_at_any_place():
    crops = windows(60, 80, 100, (0.5, 1.2), fill_value=-7.0)
    scale, top, left = scales_and_places(crops).T
    for place, size, window in ((top, HEIGHT, 80), (left, WIDTH, 100)):
        room = window - size * scale
        part = -place / room
        assert -0.01 < part.min() < 0.12
        assert 0.88 < part.max() < 1.01
    covered = (crops[..., 2] > 0.5).sum((1, 2)) / (HEIGHT * WIDTH * scale**2)
    np.testing.assert_allclose(covered, 1, atol=0.12)
    np.testing.assert_allclose(crops[crops[..., 2] < -6.999], -7, atol=0.1)


def test_scale_one_moves_by_parts_of_pixels_and_keeps_the_values():
    crops = windows(4, 30, 30, (1.0, 1.0))
    np.testing.assert_allclose(np.diff(crops[..., 0], axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(np.diff(crops[..., 1], axis=2), 1, atol=1e-4)


def test_called_like_any_layer_without_training_it_takes_the_middle():
    layer = RandomScaledCrop(20, 30)
    crop = keras.ops.convert_to_numpy(layer(coordinates(1), training=False))
    np.testing.assert_allclose(crop, coordinates(1)[:, 10:30, 15:45], atol=1e-4)


def test_bad_arguments_are_refused():
    for scale in ((0, 1), (2.0, 1.0), (1.0,)):
        with pytest.raises(ValueError, match="RandomScaledCrop: `scale` must be"):
            RandomScaledCrop(8, 8, scale)
    with pytest.raises(ValueError, match="RandomScaledCrop: images must be channels last"):
        RandomScaledCrop(8, 8, data_format="channels_first")
    with pytest.raises(NotImplementedError, match="boxes are moved by `kvision.data.augment`"):
        RandomScaledCrop(8, 8).transform_bounding_boxes({}, None)
