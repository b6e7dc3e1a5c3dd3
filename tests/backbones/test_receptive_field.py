"""Receptive fields against published numbers and against what an image changes."""

import fractions

import keras
import numpy as np
import pytest
from keras import layers

import kvision
from kvision.backbones import ResNet50, to_atrous
from tests.backbones.small_nets import NETS, conv, focus_and_blocks


def functional(net, size=(None, None)):
    inputs = keras.Input((*size, 3))
    return keras.Model(inputs, net(inputs))


# Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill
# 2019: the size and the stride of the last map.
PUBLISHED = {
    "VGG16": (212, 32),
    "ResNet50": (483, 32),
    "ResNet101": (1027, 32),
    "InceptionV3": (1311, 32),
    "InceptionResNetV2": (3039, 32),
    "MobileNet": (315, 32),
}


@pytest.mark.parametrize("name", ["VGG16", "InceptionV3", "MobileNet"])
def test_published_numbers(name):
    model = getattr(keras.applications, name)(weights=None, include_top=False)
    last = kvision.receptive_field(model).rows[-1]
    size, stride = PUBLISHED[name]
    assert (last.size, last.stride) == ((size, size), (stride, stride))


def test_published_numbers_of_our_own():
    fields = kvision.receptive_field(ResNet50())
    assert fields["stage5_block2_relu"][2:6] == ((16, 16), (32, 32), (483, 483), (-241, -241))


def test_vgg16():
    fields = kvision.receptive_field(keras.applications.VGG16(weights=None))
    assert fields.image_size == (224, 224)
    sizes = [fields[f"block{block}_pool"].size[0] for block in range(1, 6)]
    assert sizes == [6, 16, 44, 100, 212]
    assert fields["block5_pool"].start == (-90, -90)
    assert fields["fc1"].size is None
    assert fields["fc1"].sees_all
    table = str(fields).splitlines()
    assert table[0].split() == ["layer", "kind", "map", "stride", "receptive", "field", "start"]
    assert table[-5].split() == ["block5_pool", "MaxPooling2D", "7", "x", "7", "32", "212", "-90"]
    assert table[-1].split() == ["predictions", "Dense", "whole", "image"]


def test_vgg16_with_a_convolutional_head():
    """fc6 as a convolution sees 404 pixels."""
    body = keras.applications.VGG16(weights=None, include_top=False)
    model = keras.Model(body.input, layers.Conv2D(1, 7, name="fc6")(body.output))
    assert kvision.receptive_field(model)["fc6"].size == (404, 404)


def test_alexnet():
    def alexnet(x):
        x = layers.MaxPooling2D(3, 2)(conv(x, 2, 11, 4))
        x = layers.MaxPooling2D(3, 2)(conv(x, 2, 5, padding="same"))
        for _ in range(3):
            x = conv(x, 2, 3, padding="same")
        return layers.MaxPooling2D(3, 2, name="pool5")(x)

    pool5 = kvision.receptive_field(functional(alexnet, (227, 227)))["pool5"]
    assert (pool5.map_size, pool5.stride, pool5.size) == ((6, 6), (32, 32), (195, 195))


def upsampling(x):
    x = layers.UpSampling2D((3, 2))(conv(x, 3, 3, 2, padding="same"))
    x = layers.UpSampling2D(3, interpolation="bilinear")(conv(x, 3, 3, padding="same"))
    return layers.AveragePooling2D(2)(conv(x, 3, 3))


def encoder_and_decoder(x):
    skip = conv(x, 3, 3, padding="same")
    x = layers.MaxPooling2D(2)(skip)
    x = layers.Conv2DTranspose(3, 3, strides=2, padding="same")(conv(x, 3, 3, padding="same"))
    x = layers.concatenate([x, skip])
    return layers.Conv2DTranspose(3, 5, strides=3)(conv(x, 3, 2, 4, padding="same"))


def changes(model, length, axis):
    """For each line of pixels along an axis, which positions change with it."""
    for weight in model.weights:
        weight.assign(np.full(weight.shape, 0.1))
    size = [20, 20]
    size[axis] = length
    images = np.zeros((length + 1, *size, 3))
    for line in range(length):
        images[(line, *[slice(None)] * axis, line)] = 1e3
    maps = keras.ops.convert_to_numpy(model(images))
    return (maps[:-1] != maps[-1]).any(axis=(2 - axis, 3))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("net", [upsampling, encoder_and_decoder, *NETS[:2], NETS[5]])
def test_fields_are_what_an_image_changes(net, axis):
    model = functional(net)
    for length in (94, 96):
        size = [20, 20]
        size[axis] = length
        last = kvision.receptive_field(model, size).rows[-1]
        seen = changes(model, length, axis)
        assert seen.shape[1] == last.map_size[axis]
        pixels = [np.flatnonzero(column) for column in seen.T]
        inside = [each for each in pixels if each[0] > 0 and each[-1] < length - 1]
        assert max(each[-1] - each[0] + 1 for each in inside) == last.size[axis]
        for position, each in enumerate(pixels):
            first = last.start[axis] + position * last.stride[axis]
            if first.denominator == 1 and net not in (upsampling, encoder_and_decoder):
                assert each[0] == max(first, 0)
                if first + last.size[axis] <= length:
                    assert each[-1] == first + last.size[axis] - 1


def test_layers_made_of_layers():
    last = kvision.receptive_field(functional(focus_and_blocks, (64, 64))).rows[-1]
    assert last[2:6] == ((8, 8), (8, 8), (14, 14), (0, 0))
    assert last.sees_all


def test_strides_below_one():
    fields = kvision.receptive_field(functional(lambda x: layers.UpSampling2D(2, name="up")(x)))
    assert fields["up"].stride == (fractions.Fraction(1, 2),) * 2
    assert fields["up"].size == (1, 1)


def test_a_dense_net_sees_what_the_strided_one_sees():
    model = functional(NETS[2], (48, 48))
    strided = kvision.receptive_field(model).rows[-1]
    dense = kvision.receptive_field(to_atrous(model, 1)).rows[-1]
    assert (strided.stride, dense.stride) == ((8, 8), (1, 1))
    assert (dense.size, dense.start) == (strided.size, strided.start)


def test_what_sees_the_whole_image():
    fields = kvision.receptive_field(functional(NETS[3]))
    assert not fields.rows[0].sees_all
    assert fields.rows[-1].sees_all
    assert fields.rows[-1].size == (15, 15)
    assert "15 + all" in str(fields)


def test_refuses():
    with pytest.raises(ValueError, match="receptive_field: `model` must be a functional"):
        kvision.receptive_field(keras.Model())
    permuted = functional(lambda x: layers.Permute((2, 1, 3), name="p")(x))
    with pytest.raises(ValueError, match="receptive_field: the layer 'p', Permute, cannot be"):
        kvision.receptive_field(permuted)
    fields = kvision.receptive_field(permuted, pointwise_layers=[layers.Permute])
    with pytest.raises(KeyError, match="none"):
        fields["none"]
