"""Backbones made of nets from elsewhere, against the nets themselves."""

import keras
import numpy as np
import pytest
from keras import layers

import kvision
from kvision.backbones import ResNet, from_keras
from kvision.layers import FeatureSpec
from tests.backbones.random_weights import randomize
from tests.backbones.small_nets import conv

applications = keras.applications


def pixels(height, width=None, seed=1):
    return np.random.default_rng(seed).uniform(0, 255, (1, height, width or height, 3))


def to_numpy(pyramid):
    return {level: keras.ops.convert_to_numpy(x) for level, x in pyramid.items()}


def assert_close(result, expected):
    scale = np.abs(expected).max()
    assert expected.std() > 1e-3 * scale
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * scale)


# The layers that give the levels, the levels' channels, and the module that knows the pixels.
PUBLISHED = {
    "MobileNet": (
        {"alpha": 0.25},
        {"P1": "conv_pw_1_relu", "P2": "conv_pw_3_relu", "P3": "conv_pw_5_relu"}
        | {"P4": "conv_pw_11_relu", "P5": "conv_pw_13_relu"},
        (16, 32, 64, 128, 256),
        applications.mobilenet,
    ),
    "MobileNetV2": (
        {"alpha": 0.35},
        {"P1": "block_1_expand_relu", "P2": "block_3_expand_relu", "P3": "block_6_expand_relu"}
        | {"P4": "block_13_expand_relu", "P5": "out_relu"},
        (48, 48, 96, 192, 1280),
        applications.mobilenet_v2,
    ),
    "VGG16": (
        {},
        {"P0": "block1_conv2", "P1": "block2_conv2", "P2": "block3_conv3", "P3": "block4_conv3"}
        | {"P4": "block5_conv3", "P5": "block5_pool"},
        (64, 128, 256, 512, 512, 512),
        applications.vgg16,
    ),
    "ResNet50": (
        {},
        {"P1": "conv1_relu", "P2": "conv2_block3_out", "P3": "conv3_block4_out"}
        | {"P4": "conv4_block6_out", "P5": "conv5_block3_out"},
        (64, 256, 512, 1024, 2048),
        applications.resnet,
    ),
    "DenseNet121": (
        {},
        {"P1": "conv1_relu", "P2": "pool2_relu", "P3": "pool3_relu", "P4": "pool4_relu"}
        | {"P5": "relu"},
        (64, 256, 512, 1024, 1024),
        applications.densenet,
    ),
    "EfficientNetB0": (
        {},
        {"P1": "block2a_expand_activation", "P2": "block3a_expand_activation"}
        | {"P3": "block4a_expand_activation", "P4": "block6a_expand_activation"}
        | {"P5": "top_activation"},
        (96, 144, 240, 672, 1280),
        applications.efficientnet,
    ),
}


QUICK = {"MobileNetV2", "ResNet50"}
HEADLESS = [
    pytest.param(name, False, marks=[] if name in QUICK else pytest.mark.conformance)
    for name in PUBLISHED
]


@pytest.mark.parametrize(("name", "include_top"), [("MobileNet", True), *HEADLESS])
def test_levels_of_published_nets(name, include_top):
    arguments, names, channels, module = PUBLISHED[name]
    if include_top:
        arguments = {**arguments, "classes": 10}
    model = randomize(
        getattr(applications, name)(
            weights=None, include_top=include_top, input_shape=(64, 64, 3), **arguments
        )
    )
    backbone = from_keras(model, None)
    strides = [2 ** int(level[1:]) for level in names]
    expected_specs = dict(zip(names, map(FeatureSpec, channels, strides), strict=True))
    assert backbone.feature_specs == expected_specs
    assert backbone.name == model.name
    x = pixels(64)
    truth = keras.Model(model.input, [model.get_layer(layer).output for layer in names.values()])
    expected = truth(module.preprocess_input(x.astype("float32")))
    result = to_numpy(backbone(x))
    assert list(result) == list(names)
    for level, values in zip(names, expected, strict=True):
        assert_close(result[level], keras.ops.convert_to_numpy(values))


def small_model(name="mine"):
    inputs = keras.Input((33, 33, 3))
    x = layers.MaxPooling2D(2)(conv(inputs, 4, 3, 2, padding="same"))
    y = layers.Conv2D(6, 3, strides=2, padding="same")(x)
    x = layers.add([y, layers.Conv2D(6, 1, strides=2, padding="same")(x)])
    x = layers.BatchNormalization()(x)
    x = conv(conv(x, 8, 3, 2, padding="same"), 7, 3, 2, padding="same")
    x = layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
    return randomize(keras.Model(inputs, x, name=name))


SMALL = {
    "P1": FeatureSpec(4, 2),
    "P3": FeatureSpec(6, 8),
    "P4": FeatureSpec(8, 16),
    "P5": FeatureSpec(7, 32),
}


def test_a_model_of_ones_own():
    backbone = from_keras(small_model(), None, preprocessing=None, name="theirs")
    assert backbone.feature_specs == SMALL
    assert backbone.name == "theirs"
    assert backbone.input_shape == (None, None, None, 3)
    assert not {"dense", "global_average_pooling2d"} & {
        layer.name.rstrip("_0123456789") for layer in backbone.layers
    }


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("side", [64, 71, 97])
def test_output_stride(side, output_stride):
    model = small_model()
    strided = from_keras(model, ("P3", "P4", "P5"), preprocessing=None)
    dense = from_keras(model, ("P3", "P4", "P5"), preprocessing=None, output_stride=output_stride)
    assert dense.feature_specs == {
        level: FeatureSpec(SMALL[level].channels, min(SMALL[level].stride, output_stride))
        for level in ("P3", "P4", "P5")
    }
    x = pixels(side, 75)
    expected, result = to_numpy(strided(x)), to_numpy(dense(x))
    reference = f"P{output_stride.bit_length() - 1}"
    for level, (_, stride) in SMALL.items():
        if level in expected:
            step = max(1, stride // output_stride)
            assert_close(result[level][:, ::step, ::step], expected[level])
            if step > 1:
                assert result[level].shape[1:3] == result[reference].shape[1:3]


def test_a_deep_level_alone_has_the_size_of_the_level_of_its_stride():
    model = small_model()
    dense = from_keras(model, ["P5"], preprocessing=None, output_stride=8)
    assert dense(pixels(97))["P5"].shape == (1, 12, 12, 7)


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        ("caffe", (200 - 103.939, 100 - 116.779, 10 - 123.68)),
        ("inception", (10 / 127.5 - 1, 100 / 127.5 - 1, 200 / 127.5 - 1)),
        ("imagenet", (-1.9467, -0.2850, 1.6814)),
        (None, (10, 100, 200)),
        ((0.5, (1, 2, 3)), (6, 52, 103)),
    ],
)
def test_preprocessing(preprocessing, expected):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.ReLU(negative_slope=1)(inputs), name="identity")
    backbone = from_keras(model, None, preprocessing=preprocessing)
    pixel = np.array([10, 100, 200], "uint8").reshape(1, 1, 1, 3)
    np.testing.assert_allclose(np.ravel(to_numpy(backbone(pixel))["P0"]), expected, atol=1e-3)


def test_saves_and_loads(tmp_path):
    backbone = from_keras(small_model(), ("P3", "P5"), preprocessing="caffe", output_stride=16)
    backbone.layers[3].trainable = False
    backbone.save(tmp_path / "backbone.keras")
    loaded = keras.models.load_model(tmp_path / "backbone.keras")
    assert loaded.feature_specs == backbone.feature_specs
    assert not loaded.layers[3].trainable
    x = pixels(50)
    for level, values in to_numpy(backbone(x)).items():
        np.testing.assert_array_equal(to_numpy(loaded(x))[level], values)


def test_a_detector_takes_it(tmp_path):
    net = applications.MobileNet(
        weights=None, include_top=False, input_shape=(64, 64, 3), alpha=0.25
    )
    detector = kvision.models.detection.FasterRCNN(
        from_keras(net),
        num_classes=2,
        fpn_filters=8,
        box_head_units=8,
        rpn_pre_nms_top_n=20,
        rpn_post_nms_top_n=5,
    )
    raw = detector(pixels(64).astype("float32"))
    assert raw["pyramid"]["P2"].shape == (1, 16, 16, 8)
    detector.save(tmp_path / "detector.keras")
    loaded = keras.models.load_model(tmp_path / "detector.keras")
    assert loaded.backbone.feature_specs == detector.backbone.feature_specs


def test_fields_of_a_backbone_with_its_preprocessing():
    backbone = from_keras(small_model(), ("P3", "P5"), preprocessing="caffe", output_stride=8)
    fields = kvision.receptive_field(backbone, (65, 65))
    assert [fields[f"crop_{level}"].map_size for level in ("P3", "P5")] == [(8, 8), (8, 8)]
    assert [fields[f"crop_{level}"].size for level in ("P3", "P5")] == [(13, 13), (61, 61)]


def test_our_own_backbones_come_back():
    model = randomize(ResNet((1, 1, 1, 1), block="basic", widths=(4, 8, 8, 8)))
    again = from_keras(model)
    assert again.feature_specs == model.feature_specs
    x = pixels(61)
    for level, values in to_numpy(model(x)).items():
        assert_close(to_numpy(again(x))[level], values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no level 'P2'; `levels` must be among .*P1.*P3"),
        ({"levels": ["P3"]}, "what 'mine' expects of pixels is not known"),
        ({"levels": ["P3"], "preprocessing": "torch"}, "`preprocessing` must.*'torch'"),
        ({"levels": ["P3"], "preprocessing": None, "output_stride": 6}, "output_stride"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        from_keras(small_model(), **arguments)
