"""The identity: a dense net holds the strided net's map, from border to border."""

import keras
import numpy as np
import pytest
from keras import layers

from kvision.backbones import ResNet, to_atrous
from tests.backbones.random_weights import randomize
from tests.backbones.small_nets import (
    NETS,
    conv,
    focus_and_blocks,
    pools_and_valid_convolutions,
    residual_of_unequal_windows,
    same_everywhere,
    windows_smaller_than_strides,
)

BACKEND = keras.backend.backend()
# float64 is an option of JAX, and Keras' convolutions are of float32 on PyTorch.
FLOAT, TOLERANCE = ("float64", 1e-10) if BACKEND == "tensorflow" else ("float32", 1e-5)
# JAX compiles for every size.
HEIGHTS = (33, 36, 38, 40) if BACKEND == "tensorflow" else (36, 39)


@pytest.fixture(autouse=True)
def _precision():
    before = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_dtype_policy(FLOAT)
    keras.config.set_floatx(FLOAT)
    yield
    keras.config.set_dtype_policy(before[0])
    keras.config.set_floatx(before[1])


def image(height, width=None, seed=1, batch=1):
    shape = (batch, height, width or height, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(FLOAT)


def run(model, x):
    return keras.ops.convert_to_numpy(model(x))


def assert_holds(dense, strided, step):
    """The strided map stands on every `step`-th position of the dense one, and is not trivial."""
    assert 1e-2 < strided.std() < 1e2
    scale = np.abs(strided).max() if FLOAT == "float32" else 1
    np.testing.assert_allclose(dense[:, ::step, ::step], strided, rtol=0, atol=TOLERANCE * scale)


# The side of the image, of the strided map, and of the dense ones of output stride 1, 8, 16 where
# they end with the last whole window.
TABLE = {
    "VGG16": (64, 2, {1: 33, 8: 5, 16: 3}),
    "ResNet50": (64, 2, {1: 64, 8: 8, 16: 4}),
    "InceptionV3": (91, 1, {1: 17, 8: 3, 16: 2}),
    "Xception": (71, 3, {1: 65, 8: 9, 16: 5}),
    "MobileNet": (64, 2, {1: 33, 8: 5, 16: 3}),
    "MobileNetV2": (64, 2, {1: 33, 8: 5, 16: 3}),
    "DenseNet121": (64, 2, {1: 36, 8: 5, 16: 3}),
}
QUICK = {("MobileNetV2", 8), ("InceptionV3", 8), ("VGG16", 16)}
CASES = [
    pytest.param(*case, marks=[] if case in QUICK else pytest.mark.conformance)
    for name in TABLE
    for case in [(name, output_stride) for output_stride in TABLE[name][2]]
]


@pytest.mark.skipif(FLOAT != "float64", reason="the table is in float64")
@pytest.mark.parametrize(("name", "output_stride"), CASES)
def test_published_nets_unmodified(name, output_stride):
    side, strided_side, dense_sides = TABLE[name]
    build = getattr(keras.applications, name)
    model = randomize(build(weights=None, include_top=False, input_shape=(side, side, 3)))
    x = image(side)
    expected = run(model, x)
    step = 32 // output_stride
    assert expected.shape[1:3] == (strided_side, strided_side)

    whole_windows = run(to_atrous(model, output_stride, full_size=False), x)
    assert whole_windows.shape[1:3] == (dense_sides[output_stride],) * 2
    assert_holds(whole_windows, expected, step)
    if output_stride > 1:
        full = run(to_atrous(model, output_stride), x)
        assert full.shape[1:3] == (strided_side * step,) * 2
        assert_holds(full, expected, step)


def small(net, size=(None, None)):
    inputs = keras.Input((*size, 3))
    return randomize(keras.Model(inputs, net(inputs)))


@pytest.mark.parametrize("full_size", [True, False])
@pytest.mark.parametrize("output_stride", [1, 4])
@pytest.mark.parametrize("net", NETS)
def test_identity_at_every_size(net, output_stride, full_size):
    model = small(net)
    dense = to_atrous(model, output_stride, full_size=full_size)
    for height in HEIGHTS:
        x = image(height, 73 - height)
        expected = run(model, x)
        result = run(dense, x)
        step = (12 if net is windows_smaller_than_strides else 8) // output_stride
        assert_holds(result, expected, step)
        for strided, size in zip(expected.shape[1:3], result.shape[1:3], strict=True):
            assert (strided - 1) * step < size <= strided * step
            assert not full_size or size == strided * step
        assert np.isfinite(result).all()


@pytest.mark.parametrize("full_size", [True, False])
@pytest.mark.parametrize("output_stride", [1, 2])
def test_layers_made_of_layers_and_slices(output_stride, full_size):
    model = small(focus_and_blocks)
    dense = to_atrous(model, output_stride, full_size=full_size)
    for height, width in ((32, 40), (38, 44)):
        x = image(height, width)
        assert_holds(run(dense, x), run(model, x), 8 // output_stride)


def test_positions_between_are_those_of_the_shifted_image():
    """Without padding the strided net's map of a shifted image is a phase of the dense map."""
    model = small(pools_and_valid_convolutions)
    x = image(40)
    dense = run(to_atrous(model, 1, full_size=False), x)
    for down, right in [(1, 0), (3, 5), (7, 6)]:
        shifted = run(model, x[:, down:, right:])
        phase = dense[:, down::8, right::8]
        np.testing.assert_allclose(phase, shifted, atol=TOLERANCE * np.abs(shifted).max())


def test_symmetric_padding_is_another_net():
    """The negative control: on even maps TensorFlow's `same` pads only after the map."""
    inputs = keras.Input((None, None, 3))
    model = randomize(keras.Model(inputs, same_twice(inputs, {"strides": 2}, {"strides": 2})))
    naive = keras.Model(inputs, same_twice(inputs, {"strides": 2}, {"dilation_rate": 1}))
    naive.set_weights(model.get_weights())
    for side, differs in ((30, False), (32, True)):  # of maps of 15 and of 16
        x = image(side)
        expected = run(model, x)
        error = np.abs(run(naive, x)[:, ::2, ::2][:, : expected.shape[1]] - expected).max()
        assert (error > 1e-3 * np.abs(expected).max()) == differs
        assert_holds(run(to_atrous(model, 2), x), expected, 2)


def same_twice(x, first, second):
    x = layers.Conv2D(4, 3, padding="same", **first)(x)
    return layers.Conv2D(4, 3, padding="same", **second)(x)


HEADS = {
    "global": lambda x: layers.Dense(7)(layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))),
    "map": lambda x: layers.Flatten()(
        layers.Conv2D(7, 1)(layers.GlobalMaxPooling2D(keepdims=True)(x))
    ),
    "flat": lambda x: layers.Dense(7)(layers.Dense(8, activation="relu")(layers.Flatten()(x))),
}


@pytest.mark.parametrize("head", HEADS)
def test_classifiers_can_still_classify(head):
    model = small(lambda x: HEADS[head](same_everywhere(x)), (37, 40))
    x = image(37, 40, batch=2)
    expected = run(model, x)
    result = run(to_atrous(model, 1), x)
    assert result.shape == (2, 7)
    np.testing.assert_allclose(result, expected, atol=TOLERANCE * np.abs(expected).max())


def test_weights_are_copies_under_the_same_names():
    model = small(residual_of_unequal_windows)
    model.layers[1].trainable = False
    dense = to_atrous(model, 1, name="dense")
    assert dense.name == "dense"
    for layer in model.layers[1:]:
        new = dense.get_layer(layer.name)
        assert new is not layer or not layer.weights
        assert getattr(new, "trainable", None) == getattr(layer, "trainable", None)
        for one, other in zip(new.weights, layer.weights, strict=True):
            assert one is not other
            np.testing.assert_array_equal(one, other)


def test_the_pyramid_stays_a_pyramid():
    model = randomize(ResNet((1, 1, 1, 1), block="basic", widths=(4, 20, 4, 4), dtype=FLOAT))
    x = image(70, 61)
    expected, result = model(x), to_atrous(model, 8)(x)
    for level, step in {"P2": 1, "P3": 1, "P4": 2, "P5": 4}.items():
        strided = keras.ops.convert_to_numpy(expected[level])
        assert_holds(keras.ops.convert_to_numpy(result[level]), strided, step)


@pytest.mark.parametrize("net", NETS)
def test_saves_and_loads(net, tmp_path):
    model = small(net)
    dense = to_atrous(model, 2)
    dense.save(tmp_path / "dense.keras")
    loaded = keras.models.load_model(tmp_path / "dense.keras")
    x = image(38, 35)
    np.testing.assert_array_equal(run(loaded, x), run(dense, x))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's unknown sizes")
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("net", NETS)
def test_sizes_unknown_to_the_graph(net, jit_compile):
    import tensorflow as tf

    dense = to_atrous(small(net), 1, full_size=False)
    signature = [tf.TensorSpec((None, None, None, 3), FLOAT)]
    compiled = tf.function(dense, input_signature=signature, jit_compile=jit_compile)
    for height in (33, 40):
        x = image(height, 35)
        np.testing.assert_allclose(compiled(x), run(dense, x), rtol=1e-9, atol=1e-9)


def test_trains_and_keeps_the_dtype():
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("mixed_bfloat16")
    dense = to_atrous(small(same_everywhere), 2)
    assert all(layer.compute_dtype == "bfloat16" for layer in dense.layers[1:])
    dense.compile("sgd", "mse")
    x = image(32).astype("float32")
    history = dense.fit(x, np.ones((1, 16, 16, 5)), epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_another_image_size():
    model = small(same_everywhere, (32, 32))
    assert to_atrous(model, 4).input_shape == (None, 32, 32, 3)
    dense = to_atrous(model, 4, image_size=(None, 48))
    assert dense.input_shape == (None, None, 48, 3)
    assert dense(image(64, 48)).shape == (1, 16, 12, 5)


@keras.saving.register_keras_serializable("tests")
class Doubled(layers.Layer):
    def call(self, inputs):
        return 2 * inputs


def test_layers_of_ones_own():
    def net(x):
        return Doubled(name="mine")(conv(Doubled()(x), 4, 3, 2))

    model = small(net)
    with pytest.raises(ValueError, match="to_atrous: the layer 'mine', Doubled,.*not known"):
        to_atrous(model, 1)
    x = image(20)
    dense = to_atrous(model, 1, pointwise_layers=[Doubled])
    assert_holds(run(dense, x), run(model, x), 2)


def two_depths(x):
    shared = layers.Conv2D(3, 3, strides=2, padding="same", name="shared")
    return shared(shared(x))


def unequal_strides(x):
    y = layers.UpSampling2D(2, name="up")(conv(x, 3, 1, 2))
    return layers.add([x, y])


@pytest.mark.parametrize(
    ("net", "output_stride", "message"),
    [
        (lambda x: layers.GroupNormalization(2, name="g")(conv(x, 4, 1, 2)), 1, "'g'.*statistics"),
        (lambda x: layers.Permute((2, 1, 3), name="p")(conv(x, 4, 1, 2)), 1, "'p'.*not known"),
        (lambda x: layers.Resizing(9, 9, name="r")(x), 1, "'r'.*changes the map's size"),
        (lambda x: layers.Conv2D(3, 1, strides=2, name="c")(x), 3, "'c'.*`output_stride`=3"),
        (lambda x: layers.Conv2D(3, 1, strides=4, name="c")(x), 8, "no layer"),
        (two_depths, 1, "'shared'"),
        (unequal_strides, 1, "'up'"),
        (same_everywhere, 0, "`output_stride` must"),
        (same_everywhere, 2.0, "`output_stride` must"),
    ],
)
def test_refuses(net, output_stride, message):
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, net(inputs))
    with pytest.raises(ValueError, match=f"to_atrous: .*{message}"):
        to_atrous(model, output_stride)


def test_refuses_models():
    vector = keras.Input((3,))
    with pytest.raises(ValueError, match="to_atrous: `model` must have one input"):
        to_atrous(keras.Model(vector, layers.Dense(2)(vector)), 1)

    class Subclassed(keras.Model):
        pass

    with pytest.raises(ValueError, match="`model` must be a functional or sequential"):
        to_atrous(Subclassed(), 1)
    x = image(20)
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3, strides=2)])
    assert_holds(run(to_atrous(randomize(model), 1), x), run(model, x), 2)
