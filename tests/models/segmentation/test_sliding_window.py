"""Tiles against the whole image, with networks whose arithmetic is exact."""

import keras
import numpy as np
import pytest

from kvision.models.segmentation import predict_tiles
from kvision.models.segmentation.sliding_window import BLENDS


def whole_numbers(model, seed=0):
    """Small whole weights: every sum is exact in float32, whatever its order."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.integers(-2, 3, w.shape).astype("float32") for w in model.weights])
    return model


def convolutions(padding="same", depth=3, classes=4):
    """Receptive field 2 * depth + 1."""
    layers = [keras.layers.Conv2D(3, 3, padding=padding) for _ in range(depth - 1)]
    return whole_numbers(
        keras.Sequential(
            [
                keras.Input((None, None, 2)),
                *layers,
                keras.layers.Conv2D(classes, 3, padding=padding),
            ]
        )
    )


def strided():
    """Stride 4: pooled twice and repeated; a pixel sees up to 6 pixels beyond its 4 x 4 cell."""
    return whole_numbers(
        keras.Sequential(
            [
                keras.Input((None, None, 2)),
                keras.layers.MaxPooling2D(2),
                keras.layers.Conv2D(3, 3, padding="same"),
                keras.layers.MaxPooling2D(2),
                keras.layers.Conv2D(4, 3, padding="same"),
                keras.layers.UpSampling2D(4, interpolation="nearest"),
            ]
        )
    )


def picture(*size, seed=1):
    return np.random.default_rng(seed).integers(0, 4, (*size, 2)).astype("uint8")


def whole(model, image):
    logits = keras.ops.convert_to_numpy(model(image[None].astype("float32")))[0].astype("float64")
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return {"labels": logits.argmax(-1), "scores": (odds / odds.sum(-1, keepdims=True)).max(-1)}


def assert_equal(found, expected):
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=2e-6)
    assert found["labels"].dtype == np.int32
    assert found["scores"].dtype == np.float32


@pytest.mark.parametrize("size", [(16, 22), (37, 41), (50, 16), (61, 23)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_tiles_equal_the_whole_image_when_they_overlap_enough(size, batch_size):
    model, image = convolutions(), picture(*size)
    found = predict_tiles(model, image, tile_size=(16, 20), overlap=6, batch_size=batch_size)
    assert_equal(found, whole(model, image))


def test_one_pixel_of_overlap_less_is_not_enough():
    model, image = convolutions(), picture(60, 60)
    found = predict_tiles(model, image, tile_size=16, overlap=5)
    wrong = found["labels"] != whole(model, image)["labels"]
    assert wrong.any()
    assert wrong.mean() < 0.2


def test_a_strided_network_equals_the_whole_when_its_tiles_keep_the_grid():
    model, image = strided(), picture(64, 48)
    expected = whole(model, image)
    assert_equal(predict_tiles(model, image, tile_size=32, overlap=(16, 20)), expected)
    off = predict_tiles(model, image, tile_size=32, overlap=(15, 20))
    assert (off["labels"] != expected["labels"]).any()


@pytest.mark.parametrize("size", [(40, 31), (12, 50), (7, 9)])
@pytest.mark.parametrize("overlap", [0, 3])
def test_a_network_without_padding_sees_the_image_mirrored(size, overlap):
    model, image = convolutions("valid"), picture(*size)
    mirrored = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="reflect")
    found = predict_tiles(model, image, tile_size=18, overlap=overlap)
    assert_equal(found, whole(model, mirrored))


def test_smaller_images_are_taken_whole():
    model, image = convolutions(), picture(9, 30)
    found = predict_tiles(model, image, tile_size=(16, 18), overlap=6)
    assert_equal(found, whole(model, image))
    assert_equal(predict_tiles(model, image, tile_size=99, overlap=0), whole(model, image))


@pytest.mark.parametrize("blend", BLENDS)
def test_blends_are_weighted_means_of_logits(blend):
    """Against sums over whole images, from the definition."""
    size, tile, overlap = (31, 26), (12, 10), (5, 4)
    model, image = convolutions(), picture(*size)
    starts = [(0, 7, 14, 19), (0, 6, 12, 16)]

    def weight(length, index, all_starts, extent):
        inner = np.arange(length) + 0.5
        value = np.minimum(inner, length - inner)
        if blend == "gaussian":
            value = np.exp(-(((inner - length / 2) * 8 / length) ** 2) / 2)
        if blend == "interior":
            others = np.zeros((len(all_starts), extent))
            for other, start in enumerate(all_starts):
                others[other, start : start + length] = value
            here = slice(all_starts[index], all_starts[index] + length)
            value = (others.argmax(0) == index)[here]
        return value

    total, weights = np.zeros((*size, 4)), np.zeros((*size, 1))
    for i, top in enumerate(starts[0]):
        for j, left in enumerate(starts[1]):
            place = np.s_[top : top + tile[0], left : left + tile[1]]
            down, across = weight(12, i, starts[0], 31), weight(10, j, starts[1], 26)
            product = (down[:, None] * across)[..., None]
            logits = keras.ops.convert_to_numpy(model(image[place][None].astype("float32")))[0]
            total[place] += product * logits
            weights[place] += product
    logits = total / weights
    # Small enough for no probability to be 1.
    model = scaled(model, 0.01)
    odds = np.exp(logits * 0.01)
    found = predict_tiles(model, image, tile_size=tile, overlap=overlap, blend=blend)
    best = np.sort(logits, -1)
    clear = best[..., -1] - best[..., -2] > 1e-3
    np.testing.assert_array_equal(found["labels"][clear], logits.argmax(-1)[clear])
    expected = (odds / odds.sum(-1, keepdims=True)).max(-1)
    np.testing.assert_allclose(found["scores"], expected, rtol=1e-5)


def scaled(model, factor):
    return keras.Sequential([model, keras.layers.Rescaling(factor)])


def test_batches_memory_maps_and_plain_functions(tmp_path):
    images = np.memmap(tmp_path / "images", "uint8", "w+", shape=(2, 30, 40, 2))
    images[:] = picture(2, 30, 40)
    model, calls = convolutions(), []

    def function(tiles):
        calls.append(tuple(tiles.shape))
        return model(tiles)

    found = predict_tiles(function, images, tile_size=16, overlap=6, batch_size=4)
    assert set(calls) == {(1, 16, 16, 2), (4, 16, 16, 2)}
    assert found["labels"].shape == found["scores"].shape == (2, 30, 40)
    for k in range(2):
        one = {key: values[k] for key, values in found.items()}
        assert_equal(one, whole(model, np.asarray(images[k])))


def test_logits_are_decoded_a_row_of_tiles_at_a_time_by_the_models_own_rule():
    class Model:
        bands = []

        def __call__(self, tiles):
            return tiles[..., :1] * 0 + tiles

        def decode(self, logits):
            self.bands.append(tuple(logits.shape[1:3]))
            return {"labels": logits[..., 0] * 10, "scores": logits[..., 1] / 10}

    image = picture(100, 30)
    found = predict_tiles(Model(), image, tile_size=20, overlap=4)
    np.testing.assert_array_equal(found["labels"], image[..., 0].astype(int) * 10)
    np.testing.assert_allclose(found["scores"], image[..., 1] / 10)
    assert Model.bands == [(16, 30)] * 5 + [(20, 30)]


def test_one_logit_is_of_the_foreground():
    def model(tiles):
        return tiles[..., :1] - 1.5

    image = picture(5, 6)
    found = predict_tiles(model, image, tile_size=8, overlap=0)
    np.testing.assert_array_equal(found["labels"], image[..., 0] > 1)
    distance = np.abs(image[..., 0] - 1.5)
    np.testing.assert_allclose(found["scores"], 1 / (1 + np.exp(-distance)), rtol=1e-6)


def test_a_list_of_images_and_none():
    model, images = convolutions(), picture(2, 20, 24)
    arguments = {"tile_size": 16, "overlap": 6}
    assert_equal(
        predict_tiles(model, list(images), **arguments), predict_tiles(model, images, **arguments)
    )
    nothing = predict_tiles(model, images[:0], **arguments)
    assert {key: (value.shape, value.dtype.name) for key, value in nothing.items()} == {
        "labels": ((0, 20, 24), "int32"),
        "scores": ((0, 20, 24), "float32"),
    }


def test_progress_is_shown_for_many_tiles(capsys):
    model = convolutions()
    predict_tiles(model, picture(20, 20), tile_size=16, overlap=0)
    assert not capsys.readouterr().out
    predict_tiles(model, picture(64, 64), tile_size=16, overlap=0)
    assert "16/16" in capsys.readouterr().out
    predict_tiles(model, picture(64, 64), tile_size=16, overlap=0, verbose=False)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile_size": (8, 0)}, r"`tile_size` must be an int or .* Received: \(8, 0\)"),
        ({"tile_size": "big"}, "`tile_size` must be"),
        ({"overlap": -1}, "`overlap` must be an int or .*at least 0"),
        ({"overlap": 16}, "`overlap` must be less than what a tile gives, 16 pixels. Received: 16"),
        ({"blend": "mean"}, "`blend` must be one of .*Received: 'mean'"),
        ({"batch_size": 0}, "`batch_size` must be positive"),
        ({"images": [picture(8, 8), picture(8, 9)]}, "a list of `images` must have one size"),
        ({"images": []}, r"`images` must have shape .*Received: \(0,\)"),
        ({"images": np.zeros((4, 4))}, r"`images` must have shape .*Received: \(4, 4\)"),
        ({"model": lambda tiles: tiles[..., 0]}, "`model` must give logits"),
        ({"model": lambda tiles: tiles[:, 1:]}, "`model` must give logits"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    usual = {"model": convolutions(), "images": picture(64, 64), "tile_size": 16, "overlap": 2}
    with pytest.raises(ValueError, match=f"predict_tiles: {message}"):
        predict_tiles(**usual | arguments)
