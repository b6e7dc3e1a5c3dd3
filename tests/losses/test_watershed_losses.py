"""The losses of the deep watershed transform, against scalars computed from the formulas."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from kvision.losses import direction_loss, watershed_energy_loss
from kvision.testing.vjp import vjp

LEVEL_WEIGHTS = [3, 3, 3, 2] + [1] * 12


def _unit(x, y):
    length = max(x * x + y * y, 1e-20) ** 0.5
    return x / length, y / length


def scalar_direction_loss(directions, predictions, weights, gate, include_ridge):
    total, gates = 0.0, 0
    for p in np.ndindex(weights.shape):
        gates += bool(gate[p])
        if not (include_ridge or np.any(directions[p])):
            continue
        (ux, uy), (vx, vy) = _unit(*map(float, directions[p])), _unit(*map(float, predictions[p]))
        s = 0.999999
        total += weights[p] * np.arccos(s * ux * s * vx + s * uy * s * vy) ** 2
    return total / (gates + 1)


def scalar_energy_loss(levels, logits, weights, gate, level_weights, binary=True):
    total, counted = 0.0, 0.0
    for p in np.ndindex(weights.shape):
        counted += weights[p] * gate[p]
        powers = np.exp(logits[p].astype("float64") - logits[p].max()).tolist()
        for k, c in enumerate(level_weights):
            y = powers[k] / sum(powers)
            others = sum(powers[:k] + powers[k + 1 :]) / sum(powers)
            if levels[p] == k:
                total -= weights[p] * c * math.log(max(y, 1e-25))
            elif binary:
                total -= weights[p] * c * math.log(max(others, 1e-25))
    return total / (counted + 1)


def _value(loss, *tensors, **arguments):
    return float(ops.convert_to_numpy(loss(*tensors, **arguments)))


def _angle(degrees, gate=0):
    radians = np.radians(degrees)
    truth = np.array([1.0, 0.0], "float32").reshape(1, 1, 1, 2)
    predicted = np.array([np.cos(radians), np.sin(radians)], "float32").reshape(1, 1, 1, 2)
    one = np.ones((1, 1, 1), "float32")
    return _value(direction_loss, truth, predicted, one, gate=gate * one)


@pytest.mark.parametrize(
    ("degrees", "expected"), [(0, 4.0e-6), (45, 0.616853), (90, 2.467401), (180, 9.857042)]
)
def test_golden_values_of_the_direction_loss(degrees, expected):
    # The golden values have no divisor; without a gate it is 1.
    assert _angle(degrees) == pytest.approx(expected, rel=1e-5, abs=1e-10)
    assert _angle(degrees, gate=1) == pytest.approx(_angle(degrees) / 2, rel=1e-6)


@pytest.mark.parametrize("include_ridge", [True, False])
def test_a_pixel_without_direction(include_ridge):
    nothing = np.zeros((1, 1, 1, 2), "float32")
    predicted = np.array([3.0, 4.0], "float32").reshape(1, 1, 1, 2)
    one = np.ones((1, 1, 1), "float32")
    arguments = {"gate": 0 * one, "include_ridge": include_ridge}
    loss = _value(direction_loss, nothing, predicted, one, **arguments)
    assert loss == pytest.approx(2.467401 if include_ridge else 0, rel=1e-6)
    (gradient,) = vjp(
        lambda values: direction_loss(nothing, values[0], one, **arguments),
        [ops.convert_to_tensor(predicted)],
        np.float32(1),
    )[1]
    np.testing.assert_array_equal(gradient, 0 * predicted)


@pytest.mark.parametrize(
    ("probabilities", "level", "expected"),
    [
        ([1 / 16] * 16, 0, 9.608537),
        ([1 / 16] * 16, 3, 6.900486),
        ([1 / 16] * 16, 8, 4.192436),
        ([0.02, 0.02, 0.7] + [0.02] * 13, 2, 1.474079),
        ([0.02, 0.02, 0.7] + [0.02] * 13, 5, 7.907793),
    ],
)
def test_golden_values_of_the_energy_loss(probabilities, level, expected):
    logits = np.log(np.array(probabilities, "float32")).reshape(1, 1, 1, 16)
    levels = np.full((1, 1, 1), level, "int32")
    one = np.ones((1, 1, 1), "float32")
    loss = _value(watershed_energy_loss, levels, logits, one, gate=0 * one)
    assert loss == pytest.approx(expected, rel=1e-5)
    plain = _value(watershed_energy_loss, levels, logits, one, gate=0 * one, form="cross_entropy")
    assert plain == pytest.approx(-LEVEL_WEIGHTS[level] * np.log(probabilities[level]), rel=1e-5)


def _random_case(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 4, 3))
    gate = rng.random(shape) < 0.7
    weights = (gate * rng.uniform(0.5, 50, shape)).astype("float32")
    directions = rng.normal(size=(*shape, 2)).astype("float32")
    directions[rng.random(shape) < 0.2] = 0
    # Of all lengths, some of the very direction or its opposite.
    predictions = rng.normal(size=(*shape, 2)) * 10.0 ** rng.uniform(-6, 6, (*shape, 1))
    parallel = rng.random(shape) < 0.2
    predictions[parallel] = (directions * rng.choice([-2.0, 3.0], (*shape, 1)))[parallel]
    num_levels = int(rng.integers(2, 17))
    levels = rng.integers(0, num_levels, shape).astype("int32")
    scale = 10.0 ** rng.uniform(-2, 2)
    logits = (scale * rng.normal(size=(*shape, num_levels))).astype("float32")
    return gate, weights, directions, predictions.astype("float32"), levels, logits


@pytest.mark.parametrize("seed", range(200))
def test_against_scalars(seed):
    gate, weights, directions, predictions, levels, logits = _random_case(seed)
    for include_ridge in (True, False):
        expected = scalar_direction_loss(directions, predictions, weights, gate, include_ridge)
        received = _value(
            direction_loss, directions, predictions, weights, gate=gate, include_ridge=include_ridge
        )
        assert received == pytest.approx(expected, rel=1e-5)
    level_weights = LEVEL_WEIGHTS[: logits.shape[-1]]
    for form in ("binary", "cross_entropy"):
        expected = scalar_energy_loss(
            levels, logits, weights, gate, level_weights, form == "binary"
        )
        received = _value(watershed_energy_loss, levels, logits, weights, gate=gate, form=form)
        assert received == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1.0, 1e4])
def test_gradients_are_finite(scale):
    _, weights, directions, predictions, levels, logits = _random_case(7)
    weights = weights + 1.0
    directions[0, 0, 0] = (1.0, 0.0)
    for vectors in (predictions, directions, -directions):
        _, (gradient,) = vjp(
            lambda values: direction_loss(directions, values[0], weights),
            [ops.convert_to_tensor(scale * vectors)],
            np.float32(1),
        )
        assert np.isfinite(gradient).all()
    for form in ("binary", "cross_entropy"):
        _, (gradient,) = vjp(
            lambda values, form=form: watershed_energy_loss(levels, values[0], weights, form=form),
            [ops.convert_to_tensor(np.float32(scale) * logits)],
            np.float32(1),
        )
        assert np.isfinite(gradient).all()


def test_the_gradient_of_the_direction_loss_by_differences():
    rng = np.random.default_rng(3)
    directions, predictions = rng.normal(size=(2, 1, 2, 3, 2)).astype("float32")
    weights = rng.uniform(1, 2, (1, 2, 3)).astype("float32")
    gate = weights > 0
    _, (gradient,) = vjp(
        lambda values: direction_loss(directions, values[0], weights),
        [ops.convert_to_tensor(predictions)],
        np.float32(1),
    )
    for index in np.ndindex(predictions.shape):
        step = np.zeros_like(predictions, "float64")
        step[index] = 1e-5
        above, below = (
            scalar_direction_loss(directions, predictions + sign * step, weights, gate, True)
            for sign in (1, -1)
        )
        assert gradient[index] == pytest.approx((above - below) / 2e-5, rel=1e-3, abs=1e-4)


def test_a_certain_mistake_is_felt():
    # 1 - y of the level that is taken for sure has vanished in float32, its logarithm has not.
    logits = np.array([60.0, 0.0, 0.0], "float32").reshape(1, 1, 1, 3)
    one = np.ones((1, 1, 1), "float32")
    loss, (gradient,) = vjp(
        lambda values: watershed_energy_loss(
            np.ones((1, 1, 1), "int32"), values[0], one, gate=0 * one, level_weights=(1, 1, 1)
        ),
        [ops.convert_to_tensor(logits)],
        np.float32(1),
    )
    # log(1 - y_0) = log 2 - 60 is cut off at 1e-25, as log y_1 = -60 is.
    assert float(loss) == pytest.approx(2 * 25 * np.log(10), rel=1e-5)
    assert np.isfinite(gradient).all()
    _, (gradient,) = vjp(
        lambda values: watershed_energy_loss(
            np.ones((1, 1, 1), "int32"), values[0], one, gate=0 * one, level_weights=(1, 1, 1)
        ),
        [ops.convert_to_tensor(logits / 2)],
        np.float32(1),
    )
    np.testing.assert_allclose(np.ravel(gradient), [2.0, -1.5, -0.5], rtol=1e-4)


def test_refusals():
    one, logits = np.ones((1, 1, 1), "float32"), np.zeros((1, 1, 1, 4), "float32")
    with pytest.raises(ValueError, match=r"`form` must be .*Received: 'hinge'"):
        watershed_energy_loss(one.astype("int32"), logits, one, form="hinge")
    with pytest.raises(ValueError, match=r"each of the 4 levels. Received: 3"):
        watershed_energy_loss(one.astype("int32"), logits, one, level_weights=(1, 1, 1))


def test_half_precision_is_computed_in_float32():
    _, weights, directions, predictions, levels, logits = _random_case(5)
    half = [ops.cast(values, "bfloat16") for values in (predictions, logits)]
    for loss in (
        direction_loss(directions, half[0], weights),
        watershed_energy_loss(levels, half[1], weights),
    ):
        assert keras.backend.standardize_dtype(loss.dtype) == "float32"
