"""Losses of whole regions: F1 score and Dice coefficient of soft decisions."""

import keras
from keras import ops

from kvision.losses.pixel_loss import PixelLoss, quotient


class _RegionLoss(PixelLoss):
    """A loss of each class's overlap with its region, of the batch or of each image."""

    epsilon = 0.0
    squared = False

    def compute(self, pixels):
        truth, found, weights = self._regions(pixels)
        common = self._sum(weights * truth * found)
        size = self._sum(weights * truth)
        size_found = self._sum(weights * (ops.square(found) if self.squared else found))
        overlap = quotient(2.0 * common + self.epsilon, size + size_found + self.epsilon)
        present = ops.cast(size > 0, self.dtype) if self.epsilon == 0 else ops.ones_like(size)
        class_weights = present * self._weights_of_classes(pixels.logits.shape[-1])
        losses = quotient(
            ops.sum(class_weights * self.loss_of(overlap), axis=-1),
            ops.sum(class_weights, axis=-1),
        )
        ones = ops.ones_like(losses)
        return self.reduce(losses, ones, ones)

    def loss_of(self, overlap):
        raise NotImplementedError

    def _regions(self, pixels):
        """Truth and soft decisions `(B, H, W, K)`, and weights that broadcast with them."""
        if self.activation == "sigmoid":
            truth = ops.cast(pixels.labels, self.dtype)
            return truth, ops.sigmoid(pixels.logits), pixels.weights
        truth = ops.one_hot(pixels.labels, pixels.logits.shape[-1], dtype=self.dtype)
        return truth, ops.softmax(pixels.logits), pixels.weights[..., None]

    def _sum(self, values):
        """Over the pixels: `(B, K)` or `(K,)`. Axis by axis, which rounds less than all at once."""
        sums = ops.sum(ops.sum(values, axis=2), axis=1)
        return sums if self.per_image else ops.sum(sums, axis=0)

    def _weights_of_classes(self, num_classes):
        weights = self.class_weights(num_classes)
        if num_classes == 1 or self.ignore_class is None:
            return weights
        return ops.where(ops.arange(num_classes) == self.ignore_class, 0.0, weights)


@keras.saving.register_keras_serializable("kvision")
class SoftF1(_RegionLoss):
    """The negative F1 score of soft decisions: `-2 sum(y p) / (sum(y) + sum(p))`, in [-1, 0].

    With y the truth and p the probabilities of a class, the sums are those of true positives, of
    positives and of what is found, over the pixels that count, with their sample weights. Unlike
    cross-entropy it does not know true negatives, which outnumber everything else where the
    foreground is small. The loss is the mean over the classes, each against the rest, weighted by
    `class_weight` (K numbers; 0 leaves out a background, say). Classes that the truth does not have
    are left out, for they pass no gradient on; without any the loss is 0. `ignore_class` is never
    averaged. Shapes, mining and errors are those of `PixelLoss`.

    Args:
        activation: `"softmax"` or `"sigmoid"`.
        per_image: Whether each image has sums of its own and the loss is reduced over the images,
            where one without any class counts 0. Otherwise the sums run over the batch.
        name: Of the loss.
        **kwargs: Of `PixelLoss`: `class_weight`, `ignore_class`, `hard_fraction`, `hard_threshold`,
            `min_kept`, `reduction`, `dtype`.

    Raises:
        ValueError: As `PixelLoss`.
    """

    def __init__(self, *, activation="softmax", per_image=False, name="soft_f1", **kwargs):
        super().__init__(activation=activation, name=name, **kwargs)
        self.per_image = per_image

    def loss_of(self, overlap):
        return -overlap

    def get_config(self):
        return {**super().get_config(), "per_image": self.per_image}


@keras.saving.register_keras_serializable("kvision")
class SoftDice(_RegionLoss):
    """One minus Dice's coefficient: `1 - (2 sum(y p) + epsilon) / (sum(y) + sum(p) + epsilon)`.

    `SoftF1` plus 1, with an `epsilon` that also teaches a class that the truth does not have to
    stay away: all classes are averaged, unless `epsilon` is 0. With `squared` the denominator has
    `sum(y**2) + sum(p**2)`, as in V-Net (Milletari et al., 2016). Everything else is as in
    `SoftF1`; the loss is in [0, 1].

    Args:
        activation: `"softmax"` or `"sigmoid"`.
        per_image: Whether each image has sums of its own and the loss is reduced over the images.
            Otherwise the sums run over the batch.
        epsilon: Non-negative number, in pixels.
        squared: Whether the denominator sums squares.
        name: Of the loss.
        **kwargs: Of `PixelLoss`: `class_weight`, `ignore_class`, `hard_fraction`, `hard_threshold`,
            `min_kept`, `reduction`, `dtype`.

    Raises:
        ValueError: If `epsilon` is negative, and as `PixelLoss`.
    """

    def __init__(
        self,
        *,
        activation="softmax",
        per_image=False,
        epsilon=1.0,
        squared=False,
        name="soft_dice",
        **kwargs,
    ):
        super().__init__(activation=activation, name=name, **kwargs)
        if epsilon < 0:
            raise ValueError(f"SoftDice: `epsilon` must not be negative. Received: {epsilon}.")
        self.per_image = per_image
        self.epsilon = epsilon
        self.squared = squared

    def loss_of(self, overlap):
        return 1.0 - overlap

    def get_config(self):
        return {
            **super().get_config(),
            "per_image": self.per_image,
            "epsilon": self.epsilon,
            "squared": self.squared,
        }
