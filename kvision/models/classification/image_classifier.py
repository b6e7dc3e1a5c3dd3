"""A classifier: any backbone, pooling, and dense layers."""

import keras
from keras import layers, ops

from kvision.models.data_checks import check_labels
from kvision.models.image_model import ImageModel, coarsest_level


@keras.saving.register_keras_serializable("kvision")
class ImageClassifier(ImageModel):
    """Says what an image shows, by the coarsest level of a backbone.

    The map is averaged (over all of it, or over `pool_size` by `pool_size` parts of it, whatever
    its size), flattened, and goes through dense layers. Without hidden layers this is the head of
    Lin, Chen and Yan, "Network in Network" (ICLR 2014), as residual networks have it; VGG's is
    `pool_size=7, hidden_units=(4096, 4096), dropout=0.5`.

    `call(images)` returns logits `(B, num_classes)`, float32 under every dtype policy;
    `predict` and `decode` return `labels (B,)` int32 and the probabilities `scores
    (B, num_classes)`. The loss is the cross-entropy of integer labels `(B,)`, the metric their
    accuracy, unless `compile` says otherwise. A label that is no class is a `ValueError`, in arrays
    before the first step.

    Args:
        backbone: A pyramid model of `kvision.backbones`, on images `(B, H, W, 3)` of 0..255.
        num_classes: Number of classes.
        pool_size: Number of parts in each direction that are averaged. Above 1, compiled code of
            TensorFlow has to know the size of the images.
        hidden_units: Units of the hidden dense layers, each followed by a ReLU and by dropout.
        dropout: Rate in [0, 1) of the dropout; without hidden layers it is before the logits.
        **kwargs: Arguments of `kvision.models.ImageModel`.

    Raises:
        ValueError: For an argument out of its range.
    """

    task = "classification"

    def __init__(
        self, backbone, num_classes, *, pool_size=1, hidden_units=(), dropout=0.0, **kwargs
    ):
        super().__init__(num_classes=num_classes, **kwargs)
        if pool_size < 1:
            raise ValueError(
                f"ImageClassifier: `pool_size` must be at least 1. Received: {pool_size}."
            )
        self._level, spec = coarsest_level("ImageClassifier", backbone)
        self.backbone = backbone
        self.pool_size = pool_size
        self.hidden_units = tuple(hidden_units)
        self.dropout = dropout
        policy = self.dtype_policy
        self.pooling = (
            layers.GlobalAveragePooling2D(dtype=policy, name="pooling")
            if pool_size == 1
            else layers.AdaptiveAveragePooling2D(pool_size, dtype=policy, name="pooling")
        )
        self.flatten = layers.Flatten(dtype=policy, name="flatten")
        self.hidden = [
            layers.Dense(units, activation="relu", dtype=policy, name=f"hidden{index}")
            for index, units in enumerate(self.hidden_units, start=1)
        ]
        self.drop = layers.Dropout(dropout, dtype=policy, name="dropout")
        self.classifier = layers.Dense(num_classes, dtype="float32", name="logits")
        if not backbone.built:
            backbone.build((None, None, None, 3))
        units = spec.channels * pool_size**2
        for dense in (*self.hidden, self.classifier):
            dense.build((None, units))
            units = dense.units
        self.built = True

    def call(self, images, training=None):
        x = self.pooling(self.backbone(images, training=training)[self._level])
        x = self.flatten(x)
        for dense in self.hidden:
            x = self.drop(dense(x), training=training)
        if not self.hidden:
            x = self.drop(x, training=training)
        return self.classifier(x)

    def decode(self, raw):
        """Returns the most probable class and all probabilities.

        Args:
            raw: Logits `(B, num_classes)`.

        Returns:
            `{"labels": (B,) int32, "scores": (B, num_classes) float32}`.
        """
        scores = ops.softmax(ops.cast(raw, "float32"), axis=-1)
        return {"labels": ops.cast(ops.argmax(scores, axis=-1), "int32"), "scores": scores}

    def default_loss(self):
        """Returns the cross-entropy of integer labels.

        Returns:
            A `keras.losses.Loss` of logits.
        """
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def default_metrics(self):
        """Returns the accuracy.

        Returns:
            A list of one metric.
        """
        return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns the loss of `compile`, after a look at the labels.

        Args:
            x: The images.
            y: The labels.
            y_pred: The logits.
            sample_weight: Weights, or `None`.
            training: Whether this is a training step.

        Returns:
            A scalar.

        Raises:
            ValueError: If a label is no class.
        """
        self._check_targets(y)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def _check_targets(self, targets):
        # Of another loss, one-hot labels say, only the loss knows what is right.
        loss = getattr(self, "loss", None)
        if targets is not None and isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
            owner, also = type(self).__name__, loss.ignore_class
            check_labels(owner, targets, self.num_classes, also, "images without truth")

    def get_config(self):
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "hidden_units": list(self.hidden_units),
            "dropout": self.dropout,
        }
