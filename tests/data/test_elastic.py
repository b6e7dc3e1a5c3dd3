"""Elastic deformation: Keras' layer, one field for images and masks."""

import keras
import numpy as np
import pytest

from kvision.data import as_dataset, augment
from kvision.data.elastic import deform, draw_displacements

Layer = keras.layers.RandomElasticTransform
HEIGHT, WIDTH = 60, 80


def grid(count):
    """Images that hold their own rows and columns, masks that hold their pixels' numbers."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype("float32")
    images = np.stack([rows, columns, 0 * rows], -1)
    numbers = np.arange(HEIGHT * WIDTH, dtype="int32").reshape(HEIGHT, WIDTH, 1)
    batch = {
        "images": images,
        "segmentation_masks": numbers,
        "pixel_weights": numbers.astype("float32") + 1,
    }
    return {key: np.repeat(value[None], count, 0) for key, value in batch.items()}


def by_dataset(function, batch):
    """Through ``tf.data``, which does not know the size of the batch."""
    pytest.importorskip("tensorflow")
    (result,) = as_dataset(batch, len(batch["images"])).map(function).as_numpy_iterator()
    return result


def by_numpy(function, batch):
    return function(batch)


@pytest.fixture(params=[by_numpy, by_dataset])
def run(request):
    return request.param


@pytest.mark.parametrize("fill_mode", ["constant", "nearest"])
def test_masks_follow_the_field_of_their_image(run, fill_mode):
    layer = Layer(factor=(1, 1), scale=(0.4, 0.4), fill_mode=fill_mode, fill_value=200.0, seed=3)
    after = run(augment([layer], ignore_label=-1), grid(3))
    rows, columns = after["images"][..., 0], after["images"][..., 1]
    masks = after["segmentation_masks"][..., 0]
    if fill_mode == "nearest":
        assert masks.min() >= 0
    mixed = after["images"][..., 2] > 0  # with what was filled
    assert mixed.any() == (fill_mode == "constant")
    assert (masks < 0).sum() <= mixed.sum()
    inside = (masks >= 0) & ~mixed
    assert np.abs(masks // WIDTH - rows)[inside].max() <= 0.5 + 1e-3
    assert np.abs(masks % WIDTH - columns)[inside].max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(after["pixel_weights"][..., 0], masks + 1)
    moved = np.abs(masks - grid(1)["segmentation_masks"][..., 0]) > 0
    assert moved.mean() > 0.5
    assert (masks[0] != masks[1]).any()


def test_the_seed_sets_the_field():
    def masks(seed):
        return augment([Layer(scale=(0.5, 0.5), factor=(1, 1), seed=seed)])(grid(2))[
            "segmentation_masks"
        ]

    np.testing.assert_array_equal(masks(1), masks(1))
    assert (masks(1) != masks(2)).any()


def test_each_call_draws_anew():
    function = augment([Layer(scale=(0.5, 0.5), factor=(1, 1), seed=1)])
    one, other = (function(grid(1))["segmentation_masks"] for _ in range(2))
    assert (one != other).any()


def test_the_factor_is_the_part_of_images_that_are_deformed():
    after = augment([Layer(factor=(0.3, 0.3), scale=(0.5, 0.5), seed=1)])(grid(60))
    still = (after["segmentation_masks"] == grid(1)["segmentation_masks"]).all((1, 2, 3))
    assert 30 <= still.sum() <= 54  # 42 expected, 3.5 standard deviations
    for layer in (Layer(factor=0.0), Layer(scale=0.0)):
        unmoved = augment([layer])(grid(1))
        np.testing.assert_array_equal(unmoved["images"], grid(1)["images"])


def test_displacements_have_the_documented_strength_and_are_independent():
    layer = Layer()
    factor, size = 0.5, (120, 160)
    sampled = {
        "apply_transform": np.array([True] * 8 + [False]),
        "distortion_factor": np.float32(factor),
        "seed": keras.random.SeedGenerator(5),
    }
    field = keras.ops.convert_to_numpy(draw_displacements(layer, sampled, (9, *size)))
    assert field.shape == (9, *size, 2)
    assert not field[8].any()
    sigma, alpha = 0.05 * factor * size[0], 0.1 * factor * size[1]
    inner = field[:8, 12:-12, 12:-12]
    deviation = inner.std((0, 1, 2))
    np.testing.assert_allclose(deviation, alpha / (2 * np.sqrt(np.pi)), rtol=0.06)
    across = np.corrcoef(inner[..., 0].ravel(), inner[..., 1].ravel())[0, 1]
    assert abs(across) < 0.08
    # White noise blurred by a Gaussian is correlated as exp(-(d / 2 sigma) ** 2).
    for axis, distance in ((1, 3), (2, 6)):
        near, far = np.take(inner, range(60), axis), np.take(inner, np.arange(60) + distance, axis)
        found = np.corrcoef(near.ravel(), far.ravel())[0, 1]
        assert abs(found - np.exp(-((distance / (2 * sigma)) ** 2))) < 0.06


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    ("fill_mode", "scipys"),
    [
        ("constant", "grid-constant"),
        ("nearest", "nearest"),
        ("reflect", "reflect"),
        ("mirror", "mirror"),
        ("wrap", "grid-wrap"),
    ],
)
def test_pixels_are_taken_as_scipy_takes_them(fill_mode, scipys, order):
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(0)
    values = rng.random((2, 7, 9, 2)).astype("float32")
    field = (rng.random((2, 7, 9, 2)) * 40 - 20).astype("float32")
    backend = Layer().backend
    found = deform(
        keras.ops.convert_to_tensor(values),
        keras.ops.convert_to_tensor(field),
        backend,
        interpolation=("nearest", "bilinear")[order],
        fill_mode=fill_mode,
        fill_value=0.25,
    )
    rows, columns = np.mgrid[:7, :9]
    for b in range(2):
        places = [rows + field[b, ..., 0], columns + field[b, ..., 1]]
        for c in range(2):
            expected = ndimage.map_coordinates(
                values[b, ..., c], places, order=order, mode=scipys, cval=0.25
            )
            np.testing.assert_allclose(found[b, ..., c], expected, atol=2e-5)
