"""The base of every detector."""

import keras
from keras import ops

from kvision.metrics import COCODetectionMetrics
from kvision.models.detection.evaluated_model import EvaluatedModel, MetricEvaluator
from kvision.models.detection.target_checks import check_targets


class Detector(EvaluatedModel):
    """A `keras.Model` that learns from target dictionaries and answers with detections.

    A subclass sets `loss_names` and writes three methods; training, evaluation, prediction
    and export follow from them on every Keras backend:

    - `call(images, training=None)` -> `raw`, a dictionary of tensors. It never sees a target.
    - `compute_losses(images, targets, raw, training)` -> `{name: scalar}` with the keys of
      `loss_names`, each the mean over the images of the batch.
    - `decode(raw)` -> detections in the pixels of the images given: `boxes (B, K, 4)` float32
      xyxy, `scores (B, K)` float32, `labels (B, K)` int32 with -1 as padding,
      `num_detections (B,)` int32. It uses no weights of the model.

    `fit`, `evaluate` and `predict` take images `(B, H, W, 3)` with values in 0..255 and targets
    `{"boxes": (B, M, 4) xyxy pixels, "labels": (B, M) with -1 as padding}` plus, where known,
    `is_crowd`, `area`, `difficult` (each `(B, M)`), `image_id (B,)` and `original_size (B, 2)`.

    `evaluate` runs one compiled forward pass a batch, which gives the losses and the decoded
    detections; the evaluators of `compile` turn the detections into metrics once at the end.
    Their values stand beside the losses in what `evaluate` returns, in the logs of callbacks and,
    with the prefix `val_`, in the history of `fit`:
    `ModelCheckpoint(path, monitor="val_AP50", mode="max")`. The losses are means over images.

    Layers that are frozen (`trainable = False`) when the model is saved are so when it is loaded.

    Args:
        **kwargs: Arguments of `kvision.models.ImageModel`; all `num_classes` are real classes, no
            background among them.
    """

    task = "detection"
    loss_names = ()

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.loss_trackers = [keras.metrics.Mean(name=loss) for loss in self.loss_names]

    def __call__(self, images, *args, **kwargs):
        """Calls the model; a replica that a short batch leaves without images gets a blank one.

        TensorFlow's fused convolutions answer an empty batch with a wrong shape. The blank image
        is cut off again: nobody sees it.

        Args:
            images: `(B, H, W, 3)`, values in 0..255.
            *args: Arguments of `call`.
            **kwargs: Arguments of `call`.

        Returns:
            What `call` returns.
        """
        if _num_replicas() == 1 or isinstance(images, keras.KerasTensor):
            return super().__call__(images, *args, **kwargs)
        num_images = ops.shape(images)[0]
        blank = ops.zeros((ops.cast(num_images == 0, "int32"), *images.shape[1:]), images.dtype)
        raw = super().__call__(ops.concatenate([images, blank]), *args, **kwargs)
        return keras.tree.map_structure(lambda value: value[:num_images], raw)

    def compute_losses(self, images, targets, raw, training):
        """Returns the named parts of the loss.

        Args:
            images: `(B, H, W, 3)`, values in 0..255.
            targets: The target dictionary of the batch.
            raw: What `call` returned for `images`.
            training: Whether the losses are for a training step.

        Returns:
            `{name: scalar}` with the keys of `loss_names`.
        """
        raise NotImplementedError

    def default_evaluator(self):
        """Returns what `evaluate` computes from the detections, for `compile` without any.

        Returns:
            An evaluator, see `compile`.
        """
        return COCODetectionMetrics()

    def compile(
        self,
        optimizer="rmsprop",
        *,
        evaluator=None,
        run_eagerly=False,
        steps_per_execution=1,
        jit_compile="auto",
        auto_scale_loss=True,
    ):
        """Configures the model for training; the losses are the model's own.

        Args:
            optimizer: A Keras optimizer or its name.
            evaluator: What `evaluate` computes from the detections: an object with `reset()`,
                `update(detections, targets, *, image_size, resize_policy)` and
                `result() -> {name: float}` (and `get_config()`, where the compiled model is to be
                saved), or a Keras metric whose `y_true` are the targets, whose `y_pred` is what
                `decode` returns, and whose result is a dictionary, such as
                `kvision.metrics.ObjectMetrics()`; or a sequence of these; `()` for the losses
                alone. `None` is the model's `default_evaluator()`.
            run_eagerly: Whether to run the steps uncompiled.
            steps_per_execution: Batches per call of the compiled training step. `evaluate`
                always runs its batches one by one.
            jit_compile: `True`, `False` or `"auto"`, see `keras.Model.compile`.
            auto_scale_loss: See `keras.Model.compile`.

        Raises:
            ValueError: If an evaluator is none.
        """
        super().compile(
            optimizer,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
        if evaluator is None:
            evaluator = self.default_evaluator()
        if not isinstance(evaluator, (list, tuple)):
            evaluator = (evaluator,)
        evaluator = [
            MetricEvaluator(one) if isinstance(one, keras.metrics.Metric) else one
            for one in evaluator
        ]
        for one in evaluator:
            methods = [getattr(one, name, None) for name in ("reset", "update", "result")]
            if isinstance(one, type) or not all(map(callable, methods)):
                raise ValueError(
                    f"{type(self).__name__}: `evaluator` must be an object with `reset`, `update` "
                    "and `result`, such as `kvision.metrics.COCODetectionMetrics()`, or a "
                    f"sequence of them. Received: {one!r}."
                )
        self._evaluators = tuple(evaluator)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns the sum of the loss parts and of the layers' own losses.

        Args:
            x: The images.
            y: The targets.
            y_pred: What `call` returned for the images.
            sample_weight: Refused: see Raises.
            training: Whether this is a training step.

        Returns:
            A scalar, divided by the number of replicas under a `tf.distribute` strategy, because
            Keras sums the gradients of the replicas.

        Raises:
            ValueError: If `sample_weight` is given or the targets are missing.
        """
        if sample_weight is not None:
            self._refuse("sample_weight")
        if y is None:
            raise ValueError(
                f"{type(self).__name__}: targets must come with the images, as "
                "`kvision.data.to_fit` pairs them. Received: None."
            )
        y = keras.tree.map_structure(ops.convert_to_tensor, y)  # `train_on_batch` may not
        num_images = ops.cast(ops.shape(x)[0], "float32")
        parts = self.compute_losses(x, y, y_pred, training)
        # A replica that is left without images by a short last batch has a mean over nothing.
        parts = {
            name: ops.where(num_images > 0, ops.cast(parts[name], "float32"), 0.0)
            for name in self.loss_names
        }
        for tracker in self.loss_trackers:
            tracker.update_state(parts[tracker.name], sample_weight=num_images)
        total = sum(parts.values())
        if _num_replicas() > 1:
            total = total / _num_replicas()
        return sum((self._aggregate_additional_loss(loss) for loss in self.losses), total)

    def fit(self, *args, **kwargs):
        """Trains the model.

        Args:
            *args: Arguments of `keras.Model.fit`.
            **kwargs: Arguments of `keras.Model.fit`.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            ValueError: If `sample_weight` or `class_weight` is given, or a label is outside the
                classes.
        """
        given = self._check_given("fit", args, kwargs)
        if given.get("validation_data") is not None or given.get("validation_split"):
            for evaluator in self._evaluators:
                evaluator.reset()  # a missing package is named before the first epoch, not after
        return super().fit(*args, **kwargs)

    def _check_batch(self, data):
        super()._check_batch(data)
        self._check_targets(keras.utils.unpack_x_y_sample_weight(data)[1])

    def _collect(self, outputs):
        if "batch" in outputs:
            self._check_targets(
                outputs["batch"]["targets"]
            )  # XLA, if it compiled the step, did not
        return super()._collect(outputs)

    def _check_targets(self, targets):
        if targets is not None:  # `compute_loss` names those that are missing
            check_targets(type(self).__name__, targets, self.num_classes)

    def _check_given(self, method, args, kwargs):
        given = super()._check_given(method, args, kwargs)
        for name in ("sample_weight", "class_weight"):
            if given.get(name) is not None:
                self._refuse(name)
        return given

    def _refuse(self, argument):
        raise ValueError(
            f"{type(self).__name__}: `{argument}` is not supported: its losses are "
            "means over parts of images that it chooses, not over images or classes."
        )

    def get_compile_config(self):
        """Returns the serialised arguments of `compile`.

        Returns:
            A dictionary, empty before `compile`.
        """
        config = super().get_compile_config()
        if not config:
            return config
        for unused in ("loss_weights", "weighted_metrics"):
            del config[unused]
        evaluators = [
            keras.saving.serialize_keras_object(getattr(one, "metric", one))
            for one in self._evaluators
        ]
        return {**config, "evaluator": evaluators}


def _num_replicas():
    """Returns the number of replicas of the `tf.distribute` strategy in scope."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync
