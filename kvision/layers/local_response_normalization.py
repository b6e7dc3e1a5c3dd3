"""Local response normalisation across channels (Krizhevsky, Sutskever and Hinton, 2012)."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("kvision")
class LocalResponseNormalization(keras.layers.Layer):
    """Divides each value by a power of the squares in the channels around it.

    `x / (bias + alpha / size * sum(x^2))^beta`, the sum over the `size` channels centred at the
    value's, of those that there are. The paper, and `tf.nn.local_response_normalization`, do not
    divide `alpha` by `size`; Caffe and PyTorch do, and the defaults are Caffe's.

    Input and output: `(..., channels)`, any real input, computed in float32 at least; the output
    has the compute dtype of the layer.

    Args:
        size: Number of channels of a sum, odd.
        alpha: Weight of the sum.
        beta: Exponent.
        bias: Added to the weighted sum, above 0.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: If `size` is not odd and positive, or `bias` not positive.
    """

    def __init__(self, size=5, alpha=1e-4, beta=0.75, bias=1.0, **kwargs):
        super().__init__(autocast=False, **kwargs)
        if size < 1 or size % 2 != 1:
            raise ValueError(
                f"LocalResponseNormalization: `size` must be odd and positive. Received: {size}."
            )
        if not bias > 0:
            raise ValueError(
                f"LocalResponseNormalization: `bias` must be positive. Received: {bias}."
            )
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.bias = bias

    def build(self, input_shape):
        self.built = True

    def call(self, x):
        dtype = "float64" if self.compute_dtype == "float64" else "float32"
        x = ops.cast(x, dtype)
        reach = self.size // 2
        squares = ops.pad(ops.square(x), [(0, 0)] * (len(x.shape) - 1) + [(reach, reach)])
        channels = x.shape[-1]
        sums = sum(squares[..., first : first + channels] for first in range(self.size))
        scale = self.bias + self.alpha / self.size * sums
        return ops.cast(x * ops.power(scale, -self.beta), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "size": self.size,
            "alpha": self.alpha,
            "beta": self.beta,
            "bias": self.bias,
        }
