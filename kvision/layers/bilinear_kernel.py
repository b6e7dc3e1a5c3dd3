"""A transposed convolution that begins as bilinear upsampling."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("kvision")
class BilinearKernel(keras.initializers.Initializer):
    """Kernel with which `Conv2DTranspose` enlarges each channel bilinearly, to be learned on.

    Of a kernel of twice the strides: 0.25, 0.75, 0.75, 0.25 along each axis for strides of 2, and
    0.125, 0.375, 0.625, 0.875, 0.875, ... for 4. Output channel i is input channel i; channels that
    only one side has are 0. Source: Long, Shelhamer and Darrell, "Fully Convolutional Networks for
    Semantic Segmentation", CVPR 2015.
    """

    def __call__(self, shape, dtype=None):
        """Makes the kernel.

        Args:
            shape: `(height, width, output channels, input channels)`.
            dtype: Of the kernel; Keras' float type by default.

        Returns:
            A tensor of that shape.
        """
        height, width, outputs, inputs = shape
        window = np.outer(_triangle(height), _triangle(width))
        kernel = window[:, :, None, None] * np.eye(outputs, inputs)
        return ops.convert_to_tensor(kernel, dtype or keras.config.floatx())


def _triangle(size):
    factor = (size + 1) // 2
    return 1.0 - np.abs(np.arange(size) - (size - 1) / 2) / factor
