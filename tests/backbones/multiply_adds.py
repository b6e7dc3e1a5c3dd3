"""An independent count of multiplications: each kernel once at every position of its output."""

import keras
import numpy as np


def multiply_adds(model, height, width):
    """Multiply-adds of the convolutions of a functional model, for one image.

    Args:
        model: Functional model of images.
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        Their number; pooling, normalisation and activations are not counted.
    """
    convolutions = [layer for layer in model.layers if hasattr(layer, "kernel")]
    maps = keras.Model(model.inputs, [layer.output for layer in convolutions])
    shapes = maps.compute_output_shape((1, height, width, 3))
    return sum(
        int(np.prod(layer.kernel.shape)) * shape[1] * shape[2]
        for layer, shape in zip(convolutions, shapes, strict=True)
    )
