"""Evaluation that judges what a model decodes, in the same pass that gives its losses."""

import keras
from keras import ops

from kvision.models.image_model import ImageModel


class EvaluatedModel(ImageModel):
    """An `ImageModel` whose `evaluate` hands every decoded batch to evaluators.

    A subclass sets `_evaluators`. Keras' callbacks never
    see predictions, and what a test step returns is averaged over replicas; so the test step here
    returns the decoded batch as well, the replicas' parts are concatenated, and the host collects
    them. Each batch goes through the model once.
    """

    _evaluators = ()
    _evaluating = False  # inside `evaluate`
    _collecting = False  # inside `test_step`

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Returns the running losses; inside `test_step`, what the evaluators need as well.

        Args:
            x: The images.
            y: The targets.
            y_pred: What `call` returned for the images.
            sample_weight: Not used.

        Returns:
            `{name: scalar}`, or in a test step `{"logs": {name: scalar}, "batch": ...}`.
        """
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        if not self._collecting:
            return logs
        if not self._evaluators:
            return {"logs": logs}
        shape = ops.shape(x)
        size = ops.stack([ops.cast(side, "int32") for side in shape[1:3]])
        batch = {
            "detections": self.decode(y_pred),
            "targets": y,
            "image_size": ops.broadcast_to(size, (shape[0], 2)),
        }
        return {"logs": logs, "batch": batch}

    def test_step(self, *args):
        """Runs Keras' own test step, whose result also carries the decoded detections.

        Args:
            *args: The arguments of the test step of the active backend.

        Returns:
            What `compute_metrics` returns; on JAX, a tuple of that and the state.
        """
        self._collecting = True
        try:
            return super().test_step(*args)
        finally:
            self._collecting = False

    def make_test_function(self, force=False):
        """Prepares the function that `evaluate` calls once a batch.

        Args:
            force: Whether to prepare it anew.
        """
        if self.test_function is not None and not force:
            return
        if keras.backend.backend() == "tensorflow":
            step = _tensorflow_test_function(self)
        else:
            with _OneStepPerExecution(self):
                super().make_test_function(force=True)
            step = self.test_function

        def test_function(*args):
            outputs = step(*args)
            if keras.backend.backend() == "jax":
                outputs, state = outputs
                return self._collect(outputs), state
            return self._collect(outputs)

        self.test_function = test_function

    def _collect(self, outputs):
        """Hands a batch to the evaluators; returns the logs of the step."""
        if self._evaluating and "batch" in outputs:
            batch = keras.tree.map_structure(ops.convert_to_numpy, outputs["batch"])
            for evaluator in self._evaluators:
                evaluator.update(
                    batch["detections"],
                    batch["targets"],
                    image_size=tuple(batch["image_size"][0]),
                    resize_policy=self.resize_policy,
                )
        return outputs["logs"]

    def evaluate(self, *args, **kwargs):
        """Runs Keras' own evaluation, batch by batch, then the evaluators.

        Args:
            *args: Arguments of `keras.Model.evaluate`.
            **kwargs: Arguments of `keras.Model.evaluate`.

        Returns:
            What `keras.Model.evaluate` returns, with the evaluators' values after the losses.

        Raises:
            ValueError: If the data hold no image.
        """
        for evaluator in self._evaluators:
            evaluator.reset()
        self._evaluating = True
        try:
            with _OneStepPerExecution(self):
                return super().evaluate(*args, **kwargs)
        finally:
            self._evaluating = False

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Under a strategy Keras averages the first batch over the replicas to see its shapes, which
        # fails where their parts are unequal. A detector that is built needs the optimizer only.
        if not self.built:
            super()._maybe_symbolic_build(iterator, data_batch)
        elif self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def _get_metrics_result_or_logs(self, logs):
        # Keras asks here for the final values: before the progress bar and the callbacks' end.
        if self._evaluating and not logs:
            raise ValueError(f"{type(self).__name__}: there is no image to evaluate in the data.")
        results = super()._get_metrics_result_or_logs(logs)
        if self._evaluating:
            results = dict(results)
            for evaluator in self._evaluators:
                results.update(evaluator.result())
        return results


class MetricEvaluator:
    """A Keras metric as an evaluator: its `y_true` are the targets, its `y_pred` the detections.

    It also keeps the metric from being one of the model's own, which Keras would ask for its result
    in training steps as well.

    Args:
        metric: A `keras.metrics.Metric` whose result is a dictionary of scalars.
    """

    def __init__(self, metric):
        self.metric = metric

    def reset(self):
        """Forgets all images."""
        self.metric.reset_state()

    def update(self, detections, targets, *, image_size=None, resize_policy=None):
        """Adds a batch.

        Args:
            detections: What the model decoded.
            targets: The targets of the batch.
            image_size: Not used: the metric sees the images given to the model.
            resize_policy: Not used.
        """
        self.metric.update_state(targets, detections)

    def result(self):
        """Returns the metric's values.

        Returns:
            `{name: float}`.
        """
        return {name: float(value) for name, value in self.metric.result().items()}


class _OneStepPerExecution:
    """Makes a model, and the validation data `fit` has cached in it, go batch by batch."""

    def __init__(self, model):
        self._model = model

    def __enter__(self):
        self._steps = self._model.steps_per_execution
        self._model.steps_per_execution = 1
        cached = getattr(self._model, "_eval_epoch_iterator", None)
        if cached is not None:
            cached.steps_per_execution = 1

    def __exit__(self, *exception):
        self._model.steps_per_execution = self._steps


def _tensorflow_test_function(model):
    """Returns `function(iterator)`: one batch on every replica, their results concatenated."""
    import tensorflow as tf

    strategy = model.distribute_strategy

    def gather(value):
        values = strategy.experimental_local_results(value)
        if len(values) == 1:
            return values[0]
        if values[0].shape.rank == 0:
            return tf.reduce_mean(values, axis=0)
        return tf.concat(values, axis=0)

    def step(data):
        return keras.tree.map_structure(gather, strategy.run(model.test_step, args=(data,)))

    def step_on_iterator(iterator):
        return step(iterator.get_next())

    if not model.run_eagerly:
        step = tf.function(
            step, autograph=False, reduce_retracing=True, jit_compile=model.jit_compile
        )
        # A graph that draws the batch itself knows the data's shapes: a short one is no new shape.
        step_on_iterator = tf.function(step_on_iterator, autograph=False, reduce_retracing=True)

    def test_function(iterator):
        if isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
            return step_on_iterator(iterator)
        return step(next(iterator))

    return test_function
