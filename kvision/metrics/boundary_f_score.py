"""How well the boundaries of label maps are met."""

import math

import keras
import numpy as np
from keras import ops

from kvision.metrics.label_maps import read_label_maps


@keras.saving.register_keras_serializable("kvision")
class BoundaryFScore(keras.metrics.Metric):
    """F-score of the classes' boundaries, of each image, averaged over images and then classes.

    Of each class's mask the boundary is one pixel wide: the pixels that differ from their right,
    lower or lower right neighbour. Precision is the share of the predicted boundary within the
    tolerance of the true one, recall the share of the true one within that of the predicted; the
    distance is Euclidean. Where only one has a boundary, F is 0. Where neither has, it is 1, as in
    the code of DAVIS (Perazzi et al., 2016) and Gated-SCNN (Takikawa et al., 2019), so that a class
    that is nowhere counts as met; `count_absent=False` leaves such images out.

    Pixels of `ignore_class` are taken out of all masks, true and predicted. Published tolerances:
    0.0075 (SegNet), 0.008 (DAVIS), 0.00088, 0.001875, 0.00375 and 0.005 (Gated-SCNN's 3, 5, 9 and
    12 pixels of 1024 x 2048). It is written in tensor math and runs in `fit` and `evaluate`; with
    the tolerance in pixels the image size need not be known when the code is compiled.

    Shapes and wrong labels are those of `SegmentationMetrics`, with images `(B, H, W)`;
    `sample_weight` is by image, `(B,)`, or by pixel like `y_true`: an image then counts by the mean
    of its pixels. (As one of `weighted_metrics` a `Segmenter` gives it weights by pixel always.)

    Args:
        num_classes: Number of classes K.
        tolerance: Below 1 a fraction of the image diagonal, rounded up to pixels; else a whole
            number of pixels.
        ignore_class: Label whose pixels do not count, inside or outside the classes; one inside is
            not averaged.
        count_absent: Whether an image counts for a class without boundary in truth and prediction.
        per_class: Whether to add `boundary_f_score/<class>` for every class, NaN where it has none.
        class_names: Names for these keys, in the order of the classes. `None` uses the numbers.
        name: Of the metric.
        dtype: Of the results.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes,
        *,
        tolerance=0.0075,
        ignore_class=None,
        count_absent=True,
        per_class=False,
        class_names=None,
        name="boundary_f_score",
        dtype=None,
    ):
        super().__init__(name=name, dtype=dtype)
        if num_classes < 2:
            raise ValueError(
                f"BoundaryFScore: `num_classes` must be at least 2. Received: {num_classes}."
            )
        if tolerance < 0 or (tolerance >= 1 and tolerance != int(tolerance)):
            raise ValueError(
                "BoundaryFScore: `tolerance` must be a fraction of the diagonal in [0, 1) or a "
                f"whole number of pixels. Received: {tolerance}."
            )
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(
                f"BoundaryFScore: `class_names` must have {num_classes} names. "
                f"Received: {len(class_names)}."
            )
        self.num_classes = num_classes
        self.tolerance = tolerance
        self.ignore_class = ignore_class
        self.count_absent = count_absent
        self.per_class = per_class
        self.class_names = None if class_names is None else list(class_names)
        self._scores = self.add_variable((num_classes,), "zeros", dtype="float32", name="scores")
        self._images = self.add_variable((num_classes,), "zeros", dtype="float32", name="images")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch.

        Args:
            y_true: Class numbers `(B, H, W)` or `(B, H, W, 1)`.
            y_pred: Logits, probabilities or class numbers.
            sample_weight: Weights by image `(B,)` or by pixel, or `None`.

        Raises:
            ValueError: If shapes do not fit, a label is no class, or the image size is not known
                where the tolerance is a fraction of it.
        """
        truth, found, ignored, wrong = read_label_maps(
            type(self).__name__, y_true, y_pred, self.num_classes, self.ignore_class
        )
        if len(truth.shape) != 3:
            raise ValueError(
                f"BoundaryFScore: `y_true` must have shape (B, H, W). Received: {truth.shape}."
            )
        radius = self._radius(truth.shape[1:])

        def boundary_of(labels):
            labels = ops.where(ignored, -1, labels)[..., None]
            return boundaries(labels == ops.arange(self.num_classes, dtype="int32"))

        truth, found = boundary_of(truth), boundary_of(found)
        scores, present = _f_scores(truth, found, radius)
        counted = ops.ones_like(scores) if self.count_absent else ops.cast(present, "float32")
        if sample_weight is not None:
            weights = ops.cast(ops.convert_to_tensor(sample_weight), "float32")
            shape, expected = tuple(weights.shape), tuple(truth.shape)
            if len(shape) not in (1, 3) and shape[3:] != (1,):
                raise ValueError(
                    "BoundaryFScore: `sample_weight` must be one number an image, (B,), or have "
                    f"the shape of the labels, {expected}. Received: {shape}."
                )
            if len(shape) > 1:
                weights = ops.mean(weights, axis=tuple(range(1, len(shape))))
            counted = counted * weights[:, None]
        scores = ops.where(ops.any(wrong), float("nan"), scores)
        self._scores.assign(self._scores + ops.sum(scores * counted, axis=0))
        self._images.assign(self._images + ops.sum(counted, axis=0))

    def _radius(self, size):
        if self.tolerance >= 1:
            return int(self.tolerance)
        if None in tuple(size):
            raise ValueError(
                "BoundaryFScore: a `tolerance` relative to the diagonal needs images of a known "
                f"size; give it in pixels. Received: {self.tolerance} for size {tuple(size)}."
            )
        return math.ceil(self.tolerance * math.hypot(*size))

    def result(self):
        """Averages what was added.

        Returns:
            Dictionary of scalars: `boundary_f_score`, or what the metric is named, and
            `boundary_f_score/<class>` with `per_class`; NaN where nothing was added.
        """
        scores, images = (ops.convert_to_tensor(v) for v in (self._scores, self._images))
        kept = ops.convert_to_tensor(np.arange(self.num_classes) != self.ignore_class)
        counted = ops.logical_and(images > 0, kept)
        nan = ops.full_like(scores, float("nan"))
        scores = ops.where(counted, ops.divide_no_nan(scores, images), nan)
        number = ops.sum(ops.cast(counted, "float32"))
        total = ops.sum(ops.where(counted, scores, ops.zeros_like(scores)))
        mean = ops.where(number > 0, ops.divide_no_nan(total, number), float("nan"))
        results = {self.name: ops.cast(mean, self.dtype)}
        if self.per_class:
            for number in range(self.num_classes):
                name = number if self.class_names is None else self.class_names[number]
                results[f"{self.name}/{name}"] = ops.cast(scores[number], self.dtype)
        return results

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "tolerance": self.tolerance,
            "ignore_class": self.ignore_class,
            "count_absent": self.count_absent,
            "per_class": self.per_class,
            "class_names": self.class_names,
        }


def boundaries(masks):
    """The pixels that differ from their right, lower or lower right neighbour.

    In the last row only the right neighbour counts, in the last column only the lower one, and the
    last pixel has none.

    Args:
        masks: Bool tensor `(B, H, W, K)`.

    Returns:
        Bool tensor `(B, H, W, K)`.
    """
    right = ops.logical_xor(masks[:, :, :-1], masks[:, :, 1:])
    lower = ops.logical_xor(masks[:, :-1], masks[:, 1:])
    diagonal = ops.logical_xor(masks[:, :-1, :-1], masks[:, 1:, 1:])
    right = ops.pad(right, ((0, 0), (0, 0), (0, 1), (0, 0)))
    lower = ops.pad(lower, ((0, 0), (0, 1), (0, 0), (0, 0)))
    diagonal = ops.pad(diagonal, ((0, 0), (0, 1), (0, 1), (0, 0)))
    return ops.logical_or(ops.logical_or(right, lower), diagonal)


def dilate(masks, radius):
    """The pixels within a Euclidean distance of a mask: its dilation by a disk.

    A row of the disk is a run of pixels. The mask is widened to one run after the other, and each
    is moved to the rows of the disk that have it.

    Args:
        masks: Bool tensor `(B, H, W, K)`.
        radius: Non-negative int, in pixels.

    Returns:
        Bool tensor `(B, H, W, K)`.
    """

    def moved(padded, axis, offset):
        start = radius + offset
        window = slice(start, start - 2 * radius or None)
        return padded[:, window] if axis == 1 else padded[:, :, window]

    half_widths = [math.isqrt(radius**2 - row**2) for row in range(radius + 1)]
    sideways = ops.pad(masks, ((0, 0), (0, 0), (radius, radius), (0, 0)))
    wide, dilated = masks, masks
    for half_width in range(radius + 1):
        for offset in {-half_width, half_width} - {0}:
            wide = ops.logical_or(wide, moved(sideways, 2, offset))
        rows = [row for row in range(radius + 1) if half_widths[row] == half_width]
        if not rows:
            continue
        padded = ops.pad(wide, ((0, 0), (radius, radius), (0, 0), (0, 0)))
        for offset in sorted({*rows, *(-row for row in rows)}):
            dilated = ops.logical_or(dilated, moved(padded, 1, offset))
    return dilated


def _f_scores(truth, found, radius):
    """F of each image and class `(B, K)`, and whether either has a boundary."""

    def count(masks):
        return ops.sum(ops.cast(masks, "float32"), axis=(1, 2))

    num_truth, num_found = count(truth), count(found)
    near_truth = count(ops.logical_and(found, dilate(truth, radius)))
    near_found = count(ops.logical_and(truth, dilate(found, radius)))
    # No boundary to be wrong: precision 1. None to be found: recall 1.
    precision = ops.where(num_found > 0, ops.divide_no_nan(near_truth, num_found), 1.0)
    recall = ops.where(num_truth > 0, ops.divide_no_nan(near_found, num_truth), 1.0)
    scores = ops.divide_no_nan(2 * precision * recall, precision + recall)
    return scores, num_truth + num_found > 0
