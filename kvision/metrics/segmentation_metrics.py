"""The metrics of label maps, all from one confusion matrix."""

import keras
import numpy as np
from keras import ops

from kvision.metrics.label_maps import read_label_maps
from kvision.ops import native

_CARRY = 2**20
_DEFAULT_NAME = "segmentation_metrics"


def segmentation_scores(confusion_matrix, ignore_class=None):
    """Computes what is usually reported of a confusion matrix h.

    With `t[i] = sum_j h[i, j]`, the pixels of class i, and `f[i] = sum_j h[j, i]`, those predicted:
    pixel accuracy `sum_i h[i, i] / sum t`; class accuracy `h[i, i] / t[i]`; intersection over union
    `h[i, i] / (t[i] + f[i] - h[i, i])`; F1 score `2 h[i, i] / (t[i] + f[i])`;
    frequency-weighted IoU `sum_i t[i] IoU[i] / sum t` (Long et al., "Fully Convolutional Networks
    for Semantic Segmentation", 2015).

    A class that is neither in the truth nor predicted has no IoU and no F1, one that is not in the
    truth has no accuracy: they are NaN and left out of the means, as in FCN's and Cityscapes' code.
    With `ignore_class` inside the classes its row is left out: it is no class of the truth and not
    averaged, and a pixel predicted as it is a miss of its true class. Without any pixel all is NaN.

    Args:
        confusion_matrix: Array or tensor `(K, K)`: rows are true classes, columns predicted ones.
            NumPy arrays are computed by NumPy in float64.
        ignore_class: Class whose row is left out, or `None`.

    Returns:
        Dictionary of scalars, `pixel_accuracy`, `mean_pixel_accuracy`, `mean_iou`,
        `frequency_weighted_iou` and `mean_f1`, and of arrays `(K,)`, `class_accuracy`, `iou` and
        `f1`. Arrays of NumPy for one of NumPy, else tensors.
    """
    xp = ops
    if isinstance(confusion_matrix, np.ndarray):
        xp, confusion_matrix = np, confusion_matrix.astype("float64")
    kept = np.arange(confusion_matrix.shape[0]) != (-1 if ignore_class is None else ignore_class)
    matrix = xp.where(kept[:, None], confusion_matrix, xp.zeros_like(confusion_matrix))
    hits = xp.diagonal(matrix)
    truth = xp.sum(matrix, axis=1)
    found = xp.where(kept, xp.sum(matrix, axis=0), xp.zeros_like(hits))

    def quotient(above, below):
        nothing = below == 0
        result = above / xp.where(nothing, xp.ones_like(below), below)
        return xp.where(nothing, xp.full_like(result, float("nan")), result)

    def mean(values, present):
        counted = xp.where(present, values, xp.zeros_like(values))
        return quotient(xp.sum(counted), xp.sum(xp.where(present, hits * 0 + 1, hits * 0)))

    accuracy = quotient(hits, truth)
    iou = quotient(hits, truth + found - hits)
    f1 = quotient(2 * hits, truth + found)
    somewhere = truth + found != 0
    total = xp.sum(truth)
    weighted_iou = xp.where(somewhere, truth * iou, xp.zeros_like(truth))
    scores = {
        "pixel_accuracy": quotient(xp.sum(hits), total),
        "mean_pixel_accuracy": mean(accuracy, truth != 0),
        "mean_iou": mean(iou, somewhere),
        "frequency_weighted_iou": quotient(xp.sum(weighted_iou), total),
        "mean_f1": mean(f1, somewhere),
        "class_accuracy": accuracy,
        "iou": iou,
        "f1": f1,
    }
    # NumPy makes arrays of no axes out of scalars, and scalars of them.
    return {name: value[()] for name, value in scores.items()} if xp is np else scores


@keras.saving.register_keras_serializable("kvision")
class SegmentationMetrics(keras.metrics.Metric):
    """Pixel accuracy, IoU and F1 of label maps, from one confusion matrix.

    The matrix is accumulated over all batches and divided once, as the benchmarks do; the formulas,
    and what happens to absent and ignored classes, are those of `segmentation_scores`. Counts are
    kept in two float32 parts and are exact up to 2^44 pixels a cell, on every backend.

    `y_true` are class numbers `(B, H, W)` or `(B, H, W, 1)`, or of any rank; `y_pred` are logits
    or probabilities with one more axis of `num_classes`, or class numbers (an integer dtype) like
    `y_true`. With two classes one logit does as well, `(B, H, W, 1)`: class 1 where it is positive.
    `sample_weight` is by pixel, like `y_true`, or by image `(B,)`.

    A label that is neither a class nor `ignore_class`, or a predicted one that is no class, is a
    `ValueError` where its value is known: eagerly. In compiled code all results become NaN.

    Args:
        num_classes: Number of classes K.
        ignore_class: Label whose pixels do not count, inside or outside the classes. Unlike in
            `keras.metrics.MeanIoU`, one inside the classes is not averaged.
        per_class: Whether to add `iou/<class>` for every class, NaN where a class has none.
        class_names: Names for these keys, in the order of the classes. `None` uses the numbers.
        name: Of the metric. With another than the default one the keys of the results begin with
            it, `<name>/mean_iou`, so that a model can have several.
        dtype: Of the results.

    Raises:
        ValueError: If `num_classes` is less than 2, or `class_names` has another length.
    """

    def __init__(
        self,
        num_classes,
        *,
        ignore_class=None,
        per_class=False,
        class_names=None,
        name=_DEFAULT_NAME,
        dtype=None,
    ):
        super().__init__(name=name, dtype=dtype)
        if num_classes < 2:
            raise ValueError(
                f"SegmentationMetrics: `num_classes` must be at least 2. Received: {num_classes}."
            )
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(
                f"SegmentationMetrics: `class_names` must have {num_classes} names. "
                f"Received: {len(class_names)}."
            )
        self.num_classes = num_classes
        self.ignore_class = ignore_class
        self.per_class = per_class
        self.class_names = None if class_names is None else list(class_names)
        # The cells row by row, then the number of wrong labels: `_high * 2**20 + _low`.
        shape = (num_classes**2 + 1,)
        self._low = self.add_variable(shape, "zeros", dtype="float32", name="low")
        self._high = self.add_variable(shape, "zeros", dtype="float32", name="high")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch.

        Args:
            y_true: Class numbers.
            y_pred: Logits, probabilities or class numbers.
            sample_weight: Weights by pixel or by image, or `None`.

        Raises:
            ValueError: If shapes do not fit, or a label is no class.
        """
        name = type(self).__name__
        num_classes, num_cells = self.num_classes, self.num_classes**2
        truth, found, ignored, wrong = read_label_maps(
            name, y_true, y_pred, num_classes, self.ignore_class
        )
        if sample_weight is not None:
            sample_weight = _by_pixel(name, sample_weight, truth)
        cells = ops.where(wrong, num_cells, truth * num_classes + found)
        cells = ops.reshape(ops.where(ignored, num_cells + 1, cells), (-1,))
        self._add(_count(cells, num_cells + 2, sample_weight)[: num_cells + 1])

    def _add(self, counts):
        """Adds integers or floats, exactly: the low part stays small and is carried over."""
        high = counts // _CARRY
        low = ops.cast(counts - high * _CARRY, "float32") + self._low
        carried = ops.floor(low / _CARRY)
        self._low.assign(low - carried * _CARRY)
        self._high.assign(self._high + ops.cast(high, "float32") + carried)

    def result(self):
        """Computes the metrics of what was added.

        Returns:
            Dictionary of scalars: `pixel_accuracy`, `mean_pixel_accuracy`, `mean_iou`,
            `frequency_weighted_iou`, `mean_f1`, and `iou/<class>` with `per_class`; behind the name
            of the metric and a slash, where it has one of its own.
        """
        # JAX has no float64 unless asked for.
        dtype = "float32" if keras.backend.backend() == "jax" else "float64"
        counts = ops.cast(self._high, dtype) * _CARRY + ops.cast(self._low, dtype)
        matrix = ops.reshape(counts[:-1], (self.num_classes, self.num_classes))
        matrix = ops.where(counts[-1] > 0, ops.full_like(matrix, float("nan")), matrix)
        scores = segmentation_scores(matrix, self.ignore_class)
        scores = {name: ops.cast(value, self.dtype) for name, value in scores.items()}
        results = {name: value for name, value in scores.items() if not len(value.shape)}
        if self.per_class:
            for number in range(self.num_classes):
                name = number if self.class_names is None else self.class_names[number]
                results[f"iou/{name}"] = scores["iou"][number]
        if self.name == _DEFAULT_NAME:
            return results
        return {f"{self.name}/{key}": value for key, value in results.items()}

    @property
    def confusion_matrix(self):
        """Array `(K, K)` of float64: what was added, true classes by predicted ones."""
        low, high = (ops.convert_to_numpy(v).astype("float64") for v in (self._low, self._high))
        return (high * _CARRY + low)[:-1].reshape(self.num_classes, self.num_classes)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "ignore_class": self.ignore_class,
            "per_class": self.per_class,
            "class_names": self.class_names,
        }


def _by_pixel(owner, sample_weight, truth):
    """Weights `(N,)` of all pixels."""
    weights = ops.cast(ops.convert_to_tensor(sample_weight), "float32")
    found, expected = tuple(weights.shape), tuple(truth.shape)
    by_image = len(found) == 1
    pairs = zip(found, expected, strict=False)
    fits = by_image or len(found) == len(expected) or found[len(expected) :] == (1,)
    if not fits or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise ValueError(
            f"{owner}: `sample_weight` must have the shape of the labels, {expected}, or be one "
            f"number an image, (B,). Received: shape {found}."
        )
    if by_image:
        weights = ops.reshape(weights, (-1, *[1] * (len(truth.shape) - 1)))
        weights = ops.broadcast_to(weights, ops.shape(truth))
    return ops.reshape(weights, (-1,))


def _count(values, size, weights):
    """How often each of `range(size)` occurs, or the sum of the weights."""
    backend = keras.backend.backend()
    if backend == "jax" or (backend == "tensorflow" and native.traced_for_xla()):
        ones = ops.ones_like(values) if weights is None else weights
        return ops.segment_sum(ones, values, num_segments=size)
    # Its number of bins is found while it runs, which XLA cannot do; it is many times as fast.
    return ops.bincount(values, weights=weights, minlength=size)
