"""Training in stages."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from kvision.training import Stage, fit_stages


class TwoParts(keras.Model):
    """`b * (a * x)`, of which each stage trains a part."""

    stages = ("first", "second")

    def __init__(self):
        super().__init__()
        self.a, self.b = (
            keras.layers.Dense(1, use_bias=False, kernel_initializer="ones") for _ in range(2)
        )
        self.a.build((None, 1))
        self.b.build((None, 1))
        self.built = True
        self.stage = "first"

    @property
    def stage(self):
        return self._stage

    @stage.setter
    def stage(self, stage):
        self._stage = stage
        self.a.trainable, self.b.trainable = stage == "first", stage == "second"

    def call(self, x):
        return self.b(self.a(x))

    def weights_of_parts(self):
        return [float(ops.convert_to_numpy(part.kernel)[0, 0]) for part in (self.a, self.b)]


X = np.linspace(-1, 1, 8, dtype="float32")[:, None]


class Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append((epoch, self.model.stage, *self.model.weights_of_parts()))


def test_stages_in_a_row():
    model, watch = TwoParts(), Watch()
    history = fit_stages(
        model,
        [
            Stage("first", 2, keras.optimizers.SGD(0.1), compile={"loss": "mse"}),
            Stage(
                "second",
                3,
                keras.optimizers.SGD(0.2),
                compile={"loss": "mse", "metrics": ["mae"]},
                fit={"x": X, "y": -X, "batch_size": 4},
            ),
            Stage("first", 1, "sgd", compile={"loss": "mse", "metrics": ["mae"]}),
        ],
        x=X,
        y=3 * X,
        batch_size=8,
        verbose=0,
        callbacks=[watch],
    )
    names = ["first"] * 2 + ["second"] * 3 + ["first"]
    assert history.epoch == [0, 1, 2, 3, 4, 5]
    assert history.history["stage"] == names
    assert [(epoch, name) for epoch, name, *_ in watch.seen] == list(enumerate(names))
    # The whole batch, by hand: a loses 2 * 0.1 * mean((a b - 3) b x^2).
    a, power = 1.0, float(np.mean(X**2))
    for epoch in range(2):
        assert history.history["loss"][epoch] == pytest.approx((a - 3) ** 2 * power, rel=1e-5)
        a -= 2 * 0.1 * (a - 3) * power
        assert watch.seen[epoch][2:] == pytest.approx((a, 1.0), rel=1e-5)
    assert [a for _, _, a, _ in watch.seen[2:5]] == [watch.seen[1][2]] * 3
    assert watch.seen[5][3] == watch.seen[4][3] < 0
    assert len(history.history["loss"]) == 6
    reported = [not math.isnan(value) for value in history.history["mae"]]
    assert reported == [False, False, True, True, True, True]
    assert model.stage == "first"


def test_an_early_stop_is_counted():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    history = fit_stages(
        TwoParts(),
        [Stage(name, 4, "sgd", {"loss": "mse"}) for name in ("first", "second")],
        x=X,
        y=X,
        verbose=0,
        callbacks=[Stop()],
    )
    assert history.epoch == [0, 1]
    assert history.history["stage"] == ["first", "second"]


def test_refusals():
    model = TwoParts()
    with pytest.raises(ValueError, match=r"of TwoParts, \('first', 'second'\). .*\['third'\]"):
        fit_stages(model, [Stage("third", 1, "sgd")], x=X)
    with pytest.raises(ValueError, match="`stages` must be"):
        fit_stages(model, [], x=X)
    with pytest.raises(ValueError, match=r"`stages` must be of those of Sequential, \(\)"):
        fit_stages(keras.Sequential(), [Stage("first", 1, "sgd")])
    with pytest.raises(ValueError, match=r"`Stage.epochs`. Received: \['epochs'\]"):
        fit_stages(model, [Stage("first", 1, "sgd")], x=X, epochs=3)


@pytest.mark.parametrize(("freq", "validated"), [(2, [1, 3, 5]), ([1, 4], [0, 3]), (1, range(6))])
def test_validations_stand_at_their_epochs(freq, validated):
    stages = [Stage("first", 1, "sgd"), Stage("second", 5, "sgd")]
    history = fit_stages(
        TwoParts(),
        [stage._replace(compile={"loss": "mse"}) for stage in stages],
        x=X,
        y=2 * X,
        validation_data=(X, 2 * X),
        validation_freq=freq,
        verbose=0,
    )
    losses = history.history["val_loss"]
    assert [epoch for epoch, loss in enumerate(losses) if not math.isnan(loss)] == list(validated)
    assert len(losses) == len(history.history["loss"]) == 6
