"""Losses of single pixels: cross-entropy by softmax and by sigmoid, and the focal loss."""

import keras
from keras import ops

from kvision.losses.pixel_loss import PixelLoss


class _LossOfEachPixel(PixelLoss):
    """A function of the probability that is given to the label, weighted by the label's class."""

    def compute(self, pixels):
        weights = self._class_weights_of(pixels)
        return self.reduce(self.loss_of(pixels), pixels.weights * weights, pixels.counted)

    def loss_of(self, pixels):
        return -pixels.log_probability

    def _class_weights_of(self, pixels):
        num_classes = pixels.logits.shape[-1]
        if self.class_weight is None:
            return 1.0
        if self.activation == "sigmoid" and num_classes > 1:
            return self.class_weights(num_classes)
        return ops.take(self.class_weights(max(num_classes, 2)), pixels.labels)


@keras.saving.register_keras_serializable("kvision")
class PixelCrossEntropy(_LossOfEachPixel):
    """Cross-entropy of softmax: `-class_weight[label] * log(probability of the label)`.

    By default the sum over the pixels that count, divided by their number: unlike PyTorch's
    `cross_entropy`, the class weights do not enter the divisor, so that they mean the same in every
    batch; `reduction="mean_with_sample_weight"` gives PyTorch's value. Shapes, mining and errors
    are those of `PixelLoss`.

    Args:
        name: Of the loss.
        **kwargs: Of `PixelLoss`, except `activation`: `class_weight` with K numbers,
            `ignore_class`, `hard_fraction`, `hard_threshold`, `min_kept`, `reduction`, `dtype`.

    Raises:
        ValueError: As `PixelLoss`.
    """

    def __init__(self, name="pixel_cross_entropy", **kwargs):
        super().__init__(name=name, activation="softmax", **kwargs)

    def get_config(self):
        return _without_activation(super().get_config())


@keras.saving.register_keras_serializable("kvision")
class PixelBinaryCrossEntropy(_LossOfEachPixel):
    """Cross-entropy of sigmoid: one decision for each logit.

    By default the sum over the decisions that count, divided by their number. `class_weight` has
    two numbers for a single logit, those of the labels 0 and 1, and for K > 1 logits the K weights
    of the classes' decisions. Shapes, mining and errors are those of `PixelLoss`.

    Args:
        name: Of the loss.
        **kwargs: Of `PixelLoss`, except `activation`: `class_weight`, `ignore_class`,
            `hard_fraction`, `hard_threshold`, `min_kept`, `reduction`, `dtype`.

    Raises:
        ValueError: As `PixelLoss`.
    """

    def __init__(self, name="pixel_binary_cross_entropy", **kwargs):
        super().__init__(name=name, activation="sigmoid", **kwargs)

    def get_config(self):
        return _without_activation(super().get_config())


@keras.saving.register_keras_serializable("kvision")
class PixelFocal(_LossOfEachPixel):
    """Focal loss: `-alpha * (1 - p)**gamma * log(p)`, with p the probability of the label.

    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017, whose form is
    `activation="sigmoid"` with `alpha=0.25`. Under softmax p is that of the pixel's class, and
    `class_weight` takes the part of alpha. By default the sum over the decisions that count,
    divided by their number, where RetinaNet divides by the number of its positives. Shapes, mining
    and errors are those of `PixelLoss`.

    Args:
        gamma: Non-negative exponent; 0 gives the cross-entropy.
        alpha: Weight of the label 1 in [0, 1], and one minus that of the label 0, under sigmoid.
            `None` for 1 of both.
        activation: `"softmax"` or `"sigmoid"`.
        name: Of the loss.
        **kwargs: Of `PixelLoss`: `class_weight` (as in the cross-entropy of the same activation),
            `ignore_class`, `hard_fraction`, `hard_threshold`, `min_kept`, `reduction`, `dtype`.

    Raises:
        ValueError: If `gamma` or `alpha` is outside its range, `alpha` is given with softmax, and
            as `PixelLoss`.
    """

    def __init__(
        self, gamma=2.0, alpha=None, *, activation="softmax", name="pixel_focal", **kwargs
    ):
        super().__init__(activation=activation, name=name, **kwargs)
        if gamma < 0:
            raise ValueError(f"PixelFocal: `gamma` must not be negative. Received: {gamma}.")
        if alpha is not None and activation == "softmax":
            raise ValueError(
                "PixelFocal: `alpha` belongs to `activation`='sigmoid'; with softmax give "
                f"`class_weight`. Received: {alpha}."
            )
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"PixelFocal: `alpha` must be in [0, 1]. Received: {alpha}.")
        self.gamma = gamma
        self.alpha = alpha

    def loss_of(self, pixels):
        # Kept off 0, where a power below 1 has no slope; there the logarithm is 0 anyway.
        missing = ops.maximum(-ops.expm1(pixels.log_probability), 1e-12)
        losses = -ops.power(missing, self.gamma) * pixels.log_probability
        if self.alpha is None:
            return losses
        return losses * ops.where(pixels.labels == 1, self.alpha, 1.0 - self.alpha)

    def get_config(self):
        return {**super().get_config(), "gamma": self.gamma, "alpha": self.alpha}


def _without_activation(config):
    return {name: value for name, value in config.items() if name != "activation"}
