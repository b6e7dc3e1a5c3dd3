"""Head of the third kind: which pixels of a region are the object's."""

import keras
from keras import ops

_MSRA = {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"}


@keras.saving.register_keras_serializable("kvision")
class MaskHead(keras.layers.Layer):
    """Draws the mask of one class in each pooled region.

    3x3 convolutions with ReLU, a 2x2 transposed convolution of stride 2 with ReLU, and a 1x1
    convolution to one mask a class (He, Gkioxari, Dollár, Girshick, "Mask R-CNN", 2017, figure 4:
    four 3x3 convolutions on a feature pyramid, none behind a backbone's last stage). Of its masks
    only the one of the class that is asked for is computed: no other is read, nor gets a gradient.
    Convolutions start from He's normal distribution by fan-out, the last from N(0, 0.001^2).

    Input: `(B, R, h, w, C)`, pooled features, C static, and classes `(B, R)` int32: the column of
    the last convolution; one below 0 counts as 0.
    Output: logits `(B, R, 2h, 2w)`, float32 under every dtype policy.

    Args:
        num_masks: Columns of the last convolution, positive: one a class.
        filters: Channels of the convolutions before it, positive.
        num_convs: Number of 3x3 convolutions, at least 0.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: For an argument out of its range.
    """

    def __init__(self, num_masks, *, filters=256, num_convs=4, **kwargs):
        super().__init__(**kwargs)
        if num_masks < 1 or filters < 1 or num_convs < 0:
            raise ValueError(
                "MaskHead: `num_masks` and `filters` must be positive, `num_convs` at least 0. "
                f"Received: num_masks={num_masks}, filters={filters}, num_convs={num_convs}."
            )
        self.num_masks = num_masks
        self.filters = filters
        self.num_convs = num_convs
        self.convs = [
            keras.layers.Conv2D(
                filters,
                3,
                padding="same",
                activation="relu",
                kernel_initializer=keras.initializers.VarianceScaling(**_MSRA),
                dtype=self.dtype_policy,
                name=f"conv_{index}",
            )
            for index in range(1, num_convs + 1)
        ]
        self.upsampling = keras.layers.Conv2DTranspose(
            filters,
            2,
            strides=2,
            kernel_initializer=keras.initializers.VarianceScaling(**_MSRA),
            dtype=self.dtype_policy,
            name="upsampling",
        )
        self.predictor = keras.layers.Conv2D(
            num_masks,
            1,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.001),
            dtype="float32",
            name="predictor",
        )

    def build(self, regions_shape, classes_shape=None):
        channels = regions_shape[-1]
        for layer in self.convs:
            layer.build((None, None, None, channels))
            channels = self.filters
        self.upsampling.build((None, None, None, channels))
        self.predictor.build((None, None, None, self.filters))
        self.built = True

    def call(self, regions, classes):
        batch, count, height, width, channels = ops.shape(regions)
        x = ops.reshape(regions, (batch * count, height, width, channels))
        for layer in self.convs:
            x = layer(x)
        x = self._enlarged(ops.reshape(x, (batch * count * height * width, x.shape[-1])))
        x = ops.reshape(x, (batch * count, height * width * 4, self.filters))
        logits = self._of_class(x, ops.reshape(ops.maximum(classes, 0), (batch * count,)))
        # Only now do the four pixels that each cell became go to their places.
        logits = ops.reshape(logits, (batch * count, height, width, 2, 2))
        logits = ops.transpose(logits, (0, 1, 3, 2, 4))
        return ops.reshape(logits, (batch, count, 2 * height, 2 * width))

    def _enlarged(self, cells):
        """The transposed convolution, whose windows do not overlap: `(N, C)` to `(N, 4 * F)`."""
        layer, dtype = self.upsampling, self.compute_dtype
        kernel = ops.reshape(ops.cast(layer.kernel, dtype), (4 * self.filters, -1))
        bias = ops.tile(ops.cast(layer.bias, dtype), 4)
        return ops.relu(ops.matmul(ops.cast(cells, dtype), ops.transpose(kernel)) + bias)

    def _of_class(self, pixels, classes):
        """The last convolution, of one column a region: `(N, P, F)` and `(N,)` to `(N, P)`."""
        # Under mixed precision the weights of a layer inside arrive in the lower one.
        kernels = ops.cast(self.predictor.kernel, "float32")
        kernels = ops.reshape(kernels, (self.filters, self.num_masks))
        kernels = ops.take(ops.transpose(kernels), classes, axis=0)
        # Not `take`: XLA cannot sum the gradient of rows that a branch took of a weight.
        rows = ops.one_hot(classes, self.num_masks, dtype="float32")
        bias = ops.matmul(rows, ops.cast(self.predictor.bias, "float32")[:, None])
        products = ops.matmul(ops.cast(pixels, "float32"), kernels[:, :, None])
        return products[:, :, 0] + bias

    def get_config(self):
        return {
            **super().get_config(),
            "num_masks": self.num_masks,
            "filters": self.filters,
            "num_convs": self.num_convs,
        }
