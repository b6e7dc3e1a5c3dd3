"""F1 and Dice losses: worked values, Keras' Dice, the formula pixel by pixel."""

import keras
import numpy as np
import pytest
from keras import ops

from kvision.losses import SoftDice, SoftF1
from kvision.testing import vjp

# The worked example: probabilities 0.9, 0.2, 0.6, 0.3, 0.1, 0.5 of six pixels.
TRUTH = np.array([1, 0, 1, 1, 0, 0]).reshape(1, 1, 6)
CHANCE = np.array([0.9, 0.2, 0.6, 0.3, 0.1, 0.5]).reshape(1, 1, 6)
LOGIT = np.log(CHANCE / (1 - CHANCE)).astype("float32")

RNG = np.random.default_rng(11)
LOGITS = RNG.normal(0, 2, (3, 4, 6, 4)).astype("float32")
LABELS = RNG.integers(0, 3, (3, 4, 6))  # class 3 is nowhere
LABELS[RNG.random(LABELS.shape) < 0.2] = 255
LABELS[2] = 255
WEIGHTS = RNG.uniform(0, 2, LABELS.shape)
CLASS_WEIGHT = [0.0, 1.0, 2.5, 1.5]


def test_the_worked_example():
    loss = SoftF1(activation="sigmoid")
    value, gradient = vjp(lambda x: loss(TRUTH, x), LOGIT, np.ones((), "float32"))
    assert value == pytest.approx(-0.642857, abs=1e-6)
    slope = gradient / (CHANCE * (1 - CHANCE))  # by the probability, not by the logit
    np.testing.assert_allclose(slope, np.where(TRUTH == 1, -0.242347, 0.114796), 0, 1e-5)
    dice = SoftDice(activation="sigmoid", epsilon=0.0)
    assert float(dice(TRUTH, LOGIT)) == pytest.approx(0.357143, abs=1e-6)
    squared = SoftDice(activation="sigmoid", epsilon=0.0, squared=True)
    expected = 1 - 2 * np.sum(TRUTH * CHANCE) / (np.sum(TRUTH) + np.sum(CHANCE**2))
    assert float(squared(TRUTH, LOGIT)) == pytest.approx(expected, abs=1e-6)


def test_the_confusion_table_of_the_seed():
    """TP 50, FN 50, FP 450, TN 450: precision .1, recall .5, F1 .166667."""
    truth = np.repeat([1, 1, 0, 0], [50, 50, 450, 450]).reshape(1, 20, 50)
    found = np.repeat([1, 0, 1, 0], [50, 50, 450, 450]).reshape(1, 20, 50)
    logits = np.where(found == 1, 90, -90).astype("float32")
    assert float(SoftF1(activation="sigmoid")(truth, logits)) == pytest.approx(-0.166667, abs=1e-6)


def test_dice_is_keras():
    """Keras counts all logits as one class."""
    chance = RNG.uniform(0.01, 0.99, (2, 5, 4, 1)).astype("float32")
    truth = RNG.integers(0, 2, chance.shape)
    logits = np.log(chance / (1 - chance))
    whole = keras.losses.dice(truth, chance)
    loss = SoftDice(activation="sigmoid", epsilon=0.0)
    assert float(loss(truth, logits)) == pytest.approx(float(whole), abs=1e-6)
    each = SoftDice(activation="sigmoid", epsilon=0.0, per_image=True, reduction=None)
    expected = ops.convert_to_numpy(keras.losses.dice(truth, chance, axis=(1, 2, 3)))
    np.testing.assert_allclose(ops.convert_to_numpy(each(truth, logits)), expected, 0, 1e-6)


def brute_force(images, epsilon, squared, class_weight, activation):
    """The mean overlap of the classes, summed pixel by pixel, or `None` without any class."""
    common, denominator = np.zeros(4), np.zeros(4)
    present = np.zeros(4, bool)
    for image in images:
        for y, x in np.ndindex(LABELS.shape[1:]):
            if LABELS[image, y, x] == 255:
                continue
            logits = LOGITS[image, y, x].astype("float64")
            chance = np.exp(logits) / np.exp(logits).sum()
            if activation == "sigmoid":
                chance = 1 / (1 + np.exp(-logits))
            truth = np.arange(4) == LABELS[image, y, x]
            weight = WEIGHTS[image, y, x]
            common += weight * truth * chance
            denominator += weight * (truth + (chance**2 if squared else chance))
            present |= truth
    weights = np.where(present | (epsilon > 0), class_weight, 0)
    if not weights.sum():
        return None
    with np.errstate(invalid="ignore"):
        overlap = np.nan_to_num((2 * common + epsilon) / (denominator + epsilon))
    return np.sum(weights * overlap) / weights.sum()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("class_weight", [None, CLASS_WEIGHT])
def test_the_formula_by_brute_force(activation, per_image, class_weight):
    arguments = {
        "activation": activation,
        "per_image": per_image,
        "class_weight": class_weight,
        "ignore_class": 255,
    }
    groups = [[0], [1], [2]] if per_image else [[0, 1, 2]]

    def expected(loss_of, epsilon=0.0, squared=False):
        weights = np.ones(4) if class_weight is None else class_weight
        overlaps = [brute_force(g, epsilon, squared, weights, activation) for g in groups]
        return np.mean([0 if overlap is None else loss_of(overlap) for overlap in overlaps])

    def found(loss):
        return float(loss(LABELS, LOGITS, WEIGHTS))

    assert found(SoftF1(**arguments)) == pytest.approx(expected(lambda f: -f), abs=1e-6)
    for epsilon, squared in ((0.0, False), (1.0, False), (0.3, True)):
        dice = SoftDice(**arguments, epsilon=epsilon, squared=squared)
        value = expected(lambda f: 1 - f, epsilon, squared)
        assert found(dice) == pytest.approx(value, abs=1e-6)


def test_an_ignored_class_is_not_averaged():
    labels = np.where(LABELS == 255, 1, LABELS)
    inside = SoftDice(ignore_class=1)(labels, LOGITS)
    outside = SoftDice(ignore_class=255, class_weight=[1, 0, 1, 1])
    assert float(inside) == float(outside(np.where(labels == 1, 255, labels), LOGITS))


def test_sums_over_many_pixels_keep_their_digits():
    truth = np.zeros((1, 1200, 1200), "uint8")
    truth[:, ::7] = 1
    logits = np.full(truth.shape, np.log(0.1 / 0.9), "float32")
    expected = -2 * 0.1 * truth.sum() / (truth.sum() + 0.1 * truth.size)
    assert float(SoftF1(activation="sigmoid")(truth, logits)) == pytest.approx(expected, rel=2e-6)


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="SoftDice: `epsilon` must not be negative"):
        SoftDice(epsilon=-1)
    with pytest.raises(ValueError, match="SoftF1: `class_weight` must have 4 numbers"):
        SoftF1(class_weight=[1, 2], ignore_class=255)(LABELS, LOGITS)
