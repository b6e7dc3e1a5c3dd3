"""Average precision of instances as Cityscapes measures it."""

from typing import NamedTuple

import keras
import numpy as np

from kvision.boxes.resize import resized_size
from kvision.metrics.object_masks import read_runs

_THRESHOLDS = np.arange(0.5, 1.0, 0.05)


class _Image(NamedTuple):
    """The objects of an image, and how many pixels each detection shares with each of them."""

    labels: np.ndarray
    areas: np.ndarray
    is_group: np.ndarray
    found_labels: np.ndarray
    found_areas: np.ndarray
    scores: np.ndarray
    shared: np.ndarray  # (detections, objects)
    void: np.ndarray  # (detections,)


@keras.saving.register_keras_serializable("kvision")
class CityscapesInstanceMetrics:
    """AP of instances of Cityscapes (Cordts et al., CVPR 2016), by the rules of its own script.

    At each of the IoUs 0.50, 0.55, ..., 0.95, of each class: every detection whose IoU with an
    object exceeds it is right, but of several of one object all except the best scored are wrong.
    So is a detection without such an object, unless more than that share of its pixels is void,
    group, or objects of the class that are smaller than `min_area`; these are not required. AP is
    the precision, summed over the steps of the recall, each step half the way to either side. It is
    averaged over the IoUs, and over the classes that have objects.

    It is an evaluator of `compile`. Targets and detections have `labels`, detections `scores`, and
    both have masks in one of the forms of `COCOMaskMetrics`; boxes are needed for `masks` alone.
    Targets that are `is_crowd` are groups. Of a `semantic` map among the targets the pixels of
    `ignore_class` are void.

    Args:
        min_area: Least area of an object that is required, in pixels of the original images.
        ignore_class: Value of void in `semantic`.
        per_class: Whether to add `instance_AP/<class>` for every class that has objects.
        class_names: Names for these keys, in the order of the labels. `None` uses the labels.
    """

    def __init__(self, *, min_area=100, ignore_class=255, per_class=False, class_names=None):
        self.min_area = min_area
        self.ignore_class = ignore_class
        self.per_class = per_class
        self.class_names = None if class_names is None else list(class_names)
        self._images = {}

    def reset(self):
        """Forgets all images."""
        self._images = {}

    def update(self, detections, targets, *, image_size, resize_policy=None):
        """Adds a batch; an image whose `image_id` was seen before is passed over.

        Args:
            detections: `labels (B, K)` with -1 as padding, `scores (B, K)` and masks.
            targets: `labels (B, M)` and masks, and where known `is_crowd (B, M)`, `semantic
                (B, H, W)` or `(B, H, W, 1)`, `image_id (B,)` and `original_size (B, 2)`.
            image_size: `(height, width)` of the images given to the model.
            resize_policy: How they were made from the original images.
        """
        size = tuple(int(side) for side in image_size)
        for index in range(len(targets["labels"])):
            truth = {name: np.asarray(value)[index] for name, value in targets.items()}
            found = {name: np.asarray(value)[index] for name, value in detections.items()}
            image_id = truth["image_id"].item() if "image_id" in truth else len(self._images)
            scale = 1.0
            if "original_size" in truth and resize_policy is not None:
                original = truth["original_size"]
                scale = np.prod(original / resized_size(original, size, resize_policy))
            if image_id not in self._images:
                self._images[image_id] = self._image(truth, found, size, scale)

    def _image(self, truth, found, size, scale):
        owner = type(self).__name__
        num_pixels = size[0] * size[1]
        real, detected = truth["labels"] >= 0, found["labels"] >= 0
        void = np.zeros(num_pixels, bool)
        if "semantic" in truth:
            void = truth["semantic"].reshape(size).T.ravel() == self.ignore_class
        stretches = _stretches(read_runs(owner, "targets", truth, size), real)
        found_stretches = _stretches(read_runs(owner, "detections", found, size), detected)
        shared = np.zeros((len(found_stretches), len(stretches)))
        in_void = np.zeros(len(found_stretches))
        for row, own in enumerate(found_stretches):
            mask = np.zeros(num_pixels, bool)  # one at a time
            for start, end in own:
                mask[start:end] = True
            before = np.append(0, np.cumsum(mask))
            in_void[row] = np.count_nonzero(mask & void)
            shared[row] = [np.sum(before[s[:, 1]] - before[s[:, 0]]) for s in stretches]
        areas = np.array([np.sum(s[:, 1] - s[:, 0]) for s in stretches])
        found_areas = np.array([np.sum(s[:, 1] - s[:, 0]) for s in found_stretches])
        kept = found_areas > 0
        return _Image(
            labels=truth["labels"][real],
            areas=areas * scale,
            is_group=truth.get("is_crowd", np.zeros(real.shape, bool))[real].astype(bool),
            found_labels=found["labels"][detected][kept],
            found_areas=found_areas[kept] * scale,
            scores=found["scores"][detected][kept].astype("float64"),
            shared=shared[kept] * scale,
            void=in_void[kept] * scale,
        )

    def result(self):
        """Evaluates what was collected.

        Returns:
            `{"instance_AP": float, "instance_AP50": float, ...}`, in 0..1, or NaN without objects.
        """
        labels = sorted({int(label) for image in self._images.values() for label in image.labels})
        values = np.array([[self._average_precision(c, t) for t in _THRESHOLDS] for c in labels])
        required = ~np.isnan(values).all(axis=1) if labels else np.zeros(0, bool)
        nan = float("nan")
        results = {
            "instance_AP": float(values[required].mean()) if required.any() else nan,
            "instance_AP50": float(values[required, 0].mean()) if required.any() else nan,
        }
        if self.per_class:
            for label, value in zip(labels, values, strict=True):
                if not np.isnan(value).all():
                    name = label if self.class_names is None else self.class_names[label]
                    results[f"instance_AP/{name}"] = float(value.mean())
        return results

    def _average_precision(self, label, threshold):
        right, scores, num_required, num_found = [], [], 0, 0
        for image_id in sorted(self._images):
            image = self._images[image_id]
            own, found = image.labels == label, image.found_labels == label
            small, group = image.areas[own] < self.min_area, image.is_group[own]
            shared = image.shared[found][:, own]
            union = image.areas[own] + image.found_areas[found][:, None] - shared
            hits = shared > threshold * union
            required = ~small & ~group
            num_required += required.sum()
            num_found += found.sum()
            for column in np.flatnonzero(required):
                of_object = np.sort(image.scores[found][hits[:, column]])[::-1]
                right.extend(index == 0 for index in range(len(of_object)))
                scores.extend(of_object)
            # As in the script, a small group counts twice.
            excused = image.void[found] + shared @ (small.astype(int) + group)
            wrong = ~hits.any(axis=1) & (excused <= threshold * image.found_areas[found])
            right.extend([False] * wrong.sum())
            scores.extend(image.scores[found][wrong])
        if not num_required:
            return float("nan")
        return _area_under_curve(np.array(right, bool), np.array(scores), num_required)

    def get_config(self):
        """Returns the constructor arguments.

        Returns:
            A dictionary.
        """
        return {
            "min_area": self.min_area,
            "ignore_class": self.ignore_class,
            "per_class": self.per_class,
            "class_names": self.class_names,
        }

    @classmethod
    def from_config(cls, config):
        """Makes the metrics anew.

        Args:
            config: What `get_config` returned.

        Returns:
            Metrics of the same arguments, with nothing collected.
        """
        return cls(**config)


def _stretches(runs, kept):
    """First pixels, and those after the last, `(n, 2)` of each mask that is kept."""
    ends = [np.append(0, np.cumsum(row)) for row, keep in zip(runs, kept, strict=True) if keep]
    return [np.stack([end[1:-1:2], end[2::2]], axis=1) for end in ends]


def _area_under_curve(right, scores, num_required):
    """The precision at each score, times half the distance of the recalls beside it."""
    if not len(scores):
        return 0.0
    order = np.argsort(scores, kind="stable")
    _, first = np.unique(scores[order], return_index=True)
    worse = np.append(0, np.cumsum(right[order]))[first]  # right ones below each score
    hits = right.sum() - worse
    precision = np.append(hits / (len(scores) - first), 1.0)
    recall = np.append(hits / num_required, 0.0)
    padded = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ (padded[:-2] - padded[2:]) / 2)
