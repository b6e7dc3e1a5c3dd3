import keras
import numpy as np
import pytest

from kvision import layers, ops

FEATURES = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("float32")
PYRAMID = {"P2": FEATURES, "P3": FEATURES[:, ::2, ::2]}
# Coordinates that half precision cannot hold: 801.3 becomes 800 in bfloat16.
BOXES = np.array([[(1.3, 2.7, 9.1, 25.9), (801.3, 799.6, 804.1, 810.2)]], dtype="float32")
OPTIONS = {"sampling_ratio": 2, "aligned": False}


def roi_align_layer(**kwargs):
    return layers.RoIAlign((2, 3), spatial_scale=0.01, **OPTIONS, **kwargs)


def multiscale_layer(**kwargs):
    strides = {"P2": 100, "P3": 200}
    return layers.MultiscaleRoIAlign((2, 3), strides=strides, **OPTIONS, **kwargs)


def roi_pool_layer(**kwargs):
    return layers.RoIPool((2, 3), spatial_scale=0.01, **kwargs)


CASES = [
    (
        roi_align_layer,
        FEATURES,
        lambda features: ops.roi_align(
            features, BOXES, output_size=(2, 3), spatial_scale=0.01, **OPTIONS
        ),
    ),
    (
        multiscale_layer,
        PYRAMID,
        lambda pyramid: ops.multiscale_roi_align(
            pyramid, BOXES, output_size=(2, 3), strides={"P2": 100, "P3": 200}, **OPTIONS
        ),
    ),
    (
        roi_pool_layer,
        FEATURES,
        lambda features: ops.roi_pool(features, BOXES, output_size=(2, 3), spatial_scale=0.01),
    ),
]
cases = pytest.mark.parametrize(("make_layer", "features", "function"), CASES)


@cases
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_layer_is_the_op_under_every_policy(make_layer, features, function, policy):
    result = make_layer(dtype=policy)(features, BOXES)
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(result), keras.ops.convert_to_numpy(function(features))
    )


@cases
def test_bfloat16_features_keep_float32_boxes(make_layer, features, function):
    features = keras.tree.map_structure(lambda f: keras.ops.cast(f, "bfloat16"), features)
    result = make_layer(dtype="mixed_bfloat16")(features, BOXES)
    assert keras.backend.standardize_dtype(result.dtype) == "bfloat16"
    np.testing.assert_array_equal(
        *(
            keras.ops.convert_to_numpy(keras.ops.cast(array, "float32"))
            for array in (result, function(features))
        )
    )


@cases
def test_saved_model_is_the_same(make_layer, features, function, tmp_path):
    inputs = keras.tree.map_structure(lambda f: keras.Input((None, None, f.shape[-1])), features)
    boxes = keras.Input((None, 4))
    output = make_layer()(inputs, boxes)
    assert output.shape == (None, None, 2, 3, 3)
    keras.Model([inputs, boxes], output).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        model.predict([features, BOXES], verbose=0),
        keras.ops.convert_to_numpy(function(features)),
        1e-6,
    )


@cases
def test_config_and_shape(make_layer, features, function):
    layer = make_layer(name="pool")
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config
    shapes = keras.tree.map_structure(lambda f: f.shape, features)
    assert layer.compute_output_shape(shapes, (1, None, 4)) == (1, None, 2, 3, 3)


@pytest.mark.parametrize("make", [layers.RoIAlign, layers.MultiscaleRoIAlign])
def test_wrong_arguments(make):
    with pytest.raises(ValueError, match="roi_align: `output_size` must be"):
        make(0)
    with pytest.raises(ValueError, match="roi_align: `sampling_ratio` must be"):
        make(7, sampling_ratio=-1)


def test_wrong_arguments_of_roi_pool():
    with pytest.raises(ValueError, match="roi_pool: `output_size` must be"):
        layers.RoIPool(0)
    with pytest.raises(ValueError, match="roi_pool: `spatial_scale` must be"):
        layers.RoIPool(7, spatial_scale=0)
