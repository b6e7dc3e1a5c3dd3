"""Panoptic quality: how well the segments of an image, things and stuff alike, are found."""

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


@keras.saving.register_keras_serializable("kvision")
class PanopticQuality(keras.metrics.Metric):
    """PQ, SQ and RQ (Kirillov et al., "Panoptic Segmentation", CVPR 2019).

    A predicted segment is a true positive (TP) if its intersection over union with a true segment
    of its class exceeds 0.5, which one true segment at most can have. Of each class, summed over
    all images, segmentation quality SQ is the mean IoU of the true positives, recognition quality
    `RQ = TP / (TP + FP / 2 + FN / 2)`, and `PQ = SQ * RQ`. Reported are the means over the classes
    that have any segment, true or predicted; NaN where none has. A class without a true positive
    counts with 0 in all three.

    `y_true` and `y_pred` are dictionaries of what has a segment at each pixel and of the segments:

    - `instance_ids`: `(B, H, W)` or `(B, H, W, 1)`: 0, or the segment i, which is described by row
      `i - 1` of the others. A stuff class is one segment of an image.
    - `labels`: `(B, M)`: the class of each segment, -1 for none.
    - `is_crowd`: `(B, M)`, of `y_true` only and optional: which segments are a group of things.

    Pixels of id 0 or of a segment of label -1 are void in the truth and nothing in the prediction.
    Where id 0 is known to be background, as in label maps of cells, say so: else what is predicted
    there counts neither way.

    As in the authors' code (panopticapi), void pixels do not count to the union of a pair; a
    predicted segment that has no partner and more than half of whose pixels are void or crowd of
    its own class is no false positive; and crowd is not required and no partner. (That code looks
    at the last crowd segment of a class in an image, here it is all of them.) A segment without
    pixels does not count; panopticapi counts a true one as missed.

    Ids above M, and labels that are no class, are a `ValueError` where their value is known,
    eagerly, and make all results NaN in compiled code. `sample_weight` is by image, `(B,)`.

    Args:
        num_classes: Number of classes K, things and stuff together.
        things: The classes that are things; the others are stuff. With it `pq_things`, `pq_stuff`
            and so on are reported as well. `None` makes no difference between them.
        background_is_void: Whether true pixels of id 0 are void, as published, or background.
        per_class: Whether to add `pq/<class>`, `sq/<class>` and `rq/<class>` for every class, NaN
            where it has no segment.
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
        things=None,
        background_is_void=True,
        per_class=False,
        class_names=None,
        name="panoptic_quality",
        dtype=None,
    ):
        super().__init__(name=name, dtype=dtype)
        if num_classes < 1:
            raise ValueError(
                f"PanopticQuality: `num_classes` must be at least 1. Received: {num_classes}."
            )
        if things is not None and not all(0 <= label < num_classes for label in things):
            raise ValueError(
                f"PanopticQuality: `things` must be classes in 0..{num_classes - 1}. "
                f"Received: {things}."
            )
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(
                f"PanopticQuality: `class_names` must have {num_classes} names. "
                f"Received: {len(class_names)}."
            )
        self.num_classes = num_classes
        self.things = None if things is None else sorted(int(label) for label in things)
        self.background_is_void = background_is_void
        self.per_class = per_class
        self.class_names = None if class_names is None else list(class_names)

        def add(name):
            return self.add_variable((num_classes,), "zeros", dtype="float32", name=name)

        # The IoUs of many segments need more digits than float32 has: `_iou + _iou_rest`.
        self._iou, self._iou_rest = add("iou"), add("iou_rest")
        self._hits, self._segments = add("hits"), add("segments")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch.

        Args:
            y_true: The true segments.
            y_pred: The predicted segments.
            sample_weight: Weights by image `(B,)`, or `None`.

        Raises:
            ValueError: If shapes do not fit, or an id or a label is outside its range.
        """
        owner = type(self).__name__
        true_ids, true_labels, wrong_truth = self._read("y_true", y_true)
        found_ids, found_labels, wrong_found = self._read("y_pred", y_pred)
        check_same_pixels(owner, true_ids, found_ids)
        crowd = ops.zeros_like(true_labels, "bool")
        if "is_crowd" in y_true:
            crowd = ops.cast(ops.convert_to_tensor(y_true["is_crowd"]), "bool")
            crowd = ops.pad(crowd, ((0, 0), (1, 0)), constant_values=False)

        weights = ops.ones_like(true_labels[:, 0], "float32")
        if sample_weight is not None:
            weights = weights * weights_by_image(owner, sample_weight)
        weights = ops.where(ops.logical_or(wrong_truth, wrong_found), float("nan"), weights)

        truth = Segments(true_ids, ops.shape(true_labels)[1])
        found = Segments(found_ids, ops.shape(found_labels)[1])
        true_labels, found_labels, crowd = (
            ops.reshape(rows, (-1,)) for rows in (true_labels, found_labels, crowd)
        )
        void = truth.at_pixels(true_labels) < 0
        if not self.background_is_void:
            void = ops.logical_and(void, truth.ids > 0)
        iou, required, counted = _judge(truth, true_labels, crowd, void, found, found_labels)

        def by_class(segments, labels, values):
            weighted = ops.reshape(segments.by_image(values) * weights[:, None], (-1,))
            labels = ops.where(labels < 0, self.num_classes, labels)
            return ops.segment_sum(weighted, labels, num_segments=self.num_classes + 1)[:-1]

        hits = by_class(truth, true_labels, ops.cast(iou > 0, "float32"))
        segments = by_class(truth, true_labels, required) + by_class(found, found_labels, counted)
        self._hits.assign(self._hits + hits)
        self._segments.assign(self._segments + segments)
        # Kahan's summation: what falls off the end of the sum is added the next time.
        added = by_class(truth, true_labels, iou) + self._iou_rest
        total = self._iou + added
        self._iou_rest.assign(added - (total - self._iou))
        self._iou.assign(total)

    def _read(self, argument, segments):
        """Ids `(B, P)`; labels `(B, 1 + M)`, those of id 0 first; whether any was wrong."""
        owner = type(self).__name__
        if not isinstance(segments, dict) or "labels" not in segments:
            received = sorted(segments) if isinstance(segments, dict) else type(segments).__name__
            raise ValueError(
                f"{owner}: `{argument}` must be a dictionary with `instance_ids` and `labels`. "
                f"Received: {received}."
            )
        ids = read_instance_ids(owner, argument, segments)
        labels = ops.cast(ops.convert_to_tensor(segments["labels"]), "int32")
        if len(labels.shape) != 2:
            raise ValueError(
                f"{owner}: `labels` must have shape (B, M). "
                f"Received: {tuple(labels.shape)} in `{argument}`."
            )
        name = f"labels in `{argument}`"
        labels, wrong_labels = check_range(owner, name, labels, -1, self.num_classes - 1)
        labels = ops.pad(labels, ((0, 0), (1, 0)), constant_values=-1)
        name = f"ids in `{argument}`, which has that many `labels`,"
        ids, wrong_ids = check_range(owner, name, ids, 0, ops.shape(labels)[1] - 1)
        return ids, labels, ops.logical_or(wrong_labels, wrong_ids)

    def result(self):
        """Divides what was added.

        Returns:
            Dictionary of scalars: `pq`, `sq`, `rq`; with `things` also `pq_things`, `pq_stuff` and
            so on; `pq/<class>` and so on with `per_class`.
        """
        iou, hits, segments = (
            ops.convert_to_tensor(v) for v in (self._iou, self._hits, self._segments)
        )
        by_class = {
            "pq": ops.divide_no_nan(2 * iou, segments),
            "sq": ops.divide_no_nan(iou, hits),
            "rq": ops.divide_no_nan(2 * hits, segments),
        }
        groups = {"": np.ones(self.num_classes, bool)}
        if self.things is not None:
            groups["_things"] = np.isin(np.arange(self.num_classes), self.things)
            groups["_stuff"] = ~groups["_things"]
        # Not `segments > 0`: the NaN of a wrong label is to be seen in the result.
        somewhere = segments != 0
        results = {}
        for suffix, group in groups.items():
            averaged = ops.logical_and(somewhere, ops.convert_to_tensor(group))
            number = ops.sum(ops.cast(averaged, "float32"))
            for name, values in by_class.items():
                total = ops.sum(ops.where(averaged, values, 0.0))
                results[name + suffix] = ops.where(number > 0, total / number, float("nan"))
        if self.per_class:
            for name, values in by_class.items():
                values = ops.where(somewhere, values, float("nan"))
                for number in range(self.num_classes):
                    label = number if self.class_names is None else self.class_names[number]
                    results[f"{name}/{label}"] = values[number]
        return {name: ops.cast(value, self.dtype) for name, value in results.items()}

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "things": self.things,
            "background_is_void": self.background_is_void,
            "per_class": self.per_class,
            "class_names": self.class_names,
        }


def _judge(truth, true_labels, crowd, void, found, found_labels):
    """Which segments count, and how well those that have a partner meet it.

    Args:
        truth: `Segments` of N rows in all.
        true_labels: Their classes `(N,)`, -1 for none.
        crowd: Which are a group of things `(N,)`.
        void: Which pixels do not count `(P,)`.
        found: `Segments` of R rows in all.
        found_labels: Their classes `(R,)`, -1 for none.

    Returns:
        `(iou, required, counted)`, float32: the IoU of each true segment and its partner, 0 without
        one `(N,)`; which true segments are to be found `(N,)`; which predicted ones are right or
        wrong `(R,)`.
    """
    own_crowd = ops.logical_and(
        truth.at_pixels(crowd), truth.at_pixels(true_labels) == found.at_pixels(found_labels)
    )
    found_void = found.sum(ops.cast(void, "int32"))
    excused = found.sum(ops.cast(ops.logical_or(void, own_crowd), "int32"))

    partners, shared = elect_partners(truth, found)
    union = truth.areas + ops.take(found.areas - found_void, partners) - shared
    candidate = ops.logical_and(true_labels >= 0, ops.logical_not(crowd))
    hit = ops.logical_and(2 * shared > union, true_labels == ops.take(found_labels, partners))
    hit = ops.logical_and(hit, candidate)
    iou = ops.cast(shared, "float32") / ops.cast(ops.maximum(union, 1), "float32")
    iou = ops.where(hit, iou, 0.0)

    taken = found.sum(ops.cast(hit, "int32"), partners) > 0
    counted = ops.logical_or(taken, 2 * excused <= found.areas)

    required = ops.logical_and(candidate, truth.areas > 0)
    counted = ops.logical_and(counted, ops.logical_and(found_labels >= 0, found.areas > 0))
    return iou, ops.cast(required, "float32"), ops.cast(counted, "float32")
