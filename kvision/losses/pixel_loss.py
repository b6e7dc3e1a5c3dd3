"""What all losses of pixels share: labels, the pixels that count, their weights, the reduction."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from kvision.losses.hard_pixels import hardest


class Pixels(NamedTuple):
    """A batch as a loss sees it.

    Under softmax every pixel is one decision, and `map` below stands for `(B, H, W)`. Under sigmoid
    every logit is one, and it stands for `(B, H, W, K)`.

    Attributes:
        logits: Float tensor `(B, H, W, K)`.
        labels: Int32 map: the class of each pixel, or 0 and 1 for each logit; 0 where not valid.
        log_probability: Float map: the logarithm of the probability given to the label.
        counted: Float map: 1 where the decision enters the loss, 0 where it is ignored or was
            passed over by the mining of hard pixels.
        weights: Float map: `counted` times the sample weights.
        wrong: Bool map: where a label is neither a class nor `ignore_class`.
    """

    logits: Any
    labels: Any
    log_probability: Any
    counted: Any
    weights: Any
    wrong: Any


class PixelLoss(keras.losses.Loss):
    """Base of the losses of label maps, computed from logits.

    `y_pred` are logits `(B, H, W, K)`. With `activation="softmax"` each pixel has one class:
    `y_true` is `(B, H, W)` or `(B, H, W, 1)`, class numbers of any dtype. With `"sigmoid"` each
    logit is a decision of its own: `y_true` is 0 or 1 for each, `(B, H, W, K)`, or class numbers as
    above, of which each class is told from the rest; one logit may also be `(B, H, W)`, and its
    labels then are 0 and 1. `sample_weight` in the call is `(B, H, W)`, `(B, H, W, 1)` or `(B,)`.

    A decision counts if its label is not `ignore_class` and it is not passed over by the mining;
    what does not count has a gradient of exactly 0. A batch in which nothing counts gives 0. All
    arithmetic is in float32 (float64 with `dtype="float64"`), under every dtype policy.

    Online hard-pixel mining, if any of its three arguments is given, keeps the decisions whose
    label has a probability below `hard_threshold`, and at least the hardest of the batch, as many
    as `min_kept` and `hard_fraction` of the valid ones say (the more of the two, ties with the last
    of them included). Weights do not enter the choice.
    `hard_threshold` with `min_kept` is the bootstrapping of Wu, Shen and van den Hengel ("Bridging
    Category-level and Instance-level Semantic Image Segmentation", 2016), known as OHEM from the
    code of HRNet and TorchSeg; `hard_fraction` is the `top_k_percent_pixels` of DeepLab's code.

    A label that is no class is a `ValueError` where its value is known: eagerly. In compiled code
    the loss is NaN, and the gradients are those of the other pixels.

    Args:
        activation: `"softmax"` or `"sigmoid"`.
        class_weight: Numbers by class; what they weigh is said by each loss. `None` for all 1.
        ignore_class: Label whose pixels do not count, inside or outside the classes.
        hard_fraction: Fraction of the valid decisions in (0, 1] that is kept at least.
        hard_threshold: Probability in (0, 1] below which a decision is kept.
        min_kept: Number of decisions that is kept at least.
        reduction: `"sum_over_batch_size"` divides the sum by the number of decisions that count, as
            Keras and Caffe do; `"mean_with_sample_weight"` by the sum of all their weights, as
            PyTorch does; `"sum"` does not divide; `None` leaves what is summed.
        name: Of the loss.
        dtype: Of the arithmetic, float32 or float64.

    Raises:
        ValueError: If an argument is outside its range, or, in the call, shapes or labels are.
    """

    def __init__(
        self,
        *,
        activation="softmax",
        class_weight=None,
        ignore_class=None,
        hard_fraction=None,
        hard_threshold=None,
        min_kept=0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        owner = type(self).__name__
        if activation not in ("softmax", "sigmoid"):
            raise ValueError(
                f"{owner}: `activation` must be 'softmax' or 'sigmoid'. Received: {activation!r}."
            )
        for argument, value in (
            ("hard_fraction", hard_fraction),
            ("hard_threshold", hard_threshold),
        ):
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{owner}: `{argument}` must be in (0, 1]. Received: {value}.")
        if min_kept < 0:
            raise ValueError(f"{owner}: `min_kept` must not be negative. Received: {min_kept}.")
        if isinstance(class_weight, dict):
            raise ValueError(
                f"{owner}: `class_weight` must be a sequence of numbers, in the order of the "
                f"classes. Received: {class_weight}."
            )
        if class_weight is not None:
            class_weight = [float(weight) for weight in class_weight]
            if not all(0 <= weight < float("inf") for weight in class_weight):
                raise ValueError(
                    f"{owner}: `class_weight` must be finite and not negative. "
                    f"Received: {class_weight}."
                )
        self.activation = activation
        self.class_weight = class_weight
        self.ignore_class = ignore_class
        self.hard_fraction = hard_fraction
        self.hard_threshold = hard_threshold
        self.min_kept = min_kept
        self._dtype = "float64" if self.dtype == "float64" else "float32"

    def __call__(self, y_true, y_pred, sample_weight=None):
        with keras.name_scope(self.name):
            pixels = self._pixels(y_true, y_pred, sample_weight)
            loss = self.compute(pixels)
            is_map = len(loss.shape) == len(pixels.wrong.shape)
            wrong = pixels.wrong if is_map else ops.any(pixels.wrong)
            return loss + ops.cast(ops.where(wrong, float("nan"), 0.0), self.dtype)

    def compute(self, pixels):
        """Computes the reduced loss of a batch.

        Args:
            pixels: `Pixels`.

        Returns:
            Scalar, or what `reduction=None` leaves.
        """
        raise NotImplementedError

    def reduce(self, values, weights, counted):
        """Applies the weights and `reduction`.

        Args:
            values: Float tensor.
            weights: Float tensor that broadcasts with it.
            counted: Float tensor of the same shape as `weights`: 1 for what counts, else 0.

        Returns:
            Scalar; with `reduction=None` `values * weights`.
        """
        values = values * weights
        if self.reduction in (None, "none"):
            return values
        total = ops.sum(values)
        if self.reduction == "sum":
            return total
        by = weights if self.reduction == "mean_with_sample_weight" else counted
        return quotient(total, ops.sum(by)) / _num_replicas()

    def class_weights(self, num_weights):
        """Returns `class_weight`, checked and with `None` as ones.

        Args:
            num_weights: How many there have to be.

        Returns:
            Float tensor `(num_weights,)`.

        Raises:
            ValueError: If there are more or fewer.
        """
        weights = [1.0] * num_weights if self.class_weight is None else self.class_weight
        if len(weights) != num_weights:
            raise ValueError(
                f"{type(self).__name__}: `class_weight` must have {num_weights} numbers. "
                f"Received: {len(weights)}."
            )
        return ops.convert_to_tensor(weights, self.dtype)

    def _pixels(self, y_true, y_pred, sample_weight):
        logits = ops.cast(ops.convert_to_tensor(y_pred), self.dtype)
        labels = ops.convert_to_tensor(y_true)
        if self.activation == "sigmoid" and len(logits.shape) == 3:
            logits = logits[..., None]
        self._check_shapes(labels, logits)
        num_classes = logits.shape[-1]
        labels = ops.cast(labels, "int32")
        if len(labels.shape) == 3:
            labels = labels[..., None]
        one_for_each_logit = self.activation == "sigmoid" and labels.shape[-1] == num_classes

        ignored = ops.zeros_like(labels, "bool")
        if self.ignore_class is not None:
            ignored = labels == self.ignore_class
        is_class = ops.logical_and(labels >= 0, labels < (2 if one_for_each_logit else num_classes))
        wrong = ops.logical_not(ops.logical_or(is_class, ignored))
        self._raise_if_known(wrong, labels)
        valid = ops.logical_and(is_class, ops.logical_not(ignored))
        labels = ops.where(valid, labels, 0)
        if self.activation == "softmax":
            labels, valid, wrong = labels[..., 0], valid[..., 0], wrong[..., 0]
            losses = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        else:
            if not one_for_each_logit:
                labels = ops.cast(labels == ops.arange(num_classes, dtype="int32"), "int32")
                valid = ops.logical_and(valid, ops.ones_like(labels, "bool"))
            losses = ops.binary_crossentropy(ops.cast(labels, self.dtype), logits, from_logits=True)
        counted = ops.cast(self._mined(losses, valid), self.dtype)
        weights = counted
        if sample_weight is not None:
            weights = counted * self._per_decision(sample_weight, counted)
        return Pixels(logits, labels, -losses, counted, weights, wrong)

    def _mined(self, losses, valid):
        """The valid decisions that the mining of hard pixels keeps."""
        if self.hard_fraction is None and self.hard_threshold is None and not self.min_kept:
            return valid
        at_least = ops.convert_to_tensor(self.min_kept, "int32")
        if self.hard_fraction is not None:
            num_valid = ops.cast(ops.sum(ops.cast(valid, "int32")), "float32")
            fraction = ops.maximum(ops.round(self.hard_fraction * num_valid), 1.0)
            at_least = ops.maximum(at_least, ops.cast(fraction, "int32"))
        kept = hardest(losses, valid, at_least)
        if self.hard_threshold is not None:
            below = losses > -float(np.log(self.hard_threshold))
            kept = ops.logical_or(kept, ops.logical_and(valid, below))
        return kept

    def _per_decision(self, sample_weight, counted):
        expected = tuple(counted.shape[:3])
        weights = ops.cast(ops.convert_to_tensor(sample_weight), self.dtype)
        found = tuple(weights.shape)
        if len(found) == 4 and found[-1] == 1:
            weights = weights[..., 0]
        fits = len(weights.shape) in (1, 3) and all(
            None in pair or pair[0] == pair[1]
            for pair in zip(weights.shape, expected, strict=False)
        )
        if not fits:
            raise ValueError(
                f"{type(self).__name__}: `sample_weight` must have shape (B, H, W), (B, H, W, 1) "
                f"or (B,), as the pixels have shape {expected}. Received: {found}."
            )
        if len(weights.shape) == 1:
            weights = weights[:, None, None]
        return weights if len(counted.shape) == 3 else weights[..., None]

    def _check_shapes(self, labels, logits):
        owner = type(self).__name__
        found, expected = tuple(labels.shape), tuple(logits.shape)
        if len(expected) != 4 or expected[-1] is None:
            raise ValueError(
                f"{owner}: `y_pred` must have shape (B, H, W, K). Received: {expected}."
            )
        if self.activation == "softmax" and expected[-1] < 2:
            raise ValueError(
                f"{owner}: softmax needs at least 2 classes, one logit is a matter for sigmoid. "
                f"Received: `y_pred` of shape {expected}."
            )
        channels = {1} if self.activation == "softmax" else {1, expected[-1]}
        fits = len(found) == 3 or (len(found) == 4 and found[-1] in channels)
        pairs = zip(found[:3], expected[:3], strict=False)
        if not fits or any(None not in pair and pair[0] != pair[1] for pair in pairs):
            last = " or ".join(map(str, sorted(channels)))
            raise ValueError(
                f"{owner}: `y_true` must have shape (B, H, W) or (B, H, W, {last}), as `y_pred` "
                f"has shape {expected}. Received: {found}."
            )

    def _raise_if_known(self, wrong, labels):
        try:
            if not bool(ops.any(wrong)):
                return
        except TypeError:  # from every backend, of a tensor without a value: the code is compiled
            return
        found = np.unique(ops.convert_to_numpy(labels)[ops.convert_to_numpy(wrong)]).tolist()
        raise ValueError(
            f"{type(self).__name__}: `y_true` must hold the classes of `y_pred` or "
            f"`ignore_class`={self.ignore_class}. Received also: {found[:10]}."
        )

    def get_config(self):
        return {
            **super().get_config(),
            "dtype": self.dtype,
            "activation": self.activation,
            "class_weight": self.class_weight,
            "ignore_class": self.ignore_class,
            "hard_fraction": self.hard_fraction,
            "hard_threshold": self.hard_threshold,
            "min_kept": self.min_kept,
        }


def quotient(above, below):
    """Divides what is 0 wherever its divisor is; that gives 0.

    Args:
        above: Float tensor.
        below: Float tensor of the same shape.

    Returns:
        Float tensor of their dtype, which Keras' `divide_no_nan` does not keep on PyTorch.
    """
    return above / ops.where(below == 0, ops.ones_like(below), below)


def _num_replicas():
    """Replicas in sync, whose gradients `tf.distribute` adds up."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync
