"""Losses of single pixels: PyTorch's values and gradients, and the published hard-pixel mining."""

import itertools
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kvision.losses import PixelBinaryCrossEntropy, PixelCrossEntropy, PixelFocal
from kvision.testing import vjp

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pixel_losses.npz")
LOGITS, LABELS, BINARY = GOLDEN["logits"], GOLDEN["labels"], GOLDEN["binary"]
IGNORED = 255
CLASS_WEIGHT = (0.5, 2.0, 1.25, 4.0)
# By the reduction's name in PyTorch, which divides by the sum of the weights.
REDUCTIONS = {"mean": "mean_with_sample_weight", "sum": "sum", "none": None}


def value_and_gradient(loss, labels, logits, sample_weight=None):
    ones = np.ones(np.shape(loss(labels, logits, sample_weight)), "float32")
    return vjp(lambda x: loss(labels, x, sample_weight), logits, ones)


def assert_is_golden(loss, labels, name, factor=1.0, tolerance=1e-6):
    value, gradient = value_and_gradient(loss, labels, LOGITS)
    np.testing.assert_allclose(value, factor * GOLDEN[name], tolerance, 1e-6)
    np.testing.assert_allclose(gradient, factor * GOLDEN[f"{name}/gradient"], tolerance, 1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("name", "weight"), [("plain", None), ("weighted", CLASS_WEIGHT)])
def test_cross_entropy_is_pytorchs(name, weight, reduction):
    loss = PixelCrossEntropy(
        class_weight=weight, ignore_class=IGNORED, reduction=REDUCTIONS[reduction]
    )
    assert_is_golden(loss, LABELS, f"cross_entropy/{name}/{reduction}", tolerance=1e-5)


def test_the_default_divides_by_the_number_of_valid_pixels():
    loss = PixelCrossEntropy(class_weight=CLASS_WEIGHT, ignore_class=IGNORED)
    expected = GOLDEN["cross_entropy/weighted/sum"] / np.sum(LABELS != IGNORED)
    assert float(loss(LABELS, LOGITS)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_cross_entropy_is_pytorchs(reduction):
    """PyTorch's `mean` divides by the number of logits."""
    keras_reduction = {**REDUCTIONS, "mean": "sum_over_batch_size"}[reduction]
    loss = PixelBinaryCrossEntropy(class_weight=CLASS_WEIGHT, reduction=keras_reduction)
    assert_is_golden(loss, BINARY, f"binary/{reduction}", tolerance=1e-5)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.6), (0.0, None)])
def test_focal_is_torchvisions(gamma, alpha):
    loss = PixelFocal(gamma, alpha, activation="sigmoid", reduction=None)
    name = f"focal/{gamma}/{-1 if alpha is None else alpha}"
    assert_is_golden(loss, BINARY, name, tolerance=1e-4)


def test_focal_of_softmax_is_keras():
    truth = np.eye(4)[np.where(LABELS == IGNORED, 0, LABELS)]
    expected = keras.losses.CategoricalFocalCrossentropy(
        alpha=1.0, gamma=2.5, from_logits=True, reduction=None
    )(truth, LOGITS)
    found = PixelFocal(2.5, reduction=None, ignore_class=IGNORED)(LABELS, LOGITS)
    expected = np.where(LABELS == IGNORED, 0, ops.convert_to_numpy(expected))
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, 1e-4, 1e-6)


@pytest.mark.parametrize("published", ["hrnet", "torchseg"])
@pytest.mark.parametrize(("threshold", "min_kept"), [(0.7, 10), (0.3, 10), (0.05, 30), (0.9, 1)])
def test_mining_is_the_published_one(published, threshold, min_kept):
    loss = PixelCrossEntropy(hard_threshold=threshold, min_kept=min_kept, ignore_class=IGNORED)
    assert_is_golden(loss, LABELS, f"{published}/{threshold}/{min_kept}", tolerance=1e-5)


@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.5, 1.0])
def test_the_hardest_fraction(fraction):
    losses = GOLDEN["cross_entropy/plain/none"][LABELS != IGNORED]
    count = max(1, round(fraction * losses.size))
    expected = np.sort(losses)[::-1][:count].mean()
    loss = PixelCrossEntropy(hard_fraction=fraction, ignore_class=IGNORED)
    assert float(loss(LABELS, LOGITS)) == pytest.approx(expected, rel=1e-5)


def test_values_of_the_fact_sheet():
    """The gradient of a logit of 0.3 with label 1, and the cross-entropy of six pixels."""
    labels = np.array([[[1, 0, 0, 0]]])
    logits = np.array([0.3, 0.0, 0.0, 0.0], "float32").reshape(1, 1, 4, 1)
    gradient = value_and_gradient(PixelBinaryCrossEntropy(reduction="sum"), labels, logits)[1]
    assert gradient[0, 0, 0, 0] == pytest.approx(-0.425557, abs=1e-6)
    chance = np.array([0.9, 0.2, 0.6, 0.3, 0.1, 0.5]).reshape(1, 1, 6)
    truth = np.array([1, 0, 1, 1, 0, 0]).reshape(1, 1, 6)
    logit = np.log(chance / (1 - chance)).astype("float32")
    assert float(PixelBinaryCrossEntropy()(truth, logit)) == pytest.approx(0.473635, abs=1e-6)


def brute_force(labels, logits, weights, class_weight, ignore_class):
    """The mean over the valid pixels, one by one."""
    total, count = 0.0, 0
    for place in np.ndindex(labels.shape):
        if labels[place] == ignore_class:
            continue
        chance = np.exp(logits[place].astype("float64"))
        chance = chance[labels[place]] / chance.sum()
        total -= weights[place] * class_weight[labels[place]] * np.log(chance)
        count += 1
    return total / count


@pytest.mark.parametrize("ignore_class", [255, 2, -1])
def test_sample_weights_and_ignored_classes_by_brute_force(ignore_class):
    rng = np.random.default_rng(3)
    weights = rng.uniform(0, 3, LABELS.shape)
    labels = np.where(LABELS == IGNORED, ignore_class, LABELS.astype("int64"))
    loss = PixelCrossEntropy(class_weight=CLASS_WEIGHT, ignore_class=ignore_class)
    expected = brute_force(labels, LOGITS, weights, CLASS_WEIGHT, ignore_class)
    for y_true, sample_weight in itertools.product(
        (labels, labels[..., None], labels.astype("float32")), (weights, weights[..., None])
    ):
        found = float(loss(y_true, LOGITS, sample_weight))
        assert found == pytest.approx(expected, rel=1e-5)
    by_image = weights[:, 0, 0]
    spread = np.broadcast_to(by_image[:, None, None], labels.shape)
    expected = brute_force(labels, LOGITS, spread, CLASS_WEIGHT, ignore_class)
    assert float(loss(labels, LOGITS, by_image)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="has float64 only if asked at start")
def test_in_float64():
    labels = np.where(LABELS == IGNORED, 0, LABELS.astype("int64"))
    expected = brute_force(labels, LOGITS, np.ones(labels.shape), CLASS_WEIGHT, None)
    loss = PixelCrossEntropy(class_weight=CLASS_WEIGHT, dtype="float64")
    assert float(loss(labels, LOGITS)) == pytest.approx(expected, rel=1e-13)


def test_class_numbers_under_sigmoid_are_told_from_the_rest():
    labels = np.where(LABELS == IGNORED, 0, LABELS)
    one_hot = np.eye(4, dtype="int32")[labels]
    for loss in (PixelBinaryCrossEntropy(), PixelFocal(activation="sigmoid")):
        assert float(loss(labels, LOGITS)) == float(loss(one_hot, LOGITS))


def test_one_logit_has_two_class_weights():
    labels, logits = BINARY[..., 0], LOGITS[..., 0]
    losses = np.log1p(np.exp(logits)) - labels * logits
    expected = np.mean(np.where(labels == 1, 5.0, 0.5) * losses)
    loss = PixelBinaryCrossEntropy(class_weight=(0.5, 5.0))
    for y_pred in (logits, logits[..., None]):
        assert float(loss(labels, y_pred)) == pytest.approx(expected, rel=1e-5)
        assert float(loss(labels[..., None], y_pred)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_certain_pixels_have_finite_gradients(gamma, activation):
    logits = np.array([[-200, 200], [0, 100], [20, 0]], "float32").reshape(1, 1, 3, 2)
    loss = PixelFocal(gamma, activation=activation)
    value, gradient = value_and_gradient(loss, np.array([[[1, 1, 0]]]), logits)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="PixelFocal: `gamma` must not be negative"):
        PixelFocal(-1)
    with pytest.raises(ValueError, match="`alpha` belongs to `activation`='sigmoid'"):
        PixelFocal(alpha=0.25)
    with pytest.raises(ValueError, match=r"`alpha` must be in \[0, 1\]"):
        PixelFocal(alpha=2, activation="sigmoid")
    with pytest.raises(ValueError, match="PixelCrossEntropy: softmax needs at least 2 classes"):
        PixelCrossEntropy()(LABELS, LOGITS[..., :1])
