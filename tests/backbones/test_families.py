"""What all backbones promise, and the counts of the published networks."""

import keras
import numpy as np
import pytest
from keras.applications import imagenet_utils

from kvision import backbones
from kvision.backbones import VGG, MobileNetV2, Xception
from tests.backbones.multiply_adds import multiply_adds

VGG_HEAD = [(7 * 7 * 512, 4096), (4096, 4096), (4096, 1000)]
XCEPTION_HEAD = RESNET50_HEAD = [(2048, 1000)]
RESNET18_HEAD = [(512, 1000)]
V15 = {"version": "v1.5"}
# Constructor, arguments, dense layers of the classifier, then of the classifier's whole: trainable
# parameters, moving statistics, side of the image and multiply-adds.
PUBLISHED = [
    ("VGG11", {}, VGG_HEAD, 132_863_336, 0, 224, 7_609_090_048),
    ("VGG13", {}, VGG_HEAD, 133_047_848, 0, 224, 11_308_466_176),
    ("VGG16", {}, VGG_HEAD, 138_357_544, 0, 224, 15_470_264_320),
    ("VGG16", {"normalization": "batch"}, VGG_HEAD, 138_365_992, 8_448, 224, 15_470_264_320),
    ("VGG19", {}, VGG_HEAD, 143_667_240, 0, 224, 19_632_062_464),
    ("ResNet18", {}, RESNET18_HEAD, 11_689_512, 9_600, 224, 1_814_073_344),
    ("ResNet34", {}, RESNET18_HEAD, 21_797_672, 17_024, 224, 3_663_761_408),
    ("ResNet50", {}, RESNET50_HEAD, 25_557_032, 53_120, 224, 3_857_973_248),
    ("ResNet50", V15, RESNET50_HEAD, 25_557_032, 53_120, 224, 4_089_184_256),
    ("ResNet101", {}, RESNET50_HEAD, 44_549_160, 105_344, 224, 7_570_194_432),
    ("ResNet101", V15, RESNET50_HEAD, 44_549_160, 105_344, 224, 7_801_405_440),
    ("ResNet152", {}, RESNET50_HEAD, 60_192_808, 151_424, 224, 11_282_415_616),
    ("ResNet152", V15, RESNET50_HEAD, 60_192_808, 151_424, 224, 11_513_626_624),
    ("Xception", {}, XCEPTION_HEAD, 22_855_952, 54_528, 299, 8_357_403_496),
    ("MobileNetV2", {}, [(1280, 1000)], 3_504_872, 34_112, 224, 300_774_272),
]
# DeepLab v3+ on it, of 21 classes, less its separable ASPP and decoder.
XCEPTION65 = (41_055_413 - 3_188_101, 202_800 - 17_600)

TINY = {
    "vgg": lambda **kwargs: VGG((1, 1, 2, 1, 1), widths=(4, 4, 8, 8, 8), **kwargs),
    "vgg_bn": lambda **kwargs: VGG(
        (1, 1, 1, 2, 1), widths=(4, 4, 8, 8, 8), normalization="batch", **kwargs
    ),
    "xception": lambda **kwargs: Xception(middle_blocks=1, alpha=0.02, **kwargs),
    "xception_aligned": lambda **kwargs: Xception(
        aligned=True, middle_blocks=1, alpha=0.02, **kwargs
    ),
    "mobilenet_v2": lambda **kwargs: MobileNetV2(alpha=0.1, last_filters=24, **kwargs),
    "mobilenet_v2_same": lambda **kwargs: MobileNetV2(
        alpha=0.1, last_filters=None, padding="same", **kwargs
    ),
}


def size(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


def random_images(height, width):
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3)).astype("float32")


def randomize(model):
    """Normalisations and biases that are not the identity: offsets show where padding is wrong."""
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(rng.normal(0.0, 0.3, variable.shape))
    return model


def to_numpy(pyramid):
    return {name: keras.ops.convert_to_numpy(value) for name, value in pyramid.items()}


def published(name, arguments, *counts):
    deep = pytest.mark.conformance if name in ("ResNet101", "ResNet152") else ()
    suffix = "".join(arguments.values())
    return pytest.param(name, arguments, *counts, id=name + suffix, marks=deep)


@pytest.mark.parametrize(
    ("name", "arguments", "head", "trainable", "statistics", "side", "macs"),
    [published(*row) for row in PUBLISHED],
)
def test_published_networks(name, arguments, head, trainable, statistics, side, macs):
    model = getattr(backbones, name)(**arguments)
    dense = sum(inputs * units + units for inputs, units in head)
    assert size(model.trainable_variables) + dense == trainable
    assert size(model.non_trainable_variables) == statistics
    dense = sum(inputs * units for inputs, units in head)
    assert multiply_adds(model, side, side) + dense == macs


def test_parameters_of_xception65():
    model = backbones.Xception65()
    assert size(model.trainable_variables) == XCEPTION65[0]
    assert size(model.non_trainable_variables) == XCEPTION65[1]


def expected_size(family, side, stride):
    if family == "xception":
        return -(-((side - 5) // 2) // (stride // 2))
    return side // stride if family.startswith("vgg") else -(-side // stride)


def check_sizes(model, family, pyramid, height, width):
    """The levels and their strides; sizes are as the docstrings say."""
    first = 0 if family.startswith("vgg") else 1
    assert list(model.feature_specs) == list(pyramid) == [f"P{n}" for n in range(first, 6)]
    for number, (level, spec) in enumerate(model.feature_specs.items(), start=first):
        assert spec.stride == min(2**number, model.output_stride)
        sides = [expected_size(family, side, spec.stride) for side in (height, width)]
        assert pyramid[level].shape == (2, *sides, spec.channels)


@pytest.mark.parametrize(
    ("family", "output_stride"),
    [("vgg", 8), ("vgg", 32), ("xception", 8), ("xception_aligned", 32), ("mobilenet_v2", 32)],
)
def test_the_smallest_image(family, output_stride):
    model = TINY[family](output_stride=output_stride)
    side = model.smallest_image
    for features in model(random_images(side, side)).values():
        assert min(features.shape) > 0
    if side > 1:
        try:
            shapes = model.compute_output_shape((1, side - 1, 64, 3))
        except ValueError:
            return  # Keras refuses a convolution that has no output.
        assert any(0 in shape for shape in shapes.values())


@pytest.mark.parametrize(
    ("family", "height", "width"),
    [
        ("vgg", 65, 98),
        ("vgg_bn", 70, 97),
        ("xception", 75, 107),  # The padding of even maps belongs to strides.
        ("xception_aligned", 65, 98),
        ("mobilenet_v2", 70, 97),
        ("mobilenet_v2_same", 65, 97),  # Again no even maps.
    ],
)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_gives_the_strided_features_in_between(family, height, width, output_stride):
    """A dilated network computes what the strided one computes, at more positions."""
    images = random_images(height, width)
    strided = randomize(TINY[family]())
    dilated = TINY[family](output_stride=output_stride)
    dilated.set_weights(strided.get_weights())
    expected, actual = to_numpy(strided(images)), to_numpy(dilated(images))
    check_sizes(strided, family, expected, height, width)
    check_sizes(dilated, family, actual, height, width)
    for level, spec in strided.feature_specs.items():
        step = spec.stride // dilated.feature_specs[level].stride
        rows, columns = expected[level].shape[1:3]
        between = actual[level][:, ::step, ::step][:, :rows, :columns]
        scale = np.abs(expected[level]).max()
        np.testing.assert_allclose(between, expected[level], rtol=0, atol=1e-5 * scale)
        assert expected[level].std() > 0.01 * scale


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("frozen_stages", [0, 2, 5])
def test_frozen_stages_are_not_trainable(family, frozen_stages):
    model = TINY[family](frozen_stages=frozen_stages)
    frozen = tuple(f"stage{stage}_" for stage in range(1, frozen_stages + 1))
    for layer in model.layers:
        if layer.weights:
            assert layer.name.startswith(tuple(f"stage{stage}_" for stage in range(1, 6)))
            assert layer.trainable != layer.name.startswith(frozen)


@pytest.mark.parametrize("family", ["vgg_bn", "xception_aligned", "mobilenet_v2_same"])
def test_saving(tmp_path, family):
    model = randomize(
        TINY[family](
            output_stride=16,
            epsilon=1e-4,
            frozen_stages=1,
            normalize_pixels="caffe",
            name="mine",
            dtype="mixed_bfloat16",
        )
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    assert len(loaded.trainable_weights) == len(model.trainable_weights)
    images = random_images(64, 64)
    expected, actual = model(images), loaded(images)
    for level, features in actual.items():
        assert keras.backend.standardize_dtype(features.dtype) == "bfloat16"
        assert np.array_equal(
            *(
                keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))
                for x in (features, expected[level])
            )
        )


@pytest.mark.parametrize("family", ["vgg", "xception"])
def test_gradients_pass_dilated_pooling(family):
    model = TINY[family](output_stride=8)
    inputs = keras.Input((40, 40, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(model(inputs)["P5"])
    trainer = keras.Model(inputs, keras.layers.Dense(1)(pooled))
    trainer.compile(keras.optimizers.Adam(1e-3), "mse", run_eagerly=True)
    kernel = model.get_layer("stage1_conv1").kernel
    before = keras.ops.convert_to_numpy(kernel)
    trainer.fit(random_images(40, 40), np.ones(2), verbose=0)
    assert np.abs(keras.ops.convert_to_numpy(kernel) - before).min() > 0


@pytest.mark.parametrize(
    ("convention", "mode"), [("imagenet", "torch"), ("caffe", "caffe"), ("inception", "tf")]
)
def test_pixels_are_normalized_as_in_keras(convention, mode):
    images = random_images(32, 32)
    model = TINY["vgg"](normalize_pixels=convention)
    plain = TINY["vgg"](normalize_pixels=False)
    plain.set_weights(model.get_weights())
    expected = to_numpy(plain(imagenet_utils.preprocess_input(images.copy(), mode=mode)))
    for level, features in to_numpy(model(images)).items():
        np.testing.assert_allclose(features, expected[level], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "convention"),
    [("vgg", "imagenet"), ("mobilenet_v2", "imagenet"), ("xception", "inception")],
)
def test_a_family_has_its_own_convention_of_pixels(family, convention):
    layers = [
        TINY[family](normalize_pixels=argument).get_layer("pixel_normalization")
        for argument in (True, convention)
    ]
    assert layers[0].get_config() == layers[1].get_config()


@pytest.mark.parametrize(
    ("output_stride", "rates"), [(16, (2, 4, 8)), (8, (4, 8, 16))], ids=["16", "8"]
)
@pytest.mark.parametrize("version", ["v1", "v1.5"])
def test_multi_grid_has_the_rates_of_deeplab(output_stride, rates, version):
    model = backbones.ResNet(
        (1, 1, 1, 3),
        widths=(4, 4, 4, 4),
        version=version,
        output_stride=output_stride,
        multi_grid=(1, 2, 4),
    )
    layers = [model.get_layer(f"stage5_block{index}_conv2") for index in range(3)]
    assert [layer.dilation_rate for layer in layers] == [(rate, rate) for rate in rates]
    assert {layer.strides for layer in layers} == {(1, 1)}


@pytest.mark.parametrize(
    ("family", "arguments"),
    [
        ("vgg", {"output_stride": 4}),
        ("vgg_bn", {"frozen_stages": 6}),
        ("vgg", {"normalize_pixels": "tf"}),
        ("xception", {"aligned": "yes"}),
        ("xception", {"normalization": None}),
        ("mobilenet_v2_same", {"padding": "valid"}),
        ("mobilenet_v2", {"alpha": 0}),
    ],
)
def test_refuses_arguments(family, arguments):
    classes = {"vgg": VGG, "xception": Xception, "mobilenet": MobileNetV2}
    cls = classes[family.partition("_")[0]]
    positional = ((1, 1, 1, 1, 1),) if cls is VGG else ()
    with pytest.raises(ValueError, match=f"{cls.__name__}: .*`{next(iter(arguments))}`"):
        cls(*positional, **arguments)


def test_vgg_refuses_tables_of_other_lengths():
    with pytest.raises(ValueError, match="`depths` and `widths`"):
        VGG((1, 1, 1, 1))


def test_multi_grid_needs_dilation():
    with pytest.raises(ValueError, match="`multi_grid`"):
        backbones.ResNet50(multi_grid=(1, 2, 4))
