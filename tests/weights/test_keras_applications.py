import keras
import numpy as np
import pytest

from kvision.backbones import VGG16, VGG19, MobileNetV2, ResNet18, ResNet50, Xception, Xception65
from kvision.models.classification import ImageClassifier
from kvision.weights import WeightsMismatchError, load_keras
from tests.golden.seeded_weights import seed_keras_weights

SAME = {"padding": "same", "epsilon": 1e-3, "normalize_pixels": "inception"}
CAFFE = {"normalize_pixels": "caffe"}


def application(name, **kwargs):
    model = getattr(keras.applications, name)(weights=None, **kwargs)
    seed_keras_weights(model)
    return model


@pytest.fixture(scope="module")
def mobilenet():
    return application(
        "MobileNetV2",
        alpha=0.35,
        input_shape=(96, 96, 3),
        classes=7,
        classifier_activation=None,
    )


def classifier():
    return ImageClassifier(MobileNetV2(alpha=0.35, **SAME), 7)


def images(height, width):
    return np.random.default_rng(0).uniform(0, 255, (2, height, width, 3)).astype("float32")


def assert_close(ours, theirs):
    ours, theirs = (keras.ops.convert_to_numpy(x) for x in (ours, theirs))
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.01 * np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("name", "build", "module"),
    [
        ("VGG16", lambda: VGG16(**CAFFE), keras.applications.vgg16),
        ("VGG19", lambda: VGG19(**CAFFE), keras.applications.vgg19),
        ("ResNet50", lambda: ResNet50(epsilon=1.001e-5, **CAFFE), keras.applications.resnet),
        ("Xception", Xception, keras.applications.xception),
        ("MobileNetV2", lambda: MobileNetV2(**SAME), keras.applications.mobilenet_v2),
    ],
)
def test_features_equal_keras_applications_at_odd_sizes(name, build, module):
    keras.utils.clear_session()
    for _ in range(8):  # Xception's shortcuts are then conv2d_8 to conv2d_11
        keras.layers.Conv2D(1, 1)
    theirs = application(name, include_top=False, input_shape=(75, 90, 3))
    model = build()
    report = load_keras(model, theirs)
    assert report.complete
    assert len(report.loaded) == len(model.weights)
    x = images(75, 90)
    assert_close(model(x)["P5"], theirs(module.preprocess_input(x.copy())))


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5", "_of_layers.h5"])
def test_files_of_every_version(mobilenet, tmp_path, suffix):
    path = tmp_path / f"mobilenet{suffix}"
    if suffix == ".weights.h5":
        mobilenet.save_weights(path)
    elif suffix == "_of_layers.h5":
        write_as_keras2(mobilenet, path)
    else:
        mobilenet.save(path)
    model = classifier()
    assert load_keras(model, path).complete
    x = images(96, 96)
    preprocess = keras.applications.mobilenet_v2.preprocess_input
    assert_close(model(x), mobilenet(preprocess(x.copy())))


def write_as_keras2(model, path):
    """The layout of the published files: a group a layer, names of bytes, in attributes."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{variable.name}:0" for variable in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, layer.get_weights(), strict=True):
                group[name] = array


def test_files_without_names_of_layers(mobilenet, tmp_path):
    import h5py

    path = tmp_path / "old.weights.h5"
    mobilenet.save_weights(path)
    with h5py.File(path, "r+") as file:
        for group in file["layers"].values():
            group["vars"].attrs.pop("name", None)
    with pytest.raises(ValueError, match="no names of layers"):
        load_keras(classifier(), path)


def test_a_backbone_leaves_the_classifier(mobilenet):
    report = load_keras(MobileNetV2(alpha=0.35, **SAME), mobilenet)
    assert report.complete
    assert report.unused == ("predictions/kernel", "predictions/bias")
    report = load_keras(MobileNetV2(alpha=0.35, last_filters=None, **SAME), mobilenet)
    assert report.complete
    assert {name.split("/")[0] for name in report.unused} == {"Conv_1", "Conv_1_bn", "predictions"}


def test_another_number_of_classes(mobilenet):
    model = ImageClassifier(MobileNetV2(alpha=0.35, **SAME), 3)
    before = model.get_weights()
    with pytest.raises(WeightsMismatchError, match="nothing was loaded") as caught:
        load_keras(model, mobilenet)
    assert caught.value.report.mismatched == {
        "predictions/kernel": ((1280, 3), (1280, 7)),
        "predictions/bias": ((3,), (7,)),
    }
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    report = load_keras(model, mobilenet, strict=False)
    assert len(report.loaded) == len(model.weights) - 2
    expected = mobilenet.get_layer("block_3_project").get_weights()[0]
    np.testing.assert_array_equal(
        model.backbone.get_layer("stage3_block3_project_conv").get_weights()[0], expected
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: ResNet18(), 'block="bottleneck"'),
        (lambda: ResNet50(version="v1.5"), 'version="v1"'),
        (lambda: ResNet50(**CAFFE), "epsilon=1.001e-05"),
        (lambda: ResNet50(epsilon=1.001e-5), 'normalize_pixels="caffe"'),
        (lambda: VGG16(), 'normalize_pixels="caffe"'),
        (lambda: Xception65(), "aligned=False"),
        (lambda: MobileNetV2(), 'padding="same"'),
        (lambda: keras.layers.Dense(1), "Received: Dense"),
    ],
)
def test_refuses_models_that_are_built_otherwise(model, message):
    with pytest.raises(ValueError, match=message):
        load_keras(model(), {})
