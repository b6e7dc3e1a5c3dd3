from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.ops import multiscale_roi_align, native, roi_align
from kvision.testing import to_numpy, vjp

GOLDEN = Path(__file__).parents[1] / "golden" / "roi_align.npz"
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


@pytest.fixture(params=["native", "reference"])
def implementation(request):
    if request.param == "native" and not ON_TENSORFLOW:
        pytest.skip("native ops run on the TensorFlow backend")
    with native.implementation(request.param):
        yield request.param


def waves(size, frequency):
    return np.sin(np.arange(size**2) * frequency + 0.2).astype("float32").reshape(1, size, size, 1)


def constant_pyramid(levels=(2, 3, 4, 5)):
    """Maps that hold their level's number, so that a result says which map was read."""
    return {f"P{k}": np.full((1, 2**5 >> k, 2**5 >> k, 1), k, dtype="float32") for k in levels}


def level_read(side, pyramid=None, **kwargs):
    boxes = np.array([[(0, 0, side, side)]], dtype="float32")
    pyramid = pyramid or constant_pyramid()
    # One sample, in the middle of a box that is scaled down to lie on a map of any size.
    strides = {name: 1e4 for name in pyramid}
    result = multiscale_roi_align(
        pyramid, boxes, output_size=1, sampling_ratio=1, strides=strides, **kwargs
    )
    return float(to_numpy(result).item())


def test_worked_example(implementation):
    sizes, frequencies = (16, 8, 4, 2), (0.37, 0.51, 0.73, 0.9)
    pyramid = {
        f"P{level}": waves(size, frequency)
        for level, size, frequency in zip((2, 3, 4, 5), sizes, frequencies, strict=True)
    }
    boxes = np.array([[(4, 4, 30, 28), (0, 0, 64, 64), (10, 20, 60, 63)]], dtype="float32")
    result = multiscale_roi_align(pyramid, boxes, output_size=2, sampling_ratio=2, aligned=False)
    expected = [
        (0.232711, 0.895085, -0.659825, 0.329451),
        (0.124386, -0.025202, -0.246756, 0.15351),
        (-0.359651, 0.703338, -0.453304, -0.107962),
    ]
    np.testing.assert_allclose(to_numpy(result).reshape(3, 4), expected, 0, 1e-6)


@pytest.mark.parametrize(
    ("side", "level"),
    [(0, 2), (1, 2), (55.9, 2), (56, 2), (111.9, 2), (112, 3), (223.99, 3), (224, 4), (447, 4)]
    + [(448, 5), (1000, 5), (1e4, 5)],
)
def test_level_of_a_box(implementation, side, level):
    assert level_read(side) == level


def test_levels_are_those_of_the_pyramid(implementation):
    assert level_read(56, constant_pyramid((3, 4))) == 3
    assert level_read(1000, constant_pyramid((4, 3))) == 4
    assert level_read(112, canonical_size=112) == 4
    assert level_read(112, canonical_size=112, canonical_level=3) == 3


def test_eight_levels(implementation):
    pyramid = {f"P{k}": np.full((1, 1, 1, 1), k, dtype="float32") for k in range(8)}
    assert level_read(1000, pyramid) == 6


def test_reversed_and_empty_boxes_take_a_level(implementation):
    boxes = np.array([[(900, 0, 0, 900), (5, 5, 5, 900), (900, 900, 0, 0)]], dtype="float32")
    pyramid = {name: np.ones((1, 4, 4, 1), "float32") * int(name[1]) for name in ("P2", "P3")}
    result = multiscale_roi_align(
        pyramid, boxes, output_size=1, sampling_ratio=1, strides={"P2": 1000, "P3": 1000}
    )
    np.testing.assert_allclose(to_numpy(result).ravel(), (2, 2, 3), 1e-6)


def test_torchvision(implementation):
    golden = np.load(GOLDEN)
    pyramid = {f"P{level}": golden[f"pyramid/P{level}"] for level in (2, 3, 4, 5)}

    def function(pyramid):
        return multiscale_roi_align(
            pyramid,
            golden["pyramid/boxes"],
            output_size=(3, 2),
            sampling_ratio=2,
            aligned=False,
            canonical_size=48,
        )

    output, gradients = vjp(function, pyramid, golden["pyramid/output_gradient"])
    np.testing.assert_allclose(output, golden["pyramid/output"], 0, 1e-5)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, golden[f"pyramid/{name}/gradient"], 0, 1e-5)


def test_each_box_is_pooled_as_from_its_level_alone(implementation):
    rng = np.random.default_rng(1)
    pyramid = {
        name: rng.normal(size=(2, size, size, 3)).astype("float32")
        for name, size in (("P3", 8), ("P4", 4))
    }
    boxes = np.array([[(0, 0, 50, 50), (10, 10, 300, 280)]] * 2, dtype="float32")
    result = multiscale_roi_align(pyramid, boxes, output_size=3, strides={"P3": 12, "P4": 20})
    for index, (name, stride) in enumerate((("P3", 12), ("P4", 20))):
        one = roi_align(
            pyramid[name], boxes[:, index : index + 1], output_size=3, spatial_scale=1 / stride
        )
        np.testing.assert_allclose(to_numpy(result)[:, index], to_numpy(one)[:, 0], 0, 1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pyramid": {}}, "`pyramid` must have successive levels"),
        ({"pyramid": constant_pyramid((2, 4))}, "`pyramid` must have successive levels"),
        ({"pyramid": {"C2": np.ones((1, 2, 2, 1))}}, "`pyramid` must have successive levels"),
        ({"pyramid": {"P2": np.ones((2, 2, 1))}}, r"`pyramid\['P2'\]` must have shape"),
        (
            {"pyramid": {"P2": np.ones((1, 2, 2, 1)), "P3": np.ones((1, 2, 2, 2))}},
            "the same channels and dtype",
        ),
        (
            {"pyramid": {f"P{k}": np.ones((1, 1, 1, 1), "float32") for k in range(9)}},
            "`pyramid` must have at most 8 levels. Received: 9",
        ),
        ({"boxes": np.ones((1, 2, 5))}, "`boxes` must have shape"),
        ({"boxes": np.ones((2, 2, 4))}, "the same batch size"),
        ({"strides": {"P2": 4, "P3": 8}}, "`strides` must name every level"),
        ({"strides": {f"P{k}": 0 for k in (2, 3, 4, 5)}}, "`strides` must be positive"),
        ({"canonical_size": 0}, "`canonical_size` must be positive"),
        ({"output_size": -2}, "`output_size` must be"),
        ({"sampling_ratio": -1}, "`sampling_ratio` must be"),
    ],
)
def test_wrong_arguments(implementation, changes, message):
    arguments = {
        "pyramid": constant_pyramid(),
        "boxes": np.ones((1, 2, 4), "float32"),
        "output_size": 2,
        **changes,
    }
    with pytest.raises(ValueError, match="multiscale_roi_align: .*" + message):
        multiscale_roi_align(arguments.pop("pyramid"), arguments.pop("boxes"), **arguments)


def test_functional_model(implementation, tmp_path):
    pyramid = {name: keras.Input((None, None, 3)) for name in ("P2", "P3")}
    boxes = keras.Input((5, 4))
    output = multiscale_roi_align(
        pyramid, boxes, output_size=2, strides={"P2": 4, "P3": 8}, sampling_ratio=1
    )
    assert output.shape == (None, 5, 2, 2, 3)
    model = keras.Model([pyramid, boxes], output)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    rng = np.random.default_rng(2)
    maps = {
        name: rng.normal(size=(1, size, size, 3)).astype("float32")
        for name, size in (("P2", 8), ("P3", 4))
    }
    boxes = rng.uniform(0, 30, (1, 5, 4)).astype("float32")
    expected = multiscale_roi_align(maps, boxes, output_size=2, sampling_ratio=1)
    np.testing.assert_allclose(to_numpy(loaded([maps, boxes])), to_numpy(expected), 1e-6)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="Keras refuses native layers, not ops, by itself")
def test_functional_model_compiled_by_xla():
    """It learns as without XLA, where the native kernels run."""
    rng = np.random.default_rng(3)
    maps = {
        name: rng.normal(size=(2, size, size, 3)).astype("float32")
        for name, size in (("P2", 8), ("P3", 4))
    }
    boxes = rng.uniform(0, 30, (2, 5, 4)).astype("float32")
    losses = {}
    for jit_compile in (True, False):
        keras.utils.set_random_seed(0)
        pyramid = {name: keras.Input(value.shape[1:]) for name, value in maps.items()}
        dense = keras.layers.Dense(3)
        inputs = keras.Input((5, 4))
        pooled = multiscale_roi_align(
            {name: dense(value) for name, value in pyramid.items()}, inputs, output_size=2
        )
        model = keras.Model([pyramid, inputs], pooled)
        model.compile("sgd", "mse", jit_compile=jit_compile)
        assert model.jit_compile == jit_compile
        history = model.fit([maps, boxes], np.ones((2, 5, 2, 2, 3)), epochs=3, verbose=0)
        losses[jit_compile] = history.history["loss"]
    np.testing.assert_allclose(losses[True], losses[False], 1e-5)
