"""How many objects of label maps are found, as it is counted for cells and nuclei."""

import keras
import numpy as np
from keras import ops

from kvision.metrics.segment_matching import (
    Segments,
    check_range,
    check_same_pixels,
    elect_partners,
    read_instance_ids,
    weights_by_image,
)

# The IoU thresholds 0.50, 0.55, ..., 0.95, in twentieths: they are compared in whole numbers.
_TWENTIETHS = tuple(range(10, 20))


@keras.saving.register_keras_serializable("kvision")
class ObjectMetrics(keras.metrics.Metric):
    """F1 and AP of the objects of label maps at the IoU thresholds 0.50, 0.55, ..., 0.95.

    A predicted object is a true positive (TP) at a threshold if its intersection over union with a
    true object exceeds it; above one half there is one such object at most. The other predicted
    objects are false positives (FP), the true ones without a partner false negatives (FN). Then
    `F1 = 2 TP / (2 TP + FP + FN)` and `AP = TP / (TP + FP + FN)`, which has the name of average
    precision in the Data Science Bowl 2018 and in cellpose, and of accuracy in StarDist; no scores
    of the objects enter, unlike in `COCOMaskMetrics`. Each is reported in two ways:

    - `object_f1_50`, `object_ap_50`, ...: TP, FP and FN are summed over all images and divided
      once, so that an image counts by its objects (StarDist: Schmidt et al., "Cell Detection with
      Star-convex Polygons", MICCAI 2018, which reports AP in this way; Caicedo et al., "Evaluation
      of Deep Learning Strategies for Nucleus Segmentation", Cytometry A 2019, do so with F1).
    - `image_f1_50`, `image_ap_50`, ...: of each image, averaged over images, so that each counts
      alike. `image_ap`, the mean over the thresholds as well, is the score of the Data Science Bowl
      2018 (Caicedo et al., "Nucleus segmentation across imaging experiments", Nature Methods 2019);
      cellpose (Stringer et al., Nature Methods 2021) averages `image_ap_<threshold>`.

    `object_f1`, `object_ap`, `image_f1` and `image_ap` are the means over the ten thresholds.
    An image without any object, true or predicted, has no score and is left out of the averages
    over images; without any image all is NaN. An IoU of exactly the threshold is no match, as the
    Data Science Bowl has it ("greater than"); StarDist and cellpose take it for one.

    `y_true` and `y_pred` are ids `(B, H, W)` or `(B, H, W, 1)`, 0 for background, or dictionaries
    with the key `instance_ids`. The ids of an image need not follow each other, but are at most its
    number of pixels; others are a `ValueError` where their value is known, eagerly, and make all
    results NaN in compiled code. An object is what has one id, connected or not. `sample_weight` is
    by image, `(B,)`; one of weight 0 is left out.

    Args:
        per_threshold: Whether to add `object_f1_<percent>` and so on of all thresholds, not of 0.5
            and 0.75 alone.
        name: Of the metric.
        dtype: Of the results.
    """

    def __init__(self, *, per_threshold=False, name="object_metrics", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.per_threshold = per_threshold
        shape = (len(_TWENTIETHS),)

        def add(name, shape):
            return self.add_variable(shape, "zeros", dtype="float32", name=name)

        self._hits, self._objects = add("hits", shape), add("objects", ())
        self._f1, self._ap, self._images = add("f1", shape), add("ap", shape), add("images", ())

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch.

        Args:
            y_true: Ids of the true objects.
            y_pred: Ids of the predicted objects, at the same pixels.
            sample_weight: Weights by image `(B,)`, or `None`.

        Raises:
            ValueError: If shapes do not fit, or an id is outside its range.
        """
        owner = type(self).__name__
        truth = read_instance_ids(owner, "y_true", y_true)
        found = read_instance_ids(owner, "y_pred", y_pred)
        check_same_pixels(owner, truth, found)
        num_pixels = ops.shape(truth)[1]
        reason = "which have that many pixels,"
        truth, wrong_truth = check_range(owner, f"ids in `y_true`, {reason}", truth, 0, num_pixels)
        found, wrong_found = check_range(owner, f"ids in `y_pred`, {reason}", found, 0, num_pixels)
        num_ids = num_pixels + 1
        hits, objects = _count_hits(Segments(truth, num_ids), Segments(found, num_ids))

        weights = ops.cast(objects > 0, "float32")
        if sample_weight is not None:
            weights = weights * weights_by_image(owner, sample_weight)
        weights = ops.where(ops.logical_or(wrong_truth, wrong_found), float("nan"), weights)

        def add(variable, values):
            by_image = weights if len(values.shape) == 1 else weights[:, None]
            variable.assign(variable + ops.sum(by_image * values, axis=0))

        add(self._hits, hits)
        add(self._objects, objects)
        add(self._f1, _f1(hits, objects[:, None]))
        add(self._ap, _ap(hits, objects[:, None]))
        add(self._images, ops.ones_like(objects))

    def result(self):
        """Divides what was added.

        Returns:
            Dictionary of scalars: `object_f1`, `object_f1_50`, `object_f1_75`, `object_ap`, ...,
            and the same as `image_f1`, ...; NaN where nothing was added.
        """
        variables = (self._hits, self._objects, self._f1, self._ap, self._images)
        hits, objects, f1, ap, images = (ops.convert_to_tensor(v) for v in variables)
        values = {
            "object_f1": ops.where(objects == 0, float("nan"), _f1(hits, objects)),
            "object_ap": ops.where(objects == 0, float("nan"), _ap(hits, objects)),
            "image_f1": ops.where(images == 0, float("nan"), ops.divide_no_nan(f1, images)),
            "image_ap": ops.where(images == 0, float("nan"), ops.divide_no_nan(ap, images)),
        }
        results = {}
        for name, by_threshold in values.items():
            results[name] = ops.mean(by_threshold)
            for index, twentieths in enumerate(_TWENTIETHS):
                if self.per_threshold or twentieths in (10, 15):
                    results[f"{name}_{5 * twentieths}"] = by_threshold[index]
        return {name: ops.cast(value, self.dtype) for name, value in results.items()}

    def get_config(self):
        return {**super().get_config(), "per_threshold": self.per_threshold}


def _count_hits(truth, found):
    """True positives `(B, 10)` and the number of objects, true and predicted `(B,)`, as floats."""
    partners, shared = elect_partners(truth, found)
    union = truth.areas + ops.take(found.areas, partners) - shared
    thresholds = ops.convert_to_tensor(np.array(_TWENTIETHS, "int32"))
    exceeds = 20 * truth.by_image(shared)[..., None] > thresholds * truth.by_image(union)[..., None]
    hits = ops.sum(ops.cast(exceeds, "float32"), axis=1)
    objects = truth.num_segments() + found.num_segments()
    return hits, ops.cast(objects, "float32")


def _f1(hits, objects):
    return ops.divide_no_nan(2 * hits, objects)


def _ap(hits, objects):
    return ops.divide_no_nan(hits, objects - hits)
