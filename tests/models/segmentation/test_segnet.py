from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.backbones import VGG
from kvision.models.segmentation import SegNet, SegNetBasic
from kvision.testing import to_numpy

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "segnet.npz")


def small_segnet():
    return SegNet(5, depths=(1, 2, 3), widths=(6, 8, 10))


def small_basic():
    return SegNetBasic(5, filters=7, num_stages=3, kernel_size=5)


def maps_of(model, images, *names):
    """What the layers of those names give; the first thing, of those that give several."""
    layers = (model.network.get_layer(name) for name in names)
    outputs = [keras.tree.flatten(layer.output)[0] for layer in layers]
    found = keras.Model(model.network.input, outputs)(images)
    return [to_numpy(one) for one in keras.tree.flatten(found)]


# The fact sheet's counts of the official networks.
@pytest.mark.parametrize(
    ("model", "num_classes", "trainable", "others"),
    [
        (SegNet, 11, 29_449_355, 15_872),
        (SegNet, 12, 29_449_932, 15_872),
        (SegNet, 21, 29_455_125, 15_872),
        (SegNet, 37, 29_464_357, 15_872),
        (SegNetBasic, 11, 1_416_587, 1_024),
        (SegNetBasic, 12, 1_416_652, 1_024),
    ],
)
def test_the_published_parameters(model, num_classes, trainable, others):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone
        model = model(num_classes)
    for variables, number in (
        (model.trainable_variables, trainable),
        (model.non_trainable_variables, others),
    ):
        assert sum(np.prod(v.shape, dtype=int) for v in variables) == number


@pytest.mark.parametrize(
    ("name", "make"), [("segnet", small_segnet), ("segnet_basic", small_basic)]
)
def test_the_logits_of_pytorch(name, make):
    model = make()
    for layer in model.network.layers:
        for variable in layer.weights:
            variable.assign(GOLDEN[f"{name}/{layer.name}/{variable.name}"])
    logits = to_numpy(model(GOLDEN["images"], training=False))
    golden = GOLDEN[f"{name}/logits"]
    np.testing.assert_allclose(logits, golden, 0, 2e-5 * np.abs(golden).max())


def test_the_sizes_of_the_paper():
    images = np.random.default_rng(0).uniform(0, 255, (1, 360, 480, 3)).astype("float32")
    model = SegNet(11, depths=(1, 1, 1, 1, 1), widths=(2, 2, 2, 2, 2))
    names = [f"encoder{i}_pool" for i in range(1, 6)] + [
        f"decoder{i}_conv1" for i in range(5, 1, -1)
    ]
    sizes = [m.shape[1:3] for m in maps_of(model, images, *names, "logits")]
    down = [(180, 240), (90, 120), (45, 60), (23, 30), (12, 15)]
    assert sizes == [*down, *down[-2::-1], (360, 480)]
    model = SegNetBasic(11, filters=2)
    names = [f"encoder{i}_pool" for i in range(1, 5)] + [
        f"decoder{i}_conv" for i in range(4, 0, -1)
    ]
    sizes = [m.shape[1:3] for m in maps_of(model, images, *names)]
    assert sizes == [*down[:4], *down[2::-1], (360, 480)]


def test_values_return_to_where_they_were_pooled():
    images = np.random.default_rng(1).uniform(0, 255, (2, 11, 14, 3)).astype("float32")
    model = small_basic()
    before, pooled, values, after = maps_of(
        model, images, "encoder1_relu", "encoder1_pool", "decoder2_norm", "encoder1_unpool"
    )
    height, width = before.shape[1:3]
    assert pooled.shape == values.shape == (2, 6, 7, 7)
    expected = np.zeros_like(after)
    for image, i, j, channel in np.ndindex(pooled.shape):
        window = before[image, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, channel]
        y, x = np.unravel_index(np.argmax(window), window.shape)
        assert window[y, x] == pooled[image, i, j, channel]
        expected[image, 2 * i + y, 2 * j + x, channel] = values[image, i, j, channel]
    assert expected.shape == (2, height, width, 7)
    np.testing.assert_array_equal(after, expected)


def test_the_initial_values():
    model = small_segnet()
    norms = [x for x in model.network.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == 6 + 5
    for layer in norms:
        assert layer.momentum == 0.9
        np.testing.assert_array_equal(to_numpy(layer.gamma), 1)
        np.testing.assert_allclose(to_numpy(layer.beta), 0.001)
    kernel = to_numpy(SegNet(5).network.get_layer("encoder3_conv2").kernel)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 256)), 0.01)


def test_the_decoder_of_basic_has_no_relu():
    relus = [layer.name for layer in small_basic().network.layers if "relu" in layer.name]
    assert relus == ["encoder1_relu", "encoder2_relu", "encoder3_relu"]


def test_an_encoder_of_vgg():
    depths, widths = (1, 1, 2, 1, 1), (4, 4, 6, 6, 8)
    vgg = VGG(depths, widths=widths)
    model = SegNet(3, depths=depths, widths=widths)
    model.load_encoder(vgg)
    for own, other in (("encoder1_conv1", "stage1_conv1"), ("encoder3_conv2", "stage3_conv2")):
        for a, b in zip(
            model.network.get_layer(own).weights, vgg.get_layer(other).weights, strict=True
        ):
            np.testing.assert_array_equal(to_numpy(a), to_numpy(b))
    # Both standardise the pixels alike: before any normalisation the maps are the same.
    images = np.random.default_rng(2).uniform(0, 255, (1, 33, 33, 3)).astype("float32")
    (first,) = maps_of(model, images, "encoder1_conv1")
    np.testing.assert_allclose(np.maximum(first, 0), to_numpy(vgg(images)["P0"]), 1e-5, 1e-5)
    with pytest.raises(ValueError, match=r"SegNet: `vgg` must have depths \(2, 2, 3, 3, 3\)"):
        SegNet(3).load_encoder(vgg)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="SegNet: `depths` and `widths` must have one positive"):
        SegNet(3, depths=(1, 2), widths=(4,))
    with pytest.raises(ValueError, match="SegNetBasic: `filters`, `num_stages` and"):
        SegNetBasic(3, num_stages=0)
    with pytest.raises(ValueError, match="`num_classes` must be at least 2"):
        SegNetBasic(1)
