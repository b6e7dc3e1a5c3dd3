"""Batch normalisation that trains with TensorFlow's fused kernel."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("kvision")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, faster where TensorFlow trains it.

    Keras computes mean, variance, normalisation and their gradients by a dozen passes over the map.
    On TensorFlow this layer trains maps `(B, H, W, channels)` by the operation that does it in two
    (Ioffe, Szegedy, 2015, "Batch Normalization"); results, weights and their names are Keras'. In
    inference, in float64, with a mask, renormalisation or replicas in step, and in JAX and PyTorch
    it is Keras' layer.

    Input, output and errors are those of `keras.layers.BatchNormalization`.

    Args:
        axis: int, the axis of the channels.
        momentum: float in [0, 1], the part of the moving statistics that a step keeps.
        epsilon: float, added to the variance.
        center: bool, whether there is an offset `beta`.
        scale: bool, whether there is a factor `gamma`.
        beta_initializer, gamma_initializer: Initializers of both.
        moving_mean_initializer, moving_variance_initializer: Those of the moving statistics.
        beta_regularizer, gamma_regularizer: Regularizers, or `None`.
        beta_constraint, gamma_constraint: Constraints, or `None`.
        renorm: bool, whether it is batch renormalisation.
        renorm_clipping: dict, its bounds, or `None`.
        renorm_momentum: float, the momentum of its statistics.
        synchronized: bool, whether replicas share their statistics.
        **kwargs: Of `keras.layers.Layer`.
    """

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable and mask is None and self._fusable(inputs)):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        x = ops.cast(inputs, "float32")
        ones, zeros = tf.ones(x.shape[-1]), tf.zeros(x.shape[-1])
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            x,
            scale=self.gamma if self.scale else ones,
            offset=self.beta if self.center else zeros,
            epsilon=self.epsilon,
        )
        # The operation divides by n - 1 what is to be kept; Keras by n.
        count = tf.cast(tf.size(x) / x.shape[-1], "float32")
        variance *= (count - 1) / count
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + new * (1 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)

    def _fusable(self, inputs):
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and inputs.shape[-1] is not None
            and not self.renorm
            and not self.synchronized
            and self.variable_dtype == "float32"
            and keras.backend.standardize_dtype(inputs.dtype) != "float64"
        )
