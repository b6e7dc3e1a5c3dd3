"""Elastic deformation: one field of displacements for an image and for all that lies on it.

The strength and the probability are those of `keras.layers.RandomElasticTransform`; the field is
drawn here. Keras 3.15 draws one for the masks and another for the image, moves x and y by the same
number (on TensorFlow and JAX), ignores the seed on PyTorch, and takes the first image for all where
``tf.data`` does not know the size of a batch.
"""

import math


def draw_displacements(layer, sampled, shape):
    """Draw how far every pixel looks aside.

    White noise is blurred by a Gaussian, as the layer's documentation says: with the distortion
    factor f that was sampled, ``sigma = 0.05 f min(H, W)`` pixels, and the displacements have a
    standard deviation of ``alpha / (2 sqrt(pi))`` with ``alpha = 0.1 f max(H, W)`` pixels.

    Args:
        layer: `keras.layers.RandomElasticTransform`; its ``backend`` computes.
        sampled: what its ``get_random_transformation`` gave, not None.
        shape: ``(B, H, W)``, as the backend knows it.

    Returns:
        float32 ``(B, H, W, 2)``, down and to the right in pixels; 0 for images that are left alone.
    """
    xp = layer.backend.numpy
    batch_size, height, width = shape
    alpha, sigma = layer.get_elastic_transform_params(height, width, sampled["distortion_factor"])
    noise = layer.backend.random.normal((batch_size, height, width, 2), seed=sampled["seed"])
    noise = xp.einsum("yh,bhwd->bywd", _blur(height, sigma, xp), noise)
    noise = xp.einsum("xw,bywd->byxd", _blur(width, sigma, xp), noise)
    applied = layer.backend.cast(sampled["apply_transform"], "float32")
    return alpha * sigma * noise * applied[:, None, None, None]


def _blur(size, sigma, xp):
    """Convolution with a normalised Gaussian, zeros beyond the ends, as a matrix."""
    sigma = xp.maximum(sigma, 1e-3)
    offsets = xp.arange(-size + 1, size, dtype="float32")
    places = xp.arange(size, dtype="float32")
    total = xp.sum(xp.exp(-((offsets / sigma) ** 2) / 2))
    return xp.exp(-(((places[:, None] - places) / sigma) ** 2) / 2) / total


def deform(values, displacements, backend, *, interpolation, fill_mode, fill_value=0.0):
    """Take each pixel from where its displacement points.

    Args:
        values: float32 ``(B, H, W, C)``.
        displacements: float32 ``(B, H, W, 2)``.
        backend: Keras' backend that computes.
        interpolation: ``"bilinear"`` or ``"nearest"``.
        fill_mode: what lies beyond the edges, ``"constant"``, ``"nearest"``, ``"reflect"``,
            ``"mirror"`` or ``"wrap"``, as in `keras.layers.RandomElasticTransform`.
        fill_value: float, for ``"constant"``.

    Returns:
        float32 ``(B, H, W, C)``.
    """
    xp = backend.numpy
    height, width, channels = values.shape[1:]
    flat = xp.reshape(values, (-1, channels))
    image = xp.cumsum(xp.ones_like(displacements[..., 0], dtype="int32"), 0) - 1
    y = displacements[..., 0] + xp.arange(height, dtype="float32")[:, None]
    x = displacements[..., 1] + xp.arange(width, dtype="float32")

    def pixels(row, column):
        """The values at whole numbers of rows and columns, wherever they are."""
        row, above = _within(row, height, fill_mode, xp)
        column, left = _within(column, width, fill_mode, xp)
        row, column = backend.cast(row, "int32"), backend.cast(column, "int32")
        place = (image * height + row) * width + column
        inside = xp.logical_and(above, left)[..., None]
        return xp.where(inside, xp.take(flat, place, axis=0), fill_value)

    if interpolation == "nearest":
        return pixels(xp.floor(y + 0.5), xp.floor(x + 0.5))
    row, column = xp.floor(y), xp.floor(x)
    down, right = (y - row)[..., None], (x - column)[..., None]
    upper = pixels(row, column) * (1 - right) + pixels(row, column + 1) * right
    lower = pixels(row + 1, column) * (1 - right) + pixels(row + 1, column + 1) * right
    return upper * (1 - down) + lower * down


def _within(index, size, fill_mode, xp):
    """Indices of existing pixels for any whole numbers, and whether these stand for themselves."""
    if fill_mode == "wrap":
        index = xp.mod(index, size)
    elif fill_mode == "reflect":
        index = xp.mod(index, 2 * size)
        index = xp.minimum(index, 2 * size - 1 - index)
    elif fill_mode == "mirror":
        index = xp.mod(index, max(2 * size - 2, 1))
        index = xp.minimum(index, 2 * size - 2 - index)
    clipped = xp.clip(index, 0, size - 1)
    return clipped, clipped == index if fill_mode == "constant" else clipped > -math.inf
