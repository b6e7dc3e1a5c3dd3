"""The base of every semantic segmenter."""

import numpy as np
from keras import ops

from kvision.losses import PixelCrossEntropy
from kvision.metrics import SegmentationMetrics
from kvision.models.data_checks import check_labels
from kvision.models.image_model import ImageModel


class Segmenter(ImageModel):
    """A `keras.Model` that gives each pixel a class.

    A subclass writes `call(images, training=None)` -> logits `(B, H, W, num_classes)`, float32
    under every dtype policy. Training, evaluation, prediction and export follow from it.

    `fit` and `evaluate` take images `(B, H, W, 3)` of 0..255 and integer labels `(B, H, W)` or
    `(B, H, W, 1)` in which `ignore_class` marks pixels without truth. `sample_weight` is a weight
    a pixel, `(B, H, W)` or `(B, H, W, 1)`, or one an image, `(B,)`; `class_weight` of `fit` a
    weight a class, `{class: weight}`, which Keras itself refuses for pixels. Both multiply the
    loss of a pixel. Where the logits are smaller than the images, as those of convolutions without
    padding are, labels and weights are cropped to the middle.

    `predict` and `decode` return `labels (B, H, W)` int32 and their probabilities `scores
    (B, H, W)` float32.

    Args:
        num_classes: Number of classes, at least 2; foreground and background are two.
        ignore_class: The label of pixels without truth: they count neither in the loss nor in
            the metrics. `None`: there are no such pixels.
        **kwargs: Arguments of `kvision.models.ImageModel`.

    Raises:
        ValueError: For an argument out of its range.
    """

    task = "segmentation"

    def __init__(self, *, num_classes, ignore_class=255, **kwargs):
        super().__init__(num_classes=num_classes, **kwargs)
        name = type(self).__name__
        if num_classes < 2:
            raise ValueError(
                f"{name}: `num_classes` must be at least 2: foreground and background are two. "
                f"Received: {num_classes}."
            )
        if ignore_class is not None and 0 <= ignore_class < num_classes:
            raise ValueError(
                f"{name}: `ignore_class` must be none of the classes 0..{num_classes - 1}. "
                f"Received: {ignore_class}."
            )
        self.ignore_class = ignore_class
        self._class_weight = None

    def output_size(self, image_size):
        """Returns the size of the logits.

        Args:
            image_size: `(height, width)` of the images.

        Returns:
            `(height, width)`, the same unless the model says otherwise.
        """
        return tuple(image_size)

    def default_loss(self):
        """Returns the mean cross-entropy of the pixels.

        Returns:
            A `kvision.losses.PixelCrossEntropy`.
        """
        return PixelCrossEntropy(ignore_class=self.ignore_class)

    def default_metrics(self):
        """Returns accuracies and overlaps from one confusion matrix.

        Returns:
            A list of one `kvision.metrics.SegmentationMetrics`.
        """
        return [SegmentationMetrics(self.num_classes, ignore_class=self.ignore_class)]

    def decode(self, raw):
        """Returns the most probable class of each pixel.

        Args:
            raw: Logits `(B, H, W, num_classes)`.

        Returns:
            `{"labels": (B, H, W) int32, "scores": (B, H, W) float32}`.
        """
        raw = ops.cast(raw, "float32")
        # The probability of the largest logit, without those of all others.
        scores = ops.exp(ops.max(raw, axis=-1) - ops.logsumexp(raw, axis=-1))
        return {"labels": ops.cast(ops.argmax(raw, axis=-1), "int32"), "scores": scores}

    def fit(self, *args, class_weight=None, **kwargs):
        """Trains the model.

        Args:
            *args: Arguments of `keras.Model.fit`.
            class_weight: `{class: weight}`; classes that are not named weigh 1.
            **kwargs: Arguments of `keras.Model.fit`.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            ValueError: If a label is no class, or `class_weight` is no dictionary of classes.
        """
        if class_weight is None:
            return super().fit(*args, **kwargs)
        self._class_weight = self._weight_of_each_class(class_weight)
        self.train_function = None  # the weights are constants of the step
        try:
            return super().fit(*args, **kwargs)
        finally:
            self._class_weight = self.train_function = None

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, **kwargs):
        """Runs one training step.

        Args:
            x: The images.
            y: The labels.
            sample_weight: The weights, or `None`.
            class_weight: `{class: weight}`, as in `fit`.
            **kwargs: Arguments of `keras.Model.train_on_batch`.

        Returns:
            What `keras.Model.train_on_batch` returns.

        Raises:
            ValueError: If a label is no class, or `class_weight` is no dictionary of classes.
        """
        if class_weight is not None:
            # As weights of pixels: those that are constants of the step would compile it anew.
            self._check_targets(y)
            labels, sample_weight = self._targets(x, y, y, sample_weight)
            weight_of_class = self._weight_of_each_class(class_weight)
            sample_weight = self._weigh_classes(labels, weight_of_class, sample_weight)
            sample_weight = ops.convert_to_numpy(sample_weight)
        return super().train_on_batch(x, y, sample_weight, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns the loss of `compile` for labels and weights as `fit` takes them.

        Args:
            x: The images.
            y: The labels.
            y_pred: The logits.
            sample_weight: The weights, or `None`.
            training: Whether this is a training step: class weights count there only.

        Returns:
            A scalar.

        Raises:
            ValueError: If there are no labels, a label is no class, or labels or weights have
                another shape.
        """
        labels, sample_weight = self._targets(x, y, y_pred, sample_weight)
        self._check_targets(labels)
        if training and self._class_weight is not None:
            sample_weight = self._weigh_classes(labels, self._class_weight, sample_weight)
        return super().compute_loss(x, labels, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Returns the running losses and metrics.

        Args:
            x: The images.
            y: The labels.
            y_pred: The logits.
            sample_weight: The weights, or `None`.

        Returns:
            `{name: scalar}`.
        """
        labels, sample_weight = self._targets(x, y, y_pred, sample_weight)
        return super().compute_metrics(x, labels, y_pred, sample_weight)

    def _targets(self, images, labels, logits, sample_weight):
        """Labels `(B, h, w)` int32 and weights that broadcast to them, cropped to the logits."""
        if labels is None:
            raise ValueError(
                f"{type(self).__name__}: labels (B, H, W) must come with the images, as "
                "`kvision.data.to_fit` pairs them. Received: None."
            )
        labels = ops.convert_to_tensor(labels)
        if not (_is_map(labels) and (_covers(labels, logits) or _covers(labels, images))):
            raise ValueError(
                f"{type(self).__name__}: labels must have the size of their images, shape "
                f"(B, H, W) or (B, H, W, 1). Received: shape {tuple(labels.shape)} for images of "
                f"shape {tuple(images.shape)}."
            )
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight, "float32")
            if len(sample_weight.shape) == 1:
                sample_weight = sample_weight[:, None, None]
            elif _is_map(sample_weight) and _covers(sample_weight, labels):
                sample_weight = _middle(sample_weight, logits)
            else:
                raise ValueError(
                    f"{type(self).__name__}: `sample_weight` must have shape (B, H, W), "
                    "(B, H, W, 1) or (B,). Received: shape "
                    f"{tuple(sample_weight.shape)} for labels of shape {tuple(labels.shape)}."
                )
        labels = ops.cast(_middle(labels, logits), "int32")
        if sample_weight is not None:
            sample_weight = ops.broadcast_to(sample_weight, ops.shape(labels))
        return labels, sample_weight

    def _check_targets(self, targets):
        if targets is not None:  # `compute_loss` says that they are missing
            owner, also = type(self).__name__, self.ignore_class
            check_labels(owner, targets, self.num_classes, also, "pixels without truth")

    def _weigh_classes(self, labels, weight_of_class, sample_weight):
        known = ops.clip(labels, 0, self.num_classes - 1)  # the ignored weigh nothing anyway
        weights = ops.take(ops.convert_to_tensor(weight_of_class), known)
        return weights if sample_weight is None else weights * sample_weight

    def _weight_of_each_class(self, class_weight):
        if not isinstance(class_weight, dict):
            raise ValueError(
                f"{type(self).__name__}: `class_weight` must be a dictionary {{class: weight}}, as "
                "`dict(enumerate(weights))` makes it of the weights of all classes. "
                f"Received: {class_weight!r}."
            )
        unknown = [c for c in class_weight if c not in range(self.num_classes)]
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: `class_weight` must be of classes "
                f"0..{self.num_classes - 1}. Received: {unknown}."
            )
        weights = [class_weight.get(c, 1.0) for c in range(self.num_classes)]
        return np.array(weights, "float32")

    def get_config(self):
        return {**super().get_config(), "ignore_class": self.ignore_class}


def _is_map(values):
    """Whether the shape is `(B, H, W)` or `(B, H, W, 1)`."""
    return len(values.shape) == 3 or (len(values.shape) == 4 and values.shape[3] in (1, None))


def _covers(values, others):
    """Whether heights and widths are the same, as far as they are known."""
    pairs = zip(values.shape[1:3], others.shape[1:3], strict=True)
    return all(None in pair or pair[0] == pair[1] for pair in pairs)


def _middle(values, logits):
    """The middle of `(B, H, W)` or `(B, H, W, 1)`, as large as the logits; without the 1."""
    if len(values.shape) == 4:
        values = values[..., 0]
    height, width = ops.shape(logits)[1:3]
    top = (ops.shape(values)[1] - height) // 2
    left = (ops.shape(values)[2] - width) // 2
    return values[:, top : top + height, left : left + width]
