import keras
import numpy as np
import pytest
from keras import layers, ops

from kvision.models.segmentation import UNet
from kvision.ops import border_weight_map


def parameters(**arguments):
    """Numbers of trainable and of other values."""
    with keras.StatelessScope(initialize_variables=False):  # shapes alone
        model = UNet(**arguments)
    numbers = (
        [v for v in model.non_trainable_variables if "seed_generator" not in v.path],
        model.trainable_variables,
    )
    others, trainable = (sum(np.prod(v.shape, dtype=int) for v in part) for part in numbers)
    return trainable, others


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"num_classes": 2}, (31_031_810, 0)),
        ({"num_classes": 21}, (31_033_045, 0)),
        ({"num_classes": 2, "input_channels": 1}, (31_030_658, 0)),
        ({"num_classes": 2, "batch_normalization": True}, (31_037_698, 11_776)),
    ],
    ids=str,
)
def test_published_parameters(padding, arguments, expected):
    assert parameters(padding=padding, **arguments) == expected


def test_published_trace():
    model = UNet(2, padding="valid", filters=1)
    side, sides = 572, []
    for block in model.contracting:
        sides.append(block.compute_output_shape((1, side, side, block.input_shape[-1]))[1])
        side = sides[-1] // 2
    assert sides == [568, 280, 136, 64, 28]
    side, sides = sides[-1], []
    for enlarge, block in zip(model.enlarging, model.expanding, strict=True):
        shape = enlarge.compute_output_shape((1, side, side, block.input_shape[-1]))
        side = block.compute_output_shape((1, *shape[1:3], block.input_shape[-1]))[1]
        sides.append((shape[1], side))
    assert sides == [(56, 52), (104, 100), (200, 196), (392, 388)]
    assert model.output_size((572, 572)) == (388, 388)
    assert model(np.zeros((1, 188, 204, 3), "float32")).shape == (1, 4, 20, 2)


@pytest.mark.parametrize(
    ("image", "logits"), [(188, 4), (252, 68), (316, 132), (444, 260), (508, 324), (700, 516)]
)
def test_published_sizes(image, logits):
    model = UNet(2, padding="valid", filters=1)
    assert model.output_size((image, 572)) == (logits, 388)
    spec = model.compute_output_spec(keras.KerasTensor((1, image, image, 3)))
    assert spec.shape == (1, logits, logits, 2)


def published(filters, num_classes, depth, side):
    """The network as the paper draws it, with crops of a stated border."""
    images = x = keras.Input((side, side, 3))
    x = layers.Rescaling(1 / 127.5, -1)(x)
    maps = []
    for level in range(depth + 1):
        for _ in range(2):
            x = layers.Conv2D(filters * 2**level, 3, activation="relu")(x)
        if level < depth:
            maps.append(x)
            x = layers.MaxPooling2D()(x)
    for level in reversed(range(depth)):
        x = layers.Conv2DTranspose(filters * 2**level, 2, strides=2)(x)
        border = (maps[level].shape[1] - x.shape[1]) // 2
        x = layers.Concatenate()([x, layers.Cropping2D(border)(maps[level])])
        for _ in range(2):
            x = layers.Conv2D(filters * 2**level, 3, activation="relu")(x)
    return keras.Model(images, layers.Conv2D(num_classes, 1)(x))


def test_it_is_the_published_network():
    model = UNet(3, padding="valid", filters=2, depth=3)
    other = published(2, 3, 3, side=8 * 9 + 28)
    weights = [weight for block in model.contracting for weight in block.get_weights()]
    for enlarge, block in zip(model.enlarging, model.expanding, strict=True):
        weights += enlarge.get_weights() + block.get_weights()
    other.set_weights([*weights, *model.classifier.get_weights()])
    images = np.random.default_rng(0).uniform(0, 255, (2, 100, 100, 3)).astype("float32")
    found, wanted = ops.convert_to_numpy(model(images)), ops.convert_to_numpy(other(images))
    assert found.shape == (2, 12, 12, 3)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (33, 47), (64, 65), (48, 32)])
def test_padded_images_of_any_size_come_back(size):
    model = UNet(4, filters=2)
    assert model(np.ones((1, *size, 3), "float32")).shape == (1, *size, 4)
    assert model.output_size(size) == size


def test_a_row_too_many_changes_nothing_far_from_it():
    """Maps of odd sizes stay where those of even sizes are."""
    model = UNet(2, filters=2, depth=2)
    images = np.random.default_rng(0).uniform(0, 255, (1, 80, 80, 3)).astype("float32")
    whole = ops.convert_to_numpy(model(images))
    for height, width in [(79, 80), (77, 75), (74, 79)]:
        part = ops.convert_to_numpy(model(images[:, :height, :width]))
        np.testing.assert_allclose(part[:, :50, :50], whole[:, :50, :50], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 500, 572, 3), r"16 k \+ 60 .* nearest to 500 are 492 and 508.*\(1, 500, 572, 3\)"),
        ((1, 572, 573, 3), "nearest to 573 are 572 and 588"),
        ((1, 187, 572, 3), "at least 188 pixels"),
    ],
)
def test_images_that_cannot_go_without_padding(shape, message):
    with pytest.raises(ValueError, match=message):
        UNet(2, padding="valid", filters=1)(np.zeros(shape, "float32"))


def test_grey_images():
    model = UNet(2, filters=1, depth=1, input_channels=1)
    assert model(np.zeros((1, 8, 8, 1), "float32")).shape == (1, 8, 8, 2)
    with pytest.raises(ValueError, match=r"shape \(batch, height, width, 1\)"):
        model(np.zeros((1, 8, 8, 3), "float32"))


def test_drawn_weights():
    model = UNet(2, filters=64, depth=1)
    for block, inputs in zip(model.contracting, (3, 64), strict=True):
        kernel = ops.convert_to_numpy(block.layers[0].kernel)
        assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * inputs)), rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": "reflect"}, "`padding` must be"),
        ({"filters": 0}, "`filters` must be at least 1"),
        ({"depth": 0}, "`depth` must be at least 1"),
        ({"input_channels": 0}, "`input_channels` must be at least 1"),
        ({"num_classes": 1}, "`num_classes` must be at least 2"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        UNet(**{"num_classes": 2, **arguments})


@pytest.mark.parametrize("arguments", [{"padding": "valid"}, {"input_channels": 1}], ids=str)
def test_what_is_not_served(arguments, tmp_path):
    model = UNet(2, filters=1, depth=1, image_size=20, **arguments)
    with pytest.raises(ValueError, match="`export` needs padding='same'"):
        model.export(tmp_path / "model")


def cells(number, side, seed=0):
    """Grey discs, some of which touch, on a dark ground: images and ids."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    instances = np.zeros((number, side, side), "int32")
    for ids in instances:
        for i in range(8):
            centre, radius = rng.uniform(0, side, 2), rng.uniform(side / 12, side / 6)
            ids[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = i + 1
        edge = (ids[1:] != ids[:-1]) & (ids[1:] > 0) & (ids[:-1] > 0)
        ids[1:][edge] = 0
    images = 60 + 90 * (instances > 0)[..., None] + rng.normal(0, 12, (number, side, side, 3))
    return images.astype("float32"), instances


def test_it_learns_cells_with_weights_of_their_borders():
    keras.utils.set_random_seed(0)
    images, instances = cells(4, 64)
    weights = ops.convert_to_numpy(border_weight_map(instances, sigma=2.0))
    assert weights.max() > 5
    model = UNet(2, filters=8, depth=3, dropout=0.0)
    model.compile(keras.optimizers.Adam(3e-3))
    labels = (instances > 0).astype("int32")
    history = model.fit(
        images, labels, sample_weight=weights, batch_size=4, epochs=30, verbose=0
    ).history
    assert history["loss"][-1] < history["loss"][0] / 5
    assert np.mean(model.predict(images, verbose=0)["labels"] == labels) > 0.97


def test_labels_and_weights_are_cropped_to_the_logits():
    side, lost = 36, 8
    images, instances = cells(2, side)
    weights = ops.convert_to_numpy(border_weight_map(instances))
    labels = (instances > 0).astype("int32")
    model = UNet(2, padding="valid", filters=2, depth=1)
    model.compile("sgd")
    results = model.evaluate(
        images, labels, sample_weight=weights, batch_size=2, verbose=0, return_dict=True
    )
    logits = ops.convert_to_numpy(model(images)).astype("float64")
    assert logits.shape == (2, side - 2 * lost, side - 2 * lost, 2)
    labels, weights = (a[:, lost:-lost, lost:-lost] for a in (labels, weights))
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    of_label = np.take_along_axis(log_probabilities, labels[..., None], axis=-1)[..., 0]
    assert results["loss"] == pytest.approx(-np.mean(weights * of_label), rel=1e-4)


def test_it_is_saved_and_loaded(tmp_path):
    model = UNet(
        3,
        padding="valid",
        filters=2,
        depth=2,
        batch_normalization=True,
        dropout=0.25,
        input_channels=1,
        normalize_pixels=False,
        ignore_class=None,
    )
    images = np.random.default_rng(0).uniform(0, 1, (1, 52, 48, 1)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(
        ops.convert_to_numpy(loaded(images)), ops.convert_to_numpy(model(images))
    )
