"""PASCAL VOC's average precision of boxes."""

import keras
import numpy as np

from kvision.metrics.collected_detections import CollectedDetections


@keras.saving.register_keras_serializable("kvision")
class VOCDetectionMetrics(CollectedDetections):
    """Mean average precision of PASCAL VOC (Everingham et al., IJCV 2010).

    Detections of a class are taken by falling score over the whole data set. Each looks at the
    true box of its class that it overlaps most: it is right if the IoU exceeds the threshold and no
    better scored detection has taken that box, else wrong. Boxes marked `difficult` (or `is_crowd`)
    are not required, and a detection of one counts neither way. Classes without required boxes are
    left out of the mean; without any, the mean is NaN.

    The eleven points are the floating-point multiples of 0.1, as in the evaluators whose values are
    published: a recall of exactly 3/10, 6/10 or 7/10 falls short of its point by a rounding error.

    Args:
        iou_thresholds: IoU thresholds, each in 0..1. Each gives a value `VOC_AP<percent>`, such as
            `VOC_AP50`.
        interpolation: `"all_point"`, the area under the monotone precision-recall curve (VOC 2010
            and later), or `"11_point"`, the mean precision at recalls 0, 0.1, ..., 1 (VOC 2007).
        inclusive_corners: Whether the corners are indices of the first and the last pixel, as in
            VOC's own files, so that a box is `x2 - x1 + 1` wide. `False` takes corners as
            coordinates.
        per_class: Whether to add `VOC_AP<percent>/<class>` for every class with required boxes.
        class_names: Names for these keys, in the order of the labels. `None` uses the labels.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        *,
        iou_thresholds=(0.5,),
        interpolation="all_point",
        inclusive_corners=False,
        per_class=False,
        class_names=None,
    ):
        super().__init__()
        if not all(0 <= threshold <= 1 for threshold in iou_thresholds):
            raise ValueError(
                "VOCDetectionMetrics: `iou_thresholds` must be between 0 and 1. "
                f"Received: {iou_thresholds}."
            )
        if interpolation not in ("all_point", "11_point"):
            raise ValueError(
                "VOCDetectionMetrics: `interpolation` must be 'all_point' or '11_point'. "
                f"Received: {interpolation!r}."
            )
        self.iou_thresholds = tuple(float(threshold) for threshold in iou_thresholds)
        self.interpolation = interpolation
        self.inclusive_corners = inclusive_corners
        self.per_class = per_class
        self.class_names = None if class_names is None else list(class_names)

    def result(self):
        """Evaluates what was collected.

        Returns:
            `{"VOC_AP50": float, ...}`, each in 0..1 or NaN.
        """
        labels = sorted({int(v) for image in self.images.values() for v in image.labels})
        matches = {label: self._match(label) for label in labels}
        required = [label for label in labels if matches[label].num_required]
        statistics = {}
        for threshold in self.iou_thresholds:
            name = f"VOC_AP{100 * threshold:g}"
            values = [self._average_precision(matches[label], threshold) for label in required]
            statistics[name] = float(np.mean(values)) if values else float("nan")
            if self.per_class:
                for label, value in zip(required, values, strict=True):
                    class_name = label if self.class_names is None else self.class_names[label]
                    statistics[f"{name}/{class_name}"] = float(value)
        return statistics

    def _match(self, label):
        """Each detection of a class with the true box it overlaps most."""
        scores, overlaps, nearest, ignored = [], [], [], []
        offset = 0
        for image in self.images.values():
            real = image.labels == label
            found = image.detected_labels == label
            iou = _iou(image.detected_boxes[found], image.boxes[real], self.inclusive_corners)
            # An image without true boxes still has detections, all of them wrong.
            iou = np.pad(iou, ((0, 0), (0, int(iou.shape[1] == 0))), constant_values=-1)
            scores.append(image.scores[found])
            overlaps.append(iou.max(axis=1))
            nearest.append(iou.argmax(axis=1) + offset)
            ignored.append((image.difficult | image.is_crowd)[real])
            offset += real.sum()
        order = np.argsort(-np.concatenate(scores), kind="stable")
        return _Matches(
            np.concatenate(overlaps)[order],
            np.concatenate(nearest)[order],
            np.concatenate(ignored),
        )

    def _average_precision(self, matches, threshold):
        right, counted = matches.judge(threshold)
        hits = np.cumsum(right[counted])
        recall = hits / matches.num_required
        precision = hits / np.arange(1, len(hits) + 1)
        best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
        if self.interpolation == "11_point":
            points = np.searchsorted(recall, 0.1 * np.arange(11))
            return np.append(best_from_here, 0.0)[points].mean()
        return np.sum(np.diff(recall, prepend=0.0) * best_from_here)

    def get_config(self):
        """Returns the constructor arguments.

        Returns:
            A dictionary.
        """
        return {
            "iou_thresholds": self.iou_thresholds,
            "interpolation": self.interpolation,
            "inclusive_corners": self.inclusive_corners,
            "per_class": self.per_class,
            "class_names": self.class_names,
        }


class _Matches:
    """Detections of one class by falling score, each with its IoU and index of its true box."""

    def __init__(self, overlaps, nearest, ignored):
        self._overlaps = overlaps
        self._nearest = nearest
        self._ignored = ignored
        self.num_required = int(np.sum(~ignored))

    def judge(self, threshold):
        """Which detections are right, and which count at all."""
        right = self._overlaps > threshold
        counted = np.ones(right.shape, bool)
        counted[right] = ~self._ignored[self._nearest[right]]
        positions = np.flatnonzero(right)
        _, first = np.unique(self._nearest[right], return_index=True)
        right[:] = False
        right[positions[first]] = True
        return right, counted


def _iou(boxes, others, inclusive_corners):
    """IoU of `(N, 4)` and `(M, 4)` boxes -> `(N, M)`; 0 where neither has an area."""
    extra = int(inclusive_corners)

    def area(corners):
        size = np.maximum(corners[..., 2:] - corners[..., :2] + extra, 0)
        return size[..., 0] * size[..., 1]

    boxes, others = boxes[:, None], others[None]
    common = np.concatenate(
        [
            np.maximum(boxes[..., :2], others[..., :2]),
            np.minimum(boxes[..., 2:], others[..., 2:]),
        ],
        axis=-1,
    )
    intersection = area(common)
    union = area(boxes) + area(others) - intersection
    return np.divide(intersection, union, out=np.zeros(union.shape), where=union > 0)
