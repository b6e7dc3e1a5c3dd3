"""Training in stages: several `compile` and `fit` in a row, and one history of them."""

import math
from typing import Any, NamedTuple

import keras


class Stage(NamedTuple):
    """One stage of a training.

    Attributes:
        name: One of the model's `stages`: which of its parts learn, and by which losses.
        epochs: Number of epochs.
        optimizer: A Keras optimizer or its name.
        compile: Further arguments of `compile` in this stage.
        fit: Arguments of `fit` that differ in this stage, such as its `x` and `batch_size`.
    """

    name: str
    epochs: int
    optimizer: Any
    compile: dict = {}
    fit: dict = {}


def fit_stages(model, stages, **arguments):
    """Trains a model in stages.

    Each stage sets `model.stage`, compiles the model with an optimizer of its own, and fits it. Its
    epochs are counted on from those before it, so that callbacks and logs see one training::

        fit_stages(
            model,
            [
                Stage("direction", 20, keras.optimizers.AdamW(1e-5, weight_decay=1e-5)),
                Stage("watershed", 10, keras.optimizers.AdamW(5e-4, weight_decay=1e-6)),
                Stage("both", 10, keras.optimizers.AdamW(5e-6, weight_decay=1e-6)),
            ],
            x=training_data,
            validation_data=validation_data,
        )

    Args:
        model: A model with `stages`, the names of its stages, and `stage`, the present one, such as
            `kvision.models.instances.DeepWatershed`. It stays in the last stage.
        stages: Sequence of `Stage`; a name may come more than once.
        **arguments: Arguments of `fit`, for all stages.

    Returns:
        A `keras.callbacks.History` of all epochs. What a stage does not report, the loss of another
        part for example, is NaN in its epochs. `history["stage"]` has the name of each epoch's.

    Raises:
        ValueError: If there is no stage, the model does not know one, or `epochs` is among the
            arguments.
    """
    stages = list(stages)
    known = tuple(getattr(model, "stages", ()))
    unknown = [stage.name for stage in stages if stage.name not in known]
    if unknown or not stages:
        raise ValueError(
            f"fit_stages: `stages` must be of those of {type(model).__name__}, {known}. "
            f"Received: {unknown}."
        )
    given = [{**arguments, **stage.fit} for stage in stages]
    counted = [name for name in ("epochs", "initial_epoch") if any(name in one for one in given)]
    if counted:
        raise ValueError(
            f"fit_stages: the epochs of a stage are given by `Stage.epochs`. Received: {counted}."
        )
    joined = keras.callbacks.History()
    joined.set_model(model)
    joined.on_train_begin()
    for stage, fit in zip(stages, given, strict=True):
        model.stage = stage.name
        model.compile(optimizer=stage.optimizer, **stage.compile)
        first = len(joined.epoch)
        history = model.fit(initial_epoch=first, epochs=first + stage.epochs, **fit)
        _append(joined, history, stage.name, fit.get("validation_freq", 1))
    return joined


def _append(joined, history, stage, validation_freq):
    """Appends the epochs of a stage; who has no value there gets NaN."""
    before, added = len(joined.epoch), len(history.epoch)
    logs = {"stage": [stage] * added}
    for name, values in history.history.items():
        if len(values) < added:  # Keras keeps those of the epochs with a validation alone.
            of_epochs = dict(zip(_validated(history.epoch, validation_freq), values, strict=True))
            values = [of_epochs.get(epoch, math.nan) for epoch in history.epoch]
        logs[name] = values
    for name in [*joined.history, *(name for name in logs if name not in joined.history)]:
        values = joined.history.setdefault(name, [math.nan] * before)
        values += logs.get(name, [math.nan] * added)
    joined.epoch += history.epoch


def _validated(epochs, validation_freq):
    """Those after which Keras validates: every so many, or those of a list, counted from 1."""
    if isinstance(validation_freq, int):
        return [epoch for epoch in epochs if (epoch + 1) % validation_freq == 0]
    return [epoch for epoch in epochs if epoch + 1 in validation_freq]
