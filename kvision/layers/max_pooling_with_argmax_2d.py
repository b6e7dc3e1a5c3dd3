"""Max pooling that tells where each maximum was."""

import keras

from kvision.ops.max_pool_with_argmax import MaxPoolWithArgmaxOperation


@keras.saving.register_keras_serializable("kvision")
class MaxPoolingWithArgmax2D(keras.layers.Layer):
    """`kvision.ops.max_pool_with_argmax` as a layer: the first half of a `MaxUnpooling2D`.

    `(batch, height, width, channels)` gives a pair `(pooled, argmax)` of shape
    `(batch, pooled_height, pooled_width, channels)`, of the dtype of the input and int32.

    Args:
        pool_size: Size of a window, an int or a pair `(height, width)`.
        strides: From one window to the next, an int or a pair; by default `pool_size`.
        padding: `"valid"` or `"same"`, see `kvision.ops.max_pool_with_argmax`.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: For an argument out of its range, or a tensor that the op refuses.
    """

    def __init__(self, pool_size=2, strides=None, padding="valid", **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.operation = MaxPoolWithArgmaxOperation(
            pool_size=pool_size, strides=strides, padding=padding
        )

    def build(self, x_shape):
        self.built = True

    def call(self, x):
        return self.operation.call(x)

    def compute_output_spec(self, x):
        return self.operation.compute_output_spec(x)

    def compute_output_shape(self, x_shape):
        shape = self.operation.compute_output_shape(x_shape)
        return shape, shape

    def get_config(self):
        return {
            **super().get_config(),
            "pool_size": self.operation.pool_size,
            "strides": self.operation.strides,
            "padding": self.operation.padding,
        }
