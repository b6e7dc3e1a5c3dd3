"""Small nets that between them have every kind of window, as functions of a `KerasTensor`."""

import keras
from keras import layers


def conv(x, filters, kernel_size, strides=1, **kwargs):
    return layers.Conv2D(filters, kernel_size, strides=strides, activation="relu", **kwargs)(x)


def pools_and_valid_convolutions(x):
    x = conv(x, 4, 3)
    x = layers.MaxPooling2D(2)(x)
    x = conv(x, 4, (1, 3))
    x = layers.MaxPooling2D(3, 2)(x)
    return layers.AveragePooling2D(2)(conv(x, 5, 2))


# Where it pads more after a map than before, Keras averages copies of the border on PyTorch.
_ON_TORCH = keras.backend.backend() == "torch"
StridedPooling2D = layers.MaxPooling2D if _ON_TORCH else layers.AveragePooling2D


def same_everywhere(x):
    x = conv(x, 4, 3, 2, padding="same")
    x = StridedPooling2D(3, 2, padding="same")(x)
    x = layers.AveragePooling2D(3, 1, padding="same")(x)
    x = conv(x, 4, (4, 2), padding="same", dilation_rate=(1, 3))
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    return conv(x, 5, 5, padding="same")


def residual_of_unequal_windows(x):
    x = conv(x, 4, 3, 2, padding="same")
    shortcut = layers.AveragePooling2D(2, 2, padding="same")(x)
    y = layers.ZeroPadding2D(1)(layers.BatchNormalization()(x))
    y = layers.DepthwiseConv2D(3, strides=2)(y)
    x = layers.add([shortcut, y, layers.Conv2D(4, 1, strides=2, padding="same")(x)])
    x = layers.concatenate([x, conv(x, 2, 1)])
    y = layers.SeparableConv2D(6, 3, strides=2, padding="same")(x)
    return layers.ReLU()(y + 0.5 * x[:, ::2, ::2])


def squeeze_and_excite(x):
    x = conv(x, 4, 3, 2, padding="same")
    x = conv(x, 4, 3, 2, padding="same", groups=2)
    scale = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.multiply([x, layers.Dense(4, activation="sigmoid")(scale)])
    return keras.ops.relu(layers.LayerNormalization()(layers.MaxPooling2D(3, 2, "same")(x)))


def models_in_a_model(x):
    stem = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 4, strides=4)])
    inputs = keras.Input((None, None, 4))
    block = keras.Model(inputs, layers.add([conv(inputs, 4, 3, padding="same"), inputs]))
    x = block(block(stem(layers.Rescaling(2.0)(x))))
    x = layers.Cropping2D(((1, 0), (0, 1)))(layers.MaxPooling2D(1, 2)(x))
    return conv(x, 4, 3, padding="same")


class Block(layers.Layer):
    """A layer made of layers, as other libraries have them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convolution = layers.Conv2D(4, 3, strides=2, padding="same")
        self.pooling = layers.GlobalAveragePooling2D(keepdims=True)
        self.gate = layers.Conv2D(4, 1, activation="sigmoid")

    def build(self, input_shape):
        self.convolution.build(input_shape)
        self.gate.build((None, 1, 1, 4))

    def call(self, inputs):
        x = keras.ops.relu(self.convolution(inputs))
        return x * self.gate(self.pooling(x))


def focus_and_blocks(x):
    x = keras.ops.flip(x, axis=-1)
    quarters = [x[:, a::2, b::2] for a in (0, 1) for b in (0, 1)]
    x = layers.Lambda(lambda each: 2 * each[..., :7])(layers.Concatenate()(quarters))
    return keras.ops.flip(Block()(Block()(x)), axis=-1)


def windows_smaller_than_strides(x):
    x = layers.AveragePooling2D(1, 2)(conv(x, 4, 2, 2, padding="same"))
    return layers.MaxPooling2D(2, 3, padding="same")(x)


NETS = [
    pools_and_valid_convolutions,
    same_everywhere,
    residual_of_unequal_windows,
    squeeze_and_excite,
    models_in_a_model,
    windows_smaller_than_strides,
]
