"""Atrous spatial pyramid pooling (Chen, Papandreou, Schroff and Adam, 2017), layer of DeepLab."""

import keras
import numpy as np
from keras import layers, ops

from kvision.layers.batch_normalization import BatchNormalization
from kvision.ops import atrous_pyramid_pooling, depthwise_atrous_pyramid_pooling
from kvision.ops.arguments import is_int


@keras.saving.register_keras_serializable("kvision")
class ASPP(keras.layers.Layer):
    """Looks at a map with several fields of view at once, and at the whole of it.

    A 1x1 convolution, one 3x3 convolution a dilation rate and the mean of the whole map through a
    1x1 convolution, each batch-normalised and with a ReLU, are concatenated; a last 1x1
    convolution, normalised and with a ReLU, projects them. With `separable=True` a 3x3 convolution
    is a depthwise one, normalised and with a ReLU, and a 1x1 one ("Encoder-Decoder with Atrous
    Separable Convolution", 2018).

    The atrous branches are one call of `kvision.ops.atrous_pyramid_pooling` or
    `depthwise_atrous_pyramid_pooling`. The mean's part of the projection, one vector an image, is
    added to it instead of being spread over the map. The whole map is averaged in inference too,
    whatever its size.

    Call arguments:
        inputs: Float `(B, H, W, C)`.
        training: Whether batch statistics are used and dropout is active.

    Returns float `(B, H, W, filters)`.

    Args:
        filters: Channels of each branch and of the result.
        dilation_rates: Dilations of the 3x3 convolutions. (6, 12, 18) is the paper's on a map of
            stride 16, twice as many on one of stride 8.
        separable: Whether the 3x3 convolutions are separable.
        image_pooling: Whether the mean of the map is one of the branches.
        dropout: Rate in [0, 1) of the dropout of the result.
        epsilon: Added to the variance by each normalisation.
        momentum: Of the moving statistics of each normalisation.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: For an argument out of its range.
    """

    def __init__(
        self,
        filters=256,
        *,
        dilation_rates=(6, 12, 18),
        separable=False,
        image_pooling=True,
        dropout=0.1,
        epsilon=1e-5,
        momentum=0.9,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.dilation_rates = _rates(dilation_rates)
        self.separable = separable
        self.image_pooling = image_pooling
        self.dropout = dropout
        self.epsilon = epsilon
        self.momentum = momentum
        self.drop = layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def build(self, input_shape):
        channels, filters = input_shape[-1], self.filters
        count = len(self.dilation_rates)
        self.point_kernel = self._kernel("point_kernel", (1, 1, channels, filters))
        if self.separable:
            self.depthwise_kernels = [
                self._kernel(f"depthwise_kernel{rate}", (3, 3, channels, 1), depthwise=True)
                for rate in self.dilation_rates
            ]
            self.depthwise_norm = self._norm("depthwise_norm", count * channels)
            self.branch_kernels = [
                self._kernel(f"branch_kernel{rate}", (1, 1, channels, filters))
                for rate in self.dilation_rates
            ]
        else:
            self.branch_kernels = [
                self._kernel(f"branch_kernel{rate}", (3, 3, channels, filters))
                for rate in self.dilation_rates
            ]
        self.branch_norm = self._norm("branch_norm", (count + 1) * filters)
        if self.image_pooling:
            self.pooling_kernel = self._kernel("pooling_kernel", (1, 1, channels, filters))
            self.pooling_norm = self._norm("pooling_norm", filters)
        branches = count + 1 + self.image_pooling
        self.projection_kernel = self._kernel(
            "projection_kernel", (1, 1, branches * filters, filters)
        )
        self.projection_norm = self._norm("projection_norm", filters)
        self.built = True

    def _kernel(self, name, shape, *, depthwise=False):
        # Of a depthwise kernel one input channel is all that each output sees.
        fan_in = shape[0] * shape[1] * (1 if depthwise else shape[2])
        initializer = keras.initializers.RandomNormal(stddev=(2 / fan_in) ** 0.5)
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    def _norm(self, name, channels):
        norm = BatchNormalization(
            epsilon=self.epsilon, momentum=self.momentum, dtype=self.dtype_policy, name=name
        )
        norm.build((None, None, None, channels))
        return norm

    def call(self, inputs, training=None):
        x = ops.relu(self.branch_norm(self._branches(inputs, training), training=training))
        seen = x.shape[-1]
        x = ops.conv(x, self.projection_kernel[:, :, :seen])
        if self.image_pooling:
            mean = ops.mean(inputs, axis=(1, 2), keepdims=True)
            pooled = self.pooling_norm(ops.conv(mean, self.pooling_kernel), training=training)
            x = x + ops.conv(ops.relu(pooled), self.projection_kernel[:, :, seen:])
        x = ops.relu(self.projection_norm(x, training=training))
        return self.drop(x, training=training)

    def _branches(self, inputs, training):
        """All branches but the mean's, before their normalisation: `(B, H, W, n * filters)`."""
        if not self.separable:
            return atrous_pyramid_pooling(
                inputs,
                [self.point_kernel, *self.branch_kernels],
                dilation_rates=(1, *self.dilation_rates),
            )
        depthwise = depthwise_atrous_pyramid_pooling(
            inputs, self.depthwise_kernels, dilation_rates=self.dilation_rates
        )
        depthwise = ops.relu(self.depthwise_norm(depthwise, training=training))
        parts = ops.split(depthwise, len(self.dilation_rates), axis=-1)
        return ops.concatenate(
            [
                ops.conv(part, kernel)
                for part, kernel in zip(
                    [inputs, *parts], [self.point_kernel, *self.branch_kernels], strict=True
                )
            ],
            axis=-1,
        )

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "dilation_rates": list(self.dilation_rates),
            "separable": self.separable,
            "image_pooling": self.image_pooling,
            "dropout": self.dropout,
            "epsilon": self.epsilon,
            "momentum": self.momentum,
        }


def _rates(dilation_rates):
    rates = tuple(dilation_rates) if np.iterable(dilation_rates) else ()
    if not rates or not all(is_int(rate) and rate >= 1 for rate in rates):
        raise ValueError(
            "ASPP: `dilation_rates` must be positive integers in a list, one at least. "
            f"Received: {dilation_rates}."
        )
    return tuple(int(rate) for rate in rates)
