"""What all losses of pixels promise: what is ignored, compiled code, dtypes, models, messages."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kvision.losses import (
    PixelBinaryCrossEntropy,
    PixelCrossEntropy,
    PixelFocal,
    SoftDice,
    SoftF1,
)
from kvision.testing import vjp

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(0, 2, (2, 6, 5, 3)).astype("float32")
LABELS = RNG.integers(0, 3, (2, 6, 5))
LABELS[RNG.random(LABELS.shape) < 0.3] = 255
ARGUMENTS = {"class_weight": [1.0, 0.5, 3.0], "ignore_class": 255}
LOSSES = {
    "cross_entropy": lambda **k: PixelCrossEntropy(**k),
    "binary": lambda **k: PixelBinaryCrossEntropy(**k),
    "focal": lambda **k: PixelFocal(1.5, **k),
    "sigmoid focal": lambda **k: PixelFocal(1.5, 0.3, activation="sigmoid", **k),
    "f1": lambda **k: SoftF1(**k),
    "sigmoid f1": lambda **k: SoftF1(activation="sigmoid", per_image=True, **k),
    "dice": lambda **k: SoftDice(per_image=True, squared=True, **k),
    "sigmoid dice": lambda **k: SoftDice(activation="sigmoid", epsilon=0.1, **k),
}
MINING = {
    "all": {},
    "hard": {"hard_fraction": 0.4, "hard_threshold": 0.2, "min_kept": 3},
}
every_loss = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
every_mining = pytest.mark.parametrize("mining", MINING.values(), ids=MINING)


def gradient_of(loss, labels, logits, sample_weight=None):
    return vjp(lambda x: loss(labels, x, sample_weight), logits, np.ones((), "float32"))[1]


@every_loss
@every_mining
def test_gradients_against_finite_differences(make, mining):
    loss = make(**ARGUMENTS, **mining)
    weights = np.linspace(0.5, 2, LABELS.size).reshape(LABELS.shape)
    found = gradient_of(loss, LABELS, LOGITS, weights)
    rng = np.random.default_rng(0)
    step = 3e-3
    for place in rng.permutation(list(np.ndindex(LOGITS.shape)))[:12]:
        shift = np.zeros_like(LOGITS)
        shift[tuple(place)] = step
        ends = [float(loss(LABELS, LOGITS + sign * shift, weights)) for sign in (1, -1)]
        assert found[tuple(place)] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=2e-4)


@every_loss
@every_mining
def test_ignored_pixels_pass_nothing_on(make, mining):
    loss = make(**ARGUMENTS, **mining)
    gradient = gradient_of(loss, LABELS, LOGITS)
    assert not gradient[LABELS == 255].any()
    assert gradient[LABELS != 255].any()
    other = np.where((LABELS == 255)[..., None], 7 * LOGITS[::-1], LOGITS)
    assert float(loss(LABELS, other)) == float(loss(LABELS, LOGITS))


@every_loss
@every_mining
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
def test_a_batch_of_nothing_gives_zero(make, mining, reduction):
    loss = make(**ARGUMENTS, **mining, reduction=reduction)
    nothing = np.full_like(LABELS, 255)
    assert float(loss(nothing, LOGITS)) == 0
    assert not gradient_of(loss, nothing, LOGITS).any()
    assert not gradient_of(loss, LABELS, LOGITS, np.zeros(LABELS.shape)).any()


@every_loss
def test_half_precision_logits_are_computed_in_float32(make):
    loss = make(**ARGUMENTS)
    for dtype in ("float16", "bfloat16"):
        logits = ops.cast(LOGITS, dtype)
        value = loss(LABELS, logits)
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        assert float(value) == float(loss(LABELS, ops.cast(logits, "float32")))


@every_loss
def test_large_logits_stay_finite(make):
    loss = make(**ARGUMENTS)
    assert np.isfinite(float(loss(LABELS, 1e4 * LOGITS)))
    assert np.isfinite(gradient_of(loss, LABELS, 1e4 * LOGITS)).all()


@pytest.mark.parametrize("name", ["cross_entropy", "sigmoid dice"])
def test_a_model_takes_the_same_steps_eagerly_and_compiled(name):
    weights = np.linspace(0, 2, LABELS.size).reshape(LABELS.shape).astype("float32")

    loss = LOSSES[name](**ARGUMENTS, **MINING["hard"])

    def trained(**how):
        inputs = keras.Input((None, None, 3))
        model = keras.Model(inputs, keras.layers.Conv2D(3, 1, kernel_initializer="ones")(inputs))
        model.compile(keras.optimizers.SGD(0.1), loss=loss, **how)
        labels = LABELS.astype("uint8")
        history = model.fit(LOGITS, labels, 2, 2, sample_weight=weights, verbose=0).history["loss"]
        return [*history, *model.get_weights()[0].ravel()]

    expected = trained(run_eagerly=True)
    # PyTorch's compiler starts with a warning and takes minutes.
    for jit_compile in (False,) if keras.backend.backend() == "torch" else (False, True):
        np.testing.assert_allclose(trained(jit_compile=jit_compile), expected, 1e-4, 1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a strategy of TensorFlow")
def test_two_replicas_train_and_evaluate_like_one():
    """With the metrics of label maps, whose counts the replicas share."""
    script = Path(__file__).parent / "two_replicas.py"
    subprocess.run([sys.executable, str(script)], check=True, timeout=300)


@every_loss
def test_the_configuration_gives_the_same_loss(make):
    loss = make(**ARGUMENTS, hard_fraction=0.5, reduction="sum", name="mine")
    stored = json.loads(json.dumps(keras.losses.serialize(loss)))
    again = keras.losses.deserialize(stored)
    assert again.get_config() == loss.get_config()
    assert float(again(LABELS, LOGITS)) == float(loss(LABELS, LOGITS))


@every_loss
def test_a_wrong_label_is_an_error_or_nan(make):
    """An error where its value is known, NaN in compiled code, with the others' gradients."""
    loss = make(ignore_class=255)
    labels = LABELS.copy()
    labels[0, 1, 2] = 3
    with pytest.raises(ValueError, match=r"Received also: \[3\]"):
        loss(labels, LOGITS)
    if keras.backend.backend() == "torch":
        return  # it always knows
    if keras.backend.backend() == "jax":
        import jax

        value, gradient = jax.jit(jax.value_and_grad(lambda x, y: loss(y, x)))(LOGITS, labels)
    else:
        import tensorflow as tf

        @tf.function
        def traced(x, y):
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = loss(y, x)
            return value, tape.gradient(value, x)

        value, gradient = traced(tf.constant(LOGITS), tf.constant(labels))
    assert np.isnan(value)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[0, 1, 2].any()
    assert np.asarray(gradient)[LABELS != 255].any()


def test_what_is_wrong_is_named():
    for argument in ("hard_fraction", "hard_threshold"):
        for value in (0, 1.5):
            with pytest.raises(ValueError, match=rf"SoftF1: `{argument}` must be in \(0, 1\]"):
                SoftF1(**{argument: value})
    with pytest.raises(ValueError, match="`min_kept` must not be negative"):
        PixelCrossEntropy(min_kept=-1)
    with pytest.raises(ValueError, match="`class_weight` must be finite and not negative"):
        PixelCrossEntropy(class_weight=[1, -1])
    with pytest.raises(ValueError, match="`class_weight` must be a sequence of numbers"):
        PixelCrossEntropy(class_weight={0: 1.0, 1: 2.0, 2: 0.5})
    with pytest.raises(ValueError, match="`activation` must be 'softmax' or 'sigmoid'"):
        SoftDice(activation="tanh")
    with pytest.raises(ValueError, match="`class_weight` must have 3 numbers. Received: 2"):
        PixelCrossEntropy(class_weight=[1, 2], ignore_class=255)(LABELS, LOGITS)
    with pytest.raises(ValueError, match=r"`y_pred` must have shape \(B, H, W, K\)"):
        PixelCrossEntropy()(LABELS, LOGITS[0])
    for wrong in (LABELS[:, :4], LABELS[0], np.stack([LABELS] * 3, -1), LABELS[..., None, None]):
        with pytest.raises(ValueError, match=r"`y_true` must have shape \(B, H, W\) or \(B, H, W,"):
            PixelCrossEntropy(ignore_class=255)(wrong, LOGITS)
    batch, height, width = LABELS.shape
    for shape in ((batch, width), (batch, 1), (batch + 1,), (batch, height, 1)):
        with pytest.raises(ValueError, match=r"`sample_weight` must have shape \(B, H, W\)"):
            PixelCrossEntropy(ignore_class=255)(LABELS, LOGITS, np.ones(shape))
