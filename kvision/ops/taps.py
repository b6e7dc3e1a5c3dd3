"""The taps of dilated kernels, for the references of atrous pyramid pooling."""

from keras import ops

_FARTHEST = 2**31 - 1  # of int32: farther than any map is large


def product_of_tap(multiply, x, down, right):
    """What every pixel of a map `(batch, height, width, channels)` takes from one tap.

    Args:
        multiply: Function of the part of `x` that the tap finds, which keeps its first three axes.
        x: The map.
        down: How many pixels below the pixel the tap lies.
        right: How many to the right of it.

    Returns:
        What `multiply` gives at the pixels whose tap lies on the map, and zeros at the others: the
        padding is not multiplied.
    """
    steps = [_steps_on_map(down, ops.shape(x)[1]), _steps_on_map(right, ops.shape(x)[2])]
    for axis, offset, size in zip((1, 2), (down, right), steps, strict=True):
        found = slice(size, None) if offset > 0 else slice(None, ops.shape(x)[axis] - size)
        x = x[(slice(None),) * axis + (found,)]
    product = multiply(x)
    for axis, offset, size in zip((1, 2), (down, right), steps, strict=True):
        shape = list(ops.shape(product))
        shape[axis] = size
        padding = ops.zeros(shape, product.dtype)
        parts = [product, padding] if offset > 0 else [padding, product]
        product = ops.concatenate(parts, axis=axis)
    return product


def _steps_on_map(offset, size):
    """How far a tap reaches off the map: all of it at most. `size` may be a tensor."""
    steps = min(abs(offset), _FARTHEST)
    return min(steps, size) if isinstance(size, int) else ops.minimum(steps, size)
