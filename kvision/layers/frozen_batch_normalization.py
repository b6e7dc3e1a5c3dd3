"""Batch normalisation with constant statistics and constant affine weights."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("kvision")
class FrozenBatchNormalization(keras.layers.Layer):
    """Batch normalisation whose four vectors never change.

    Computes ``gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta`` over the last
    axis as one multiplication and one addition. The weights have the names and the order of
    `keras.layers.BatchNormalization`, so weights move freely between the two; none of them is
    ever trainable, whatever `trainable` says. Detectors trained from classification weights use
    it because a batch of two images gives no usable statistics (Ren, He, Girshick, Sun, 2015).

    Input and output: any shape `(..., channels)`. The affine map is folded in float32 under every
    dtype policy.

    Args:
        epsilon: Added to the variance, at least 0.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: If `epsilon` is negative.
    """

    def __init__(self, *, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        if epsilon < 0:
            raise ValueError(
                "FrozenBatchNormalization: `epsilon` must be at least 0. "
                f"Received: epsilon={epsilon}."
            )
        self.epsilon = epsilon

    def build(self, input_shape):
        for name, initializer in (
            ("gamma", "ones"),
            ("beta", "zeros"),
            ("moving_mean", "zeros"),
            ("moving_variance", "ones"),
        ):
            weight = self.add_weight(
                name=name,
                shape=(input_shape[-1],),
                initializer=initializer,
                trainable=False,
                autocast=False,
            )
            setattr(self, name, weight)
        self.built = True

    def scale_and_offset(self):
        """The two vectors `(channels,)` of the map ``x * scale + offset``."""
        scale = self.gamma * ops.rsqrt(self.moving_variance + self.epsilon)
        return scale, self.beta - self.moving_mean * scale

    def call(self, inputs):
        scale, offset = self.scale_and_offset()
        return inputs * ops.cast(scale, inputs.dtype) + ops.cast(offset, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}
