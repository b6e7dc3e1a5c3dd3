"""Losses of the deep watershed transform (Bai and Urtasun, CVPR 2017).

The formulas are those of the published code. The weight of a pixel is 200 over the square root of
the area of its object, 0 where there is none: `kvision.ops.watershed_targets` gives it.
"""

import numpy as np
from keras import ops

# Of both unit vectors: the slope of the arc cosine is finite where they agree or are opposed.
_SHORTENED = 0.999999
_SMALLEST_SQUARE = 1e-20
_SMALLEST_PROBABILITY = 1e-25
# Levels near the border, where objects are cut apart, weigh more; those after the last are as it.
_LEVEL_WEIGHTS = (3.0, 3.0, 3.0, 2.0, 1.0)


def unit_vectors(vectors):
    """Divides vectors by their length; a vector shorter than 1e-10 is left next to zero.

    Such a vector has no direction, and passes no gradient.

    Args:
        vectors: Float tensor `(..., D)`.

    Returns:
        Float tensor of the same shape.
    """
    has_direction = _has_direction(vectors)
    square = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    vectors = ops.where(has_direction, vectors, ops.stop_gradient(vectors))
    return vectors * ops.rsqrt(ops.where(has_direction, square, _SMALLEST_SQUARE))


def _has_direction(vectors):
    return ops.sum(ops.square(vectors), axis=-1, keepdims=True) > _SMALLEST_SQUARE


def direction_loss(directions, predictions, weights, *, gate=None, include_ridge=False):
    """Squared angle between the direction of each pixel and the predicted one.

    `sum_p w_p acos(<s u_p, s v_p>)^2 / (number of gate pixels + 1)`, with the unit vectors u of the
    truth and v of the prediction, `s = 0.999999`, and the sums over all pixels of the batch: 4.0e-6
    for equal vectors, 0.616853 at 45 degrees, 9.857042 at 180.

    On its ridges, and wherever it is symmetric, an object has no direction. As published, such a
    pixel costs `acos(0)^2 = 2.467401`, whatever is predicted; here it costs nothing, unless
    `include_ridge` is set. No gradient comes of it either way.

    Args:
        directions: Float tensor `(B, H, W, 2)` of the truth, of any length; (0, 0) where there is
            none.
        predictions: Float tensor `(B, H, W, 2)`, of any length.
        weights: Float tensor `(B, H, W)`, not negative.
        gate: Tensor `(B, H, W)`, true or not 0 at the pixels that belong to an object. `None`:
            where the weights are positive.
        include_ridge: Whether pixels without direction count, as published.

    Returns:
        Scalar, float32.
    """
    directions, predictions, weights = (
        ops.cast(values, "float32") for values in (directions, predictions, weights)
    )
    gate = weights > 0 if gate is None else ops.cast(gate, "bool")
    losses = weights * ops.square(_angle(directions, predictions))
    if not include_ridge:
        losses = ops.where(_has_direction(directions)[..., 0], losses, 0.0)
    return ops.sum(losses) / (ops.sum(ops.cast(gate, "float32")) + 1.0)


def _angle(vectors, others):
    """`acos(s^2 cos)` of the angle between vectors: as `2 atan2(sqrt(1 - x), sqrt(1 + x))`.

    `1 - cos` is half the square of the difference of the unit vectors, and `1 + cos` that of their
    sum; float32 keeps both where it would round the cosine itself to 1 or -1.
    """
    known = _has_direction(vectors) & _has_direction(others)
    vectors, others = unit_vectors(vectors), unit_vectors(others)
    scale = _SHORTENED**2

    def one_plus(sign):
        exact = scale * ops.sum(ops.square(vectors + sign * others), axis=-1) / 2 + (1 - scale)
        plain = 1.0 + sign * scale * ops.sum(vectors * others, axis=-1)
        return ops.where(known[..., 0], exact, plain)

    return 2.0 * ops.arctan2(ops.sqrt(one_plus(-1)), ops.sqrt(one_plus(1)))


def watershed_energy_loss(levels, logits, weights, *, gate=None, level_weights=None, form="binary"):
    """Weighted cross-entropy of the energy levels.

    With the softmax y of the logits, and t the level in one-hot form:

    - `form="binary"`, the published one: a binary term for each of the K levels, `-sum_p w_p sum_k
      c_k [(1 - t_k) log max(1 - y_k, 1e-25) + t_k log max(y_k, 1e-25)] / (sum_p w_p gate_p + 1)`;
    - `form="cross_entropy"`, the usual one: of each pixel only the term of its own level, `-c_k log
      max(y_k, 1e-25)`.

    The sums run over all pixels of the batch. Uniform y over 16 levels cost 9.608537 at level 0 and
    4.192436 at level 8.

    Args:
        levels: Integer tensor `(B, H, W)` in 0..K-1.
        logits: Float tensor `(B, H, W, K)`.
        weights: Float tensor `(B, H, W)`, not negative.
        gate: Tensor `(B, H, W)`, true or not 0 at the pixels whose weights enter the divisor.
            `None`: all.
        level_weights: The K weights c. `None` is 3, 3, 3, 2, 1, ..., 1, as published.
        form: `"binary"` or `"cross_entropy"`.

    Returns:
        Scalar, float32.

    Raises:
        ValueError: For another form, or another number of level weights.
    """
    if form not in ("binary", "cross_entropy"):
        raise ValueError(
            "watershed_energy_loss: `form` must be 'binary' or 'cross_entropy'. "
            f"Received: {form!r}."
        )
    num_levels = logits.shape[-1]
    level_weights = ops.convert_to_tensor(_weights_of(level_weights, num_levels))
    logits, weights = ops.cast(logits, "float32"), ops.cast(weights, "float32")
    truth = ops.one_hot(levels, num_levels, dtype="float32")

    powers = ops.exp(logits - ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True)))
    total = ops.sum(powers, axis=-1, keepdims=True)
    losses = truth * _log(powers / total)
    if form == "binary":
        # `1 - y` of the most probable level is what the others have: the difference would lose it.
        top = ops.one_hot(ops.argmax(logits, axis=-1), num_levels, dtype="bool")
        others = ops.sum(ops.where(top, 0.0, powers), axis=-1, keepdims=True)
        losses += (1.0 - truth) * _log(ops.where(top, others, total - powers) / total)
    losses = -weights * ops.sum(level_weights * losses, axis=-1)
    counted = weights if gate is None else weights * ops.cast(ops.cast(gate, "bool"), "float32")
    return ops.sum(losses) / (ops.sum(counted) + 1.0)


def _log(probabilities):
    return ops.log(ops.maximum(probabilities, _SMALLEST_PROBABILITY))


def _weights_of(level_weights, num_levels):
    if level_weights is None:
        last = _LEVEL_WEIGHTS[-1:] * num_levels
        level_weights = (*_LEVEL_WEIGHTS, *last)[:num_levels]
    if len(level_weights) != num_levels:
        raise ValueError(
            f"watershed_energy_loss: `level_weights` must have one weight for each of the "
            f"{num_levels} levels. Received: {len(level_weights)}."
        )
    return np.asarray(level_weights, "float32")
