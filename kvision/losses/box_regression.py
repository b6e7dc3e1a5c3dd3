"""Losses of box offsets."""

from keras import ops


def smooth_l1(targets, predictions, beta=1.0):
    """Squared near zero, absolute beyond `beta`, summed over the last axis.

    With `d = |targets - predictions|`: `0.5 d^2 / beta` where `d < beta`, else `d - 0.5 beta`.
    Source: Girshick, "Fast R-CNN", 2015; its sigma is `1 / sqrt(beta)`.

    Args:
        targets: Float tensor `(..., D)`.
        predictions: Float tensor `(..., D)`.
        beta: Non-negative number; 0 gives the absolute difference.

    Returns:
        Float tensor `(...)`.
    """
    difference = ops.abs(targets - predictions)
    if beta == 0.0:
        return ops.sum(difference, axis=-1)
    near = 0.5 / beta * ops.square(difference)
    return ops.sum(ops.where(difference < beta, near, difference - 0.5 * beta), axis=-1)


def squared_error(targets, predictions):
    """Sum of the squared differences over the last axis.

    Args:
        targets: Float tensor `(..., D)`.
        predictions: Float tensor `(..., D)`.

    Returns:
        Float tensor `(...)`.
    """
    return ops.sum(ops.square(targets - predictions), axis=-1)
