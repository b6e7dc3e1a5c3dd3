"""Max unpooling: each value at the place that it was pooled from."""

import keras

from kvision.ops.max_unpool import MaxUnpoolOperation


@keras.saving.register_keras_serializable("kvision")
class MaxUnpooling2D(keras.layers.Layer):
    """`kvision.ops.max_unpool` as a layer: undoes a `MaxPoolingWithArgmax2D`.

    Called as `layer(x, argmax, like)`, where `like` is a tensor `(batch, height, width, any)` of
    which nothing but the size is taken: the one that was pooled gives its size back, odd and
    unknown ones too. With an `output_size` of its own it is called as `layer(x, argmax)`.

        pooled, argmax = MaxPoolingWithArgmax2D(padding="same")(x)
        restored = MaxUnpooling2D()(pooled, argmax, x)

    Args:
        output_size: Pair `(height, width)` of the result, or `None`.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: For an argument out of its range, or tensors that the op refuses.
    """

    def __init__(self, output_size=None, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.operation = MaxUnpoolOperation(output_size=output_size)

    def build(self, x_shape, argmax_shape, like_shape=None):
        self.built = True

    def call(self, x, argmax, like=None):
        return self.operation.call(x, argmax, like)

    def compute_output_spec(self, x, argmax, like=None):
        return self.operation.compute_output_spec(x, argmax, like)

    def compute_output_shape(self, x_shape, argmax_shape, like_shape=None):
        return self.operation.compute_output_shape(x_shape, argmax_shape, like_shape)

    def get_config(self):
        return {**super().get_config(), "output_size": self.operation.output_size}
