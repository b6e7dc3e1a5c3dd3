"""Class maps against the classifier itself, slid over the image."""

import keras
import numpy as np
import pytest
from keras import layers

import kvision
from kvision.backbones import ResNet, classify_densely, from_keras, to_dense_classifier
from tests.backbones.random_weights import randomize
from tests.backbones.small_nets import conv, same_everywhere


def image(height, width=None, seed=1, batch=1):
    shape = (batch, height, width or height, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


def run(model, x):
    return keras.ops.convert_to_numpy(model(x))


def assert_close(result, expected):
    scale = np.abs(expected).max()
    assert expected.std() > 1e-3 * scale
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * scale)


def classifier(body, head, size):
    inputs = keras.Input((*size, 3))
    return randomize(keras.Model(inputs, head(body(inputs)), name="net"))


def unpadded(x):
    x = layers.MaxPooling2D(2)(conv(x, 5, 3))
    return conv(x, 6, 3, 2)


def flattened(x):
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    x = layers.ReLU()(layers.Dense(8)(x))
    return layers.Dense(4, activation="softmax")(layers.BatchNormalization()(x))


def reshaped(x):
    x = layers.Dense(4, use_bias=False)(layers.Reshape((-1,))(x))
    return layers.Softmax()(layers.Reshape((4,))(layers.Reshape((1, 1, 4))(x)))


def pooled_in_parts(x):
    x = layers.Flatten()(layers.AdaptiveAveragePooling2D(2)(x))
    return layers.Dense(4)(layers.Dense(8, activation="relu")(x))


@pytest.mark.parametrize("head", [flattened, reshaped, pooled_in_parts])
@pytest.mark.parametrize("output_stride", [1, 4])
def test_a_net_without_padding_slides_over_the_image(head, output_stride):
    """A position is the classifier's answer for the crop that begins there."""
    size = (21, 29) if head is not pooled_in_parts else (21, 37)
    model = classifier(unpadded, head, size)
    x = image(29, 50)
    dense = classify_densely(model, x, output_stride)
    offsets = [(top, left) for top in range(0, 9, 4) for left in range(0, 51 - size[1], 4)]
    if output_stride == 1:
        offsets += [(1, 0), (5, 7), (8, 13)]
    crops = np.concatenate(
        [x[:, top : top + size[0], left : left + size[1]] for top, left in offsets]
    )
    expected = run(model, crops)
    result = np.stack(
        [dense[0, top // output_stride, left // output_stride] for top, left in offsets]
    )
    assert_close(result, expected)


def averaged(x):
    return layers.Dense(4)(layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x)))


def averaged_map(x):
    x = layers.Conv2D(4, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return layers.Reshape((4,))(x)


@pytest.mark.parametrize("head", [averaged, averaged_map])
def test_the_mean_of_the_class_map_is_the_classifiers_answer(head):
    model = classifier(same_everywhere, head, (None, None))
    x = image(40, 33, batch=2)
    dense = classify_densely(model, x, 2)
    assert dense.shape == (2, 20, 20, 4)
    assert_close(dense[:, ::4, ::4].mean((1, 2)), run(model, x))


def test_squeeze_and_excitation_is_no_head():
    def body(x):
        x = conv(x, 4, 3, 2, padding="same")
        scale = layers.GlobalAveragePooling2D(keepdims=True)(x)
        x = layers.multiply([x, layers.Dense(4, activation="sigmoid")(scale)])
        return conv(x, 4, 3, 2, padding="same")

    model = classifier(body, averaged, (32, 32))
    x = image(32)
    assert_close(classify_densely(model, x, 1)[:, ::4, ::4].mean((1, 2)), run(model, x))


@pytest.mark.parametrize("pool_size", [1, 2])
def test_our_own_classifier(pool_size):
    backbone = ResNet((1, 1, 1, 1), block="basic", widths=(4, 8, 8, 8))
    model = kvision.models.classification.ImageClassifier(
        backbone, 3, pool_size=pool_size, hidden_units=(6,) * (pool_size - 1), image_size=128
    )
    randomize(model)
    x = 127 + 127 * image(128)
    dense = classify_densely(model, x, 16)
    if pool_size == 1:
        assert dense.shape == (1, 8, 8, 3)
        assert_close(dense[:, ::2, ::2].mean((1, 2)), run(model, x))
    else:
        assert_close(dense[:, 0, 0], run(model, x))


@pytest.mark.parametrize("include_top", ["MobileNet", "MobileNetV2"])
def test_published_classifiers(include_top):
    build = getattr(keras.applications, include_top)
    model = build(
        weights=None,
        classes=5,
        alpha=0.35 if include_top == "MobileNetV2" else 0.25,
        input_shape=(64, 64, 3),
        classifier_activation=None,
    )
    randomize(model)
    x = image(64)
    dense = to_dense_classifier(model, 8)
    assert dense.name == f"{model.name}_dense"
    assert dense.output_shape == (None, None, None, 5)
    assert_close(run(dense, x)[:, ::4, ::4].mean((1, 2)), run(model, x))


def test_the_nets_own_stride():
    model = classifier(same_everywhere, averaged, (None, None))
    assert run(to_dense_classifier(model, 32), image(64)).shape == (1, 8, 8, 4)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (lambda x: x, "`model` must have one output"),
        (lambda x: layers.Flatten()(layers.Permute((2, 1, 3), name="p")(x)), "'p'.*not known"),
        (lambda x: layers.BatchNormalization(name="b")(layers.Flatten()(x)), "'b'.*counterpart"),
        (lambda x: layers.Flatten()(layers.AdaptiveAveragePooling2D(3, name="a")(x)), "'a'.*un"),
        (lambda x: layers.Dense(3)(layers.Reshape((1, -1), name="r")(x))[:, 0], "counterpart"),
    ],
)
def test_refuses(head, message):
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, head(unpadded(inputs)))
    with pytest.raises(ValueError, match=f"to_dense_classifier: .*{message}"):
        to_dense_classifier(model)


def test_a_flattening_head_needs_the_image_size():
    backbone = ResNet((1, 1, 1, 1), block="basic", widths=(4, 8, 8, 8))
    model = kvision.models.classification.ImageClassifier(backbone, 3, pool_size=2)
    with pytest.raises(ValueError, match="to_dense_classifier: .*'pooling'.*`image_size`"):
        to_dense_classifier(model)


def test_a_backbone_of_it_still_has_levels():
    model = classifier(same_everywhere, averaged, (32, 32))
    assert list(from_keras(model, None, preprocessing=None).feature_specs) == ["P1", "P2", "P3"]
