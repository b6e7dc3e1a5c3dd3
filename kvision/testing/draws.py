"""Values of an op's inputs: each function returns a `draw(rng, shape, sizes)` for a table.

`rng` is a `numpy.random.Generator`, `shape` the shape of the input, `sizes` the sizes of all named
axes, for inputs whose values depend on the size of another. A draw returns an array of any dtype
that holds the values; the harness rounds them to the dtype of the input.
"""

import numpy as np


def normal(mean=0.0, deviation=1.0):
    """Normally distributed values.

    Args:
        mean: Their mean.
        deviation: Their standard deviation.
    """
    return lambda rng, shape, sizes: rng.normal(mean, deviation, shape)


def uniform(low=0.0, high=1.0):
    """Evenly distributed values in [low, high).

    Args:
        low: The least value.
        high: The bound above.
    """
    return lambda rng, shape, sizes: rng.uniform(low, high, shape)


def integers(low, high):
    """Integers in [low, high).

    Args:
        low: The least value.
        high: The bound above.
    """
    return lambda rng, shape, sizes: rng.integers(low, high, shape)


def booleans(probability=0.5):
    """True with the given probability.

    Args:
        probability: Of true, in [0, 1].
    """
    return lambda rng, shape, sizes: rng.random(shape) < probability


def boxes(low=0.0, high=32.0, largest=16.0):
    """Boxes `(..., 4)`, `xyxy`, of positive extent.

    Args:
        low: Least coordinate of the first corner.
        high: Greatest coordinate of the first corner.
        largest: Greatest width and height.
    """

    def draw(rng, shape, sizes):
        corner = rng.uniform(low, high, (*shape[:-1], 2))
        extent = rng.uniform(largest / 8, largest, (*shape[:-1], 2))
        return np.concatenate([corner, corner + extent], axis=-1)

    return draw


def distinct(low=0.0, high=1.0):
    """Values evenly spread over (low, high) in random order, no two of them equal.

    Args:
        low: Bound below.
        high: Bound above.
    """

    def draw(rng, shape, sizes):
        count = int(np.prod(shape))
        return low + (high - low) * (rng.permutation(count).reshape(shape) + 0.5) / max(count, 1)

    return draw


def constant(value):
    """The same values in every call, broadcast to the shape of the input.

    Args:
        value: A number or array.
    """
    return lambda rng, shape, sizes: np.broadcast_to(np.asarray(value), shape)
