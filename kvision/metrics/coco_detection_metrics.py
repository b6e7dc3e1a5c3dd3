"""COCO's average precision and recall of boxes."""

import contextlib
import io

import keras
import numpy as np

from kvision.metrics.collected_detections import CollectedDetections

_STATISTICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
_STATISTICS += ("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")


@keras.saving.register_keras_serializable("kvision")
class COCODetectionMetrics(CollectedDetections):
    """The twelve box statistics of COCO (Lin et al., "Microsoft COCO", ECCV 2014).

    `AP` is the mean over classes and over the IoU thresholds 0.50, 0.55, ..., 0.95 of the precision
    at 101 recalls; `AP50` and `AP75` are at one threshold; `_small`, `_medium` and `_large` count
    objects of areas up to 32², up to 96² and beyond, in pixels of the original images; `AR_n` is
    the mean recall with at most n detections an image. Crowd boxes take up any number of detections
    without counting either way. A value that is not defined, because no such object exists, is NaN
    (COCO's own tool writes -1).

    The evaluator is the package `faster-coco-eval`.

    Args:
        per_class: Whether to add `AP/<class>` for every class that has objects.
        class_names: Names for these keys, in the order of the labels. `None` uses the labels.
    """

    def __init__(self, *, per_class=False, class_names=None):
        super().__init__()
        self.per_class = per_class
        self.class_names = None if class_names is None else list(class_names)

    def reset(self):
        """Forgets all images.

        Raises:
            ImportError: If the evaluator is not installed.
        """
        super().reset()
        _evaluator()

    def result(self):
        """Evaluates what was collected.

        Returns:
            `{"AP": float, "AP50": float, ...}`, each in 0..1 or NaN.

        Raises:
            ImportError: If the evaluator is not installed.
        """
        return self._statistics("bbox")

    def _statistics(self, iou_type):
        """The statistics of boxes, `"bbox"`, or of masks, `"segm"`."""
        coco, evaluate = _evaluator()
        with contextlib.redirect_stdout(io.StringIO()):  # the evaluator prints a table
            evaluation = evaluate(*self._as_coco(coco, with_masks=iou_type == "segm"), iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        statistics = dict(zip(_STATISTICS, evaluation.stats, strict=False))
        if self.per_class:
            # precision: (IoU threshold, recall, class, area range, detection limit)
            precision = evaluation.eval["precision"][:, :, :, 0, -1]
            for index, label in enumerate(evaluation.params.catIds):
                values = precision[:, :, index]
                if (values > -1).any():
                    statistics[f"AP/{self._class_name(label)}"] = values[values > -1].mean()
        return {name: float(v) if v > -1 else float("nan") for name, v in statistics.items()}

    def _class_name(self, label):
        return str(label) if self.class_names is None else self.class_names[label]

    def _as_coco(self, coco, with_masks):
        """Ground truth and detections in the evaluator's own structure."""
        truth, found = [], []
        for image_id, image in enumerate(self.images.values()):
            masks = image.masks if with_masks else [{}] * len(image.labels)
            for box, label, area, crowd, mask in zip(
                _xywh(image.boxes),
                image.labels,
                image.area,
                image.is_crowd,
                masks,
                strict=True,
            ):
                entry = _annotation(len(truth), image_id, label, box, float(area))
                truth.append({**entry, "iscrowd": int(crowd), **mask})
            masks = image.detected_masks if with_masks else [{}] * len(image.scores)
            for box, label, score, mask in zip(
                _xywh(image.detected_boxes),
                image.detected_labels,
                image.scores,
                masks,
                strict=True,
            ):
                entry = _annotation(len(found), image_id, label, box, box[2] * box[3])
                found.append({**entry, "iscrowd": 0, "score": float(score), **mask})
        labels = sorted({entry["category_id"] for entry in truth + found})
        size = {"height": 0, "width": 0}  # the evaluator asks for it, but masks have their own
        shared = {
            "images": [{"id": image_id, **size} for image_id in range(len(self.images))],
            "categories": [{"id": label, "name": str(label)} for label in labels],
        }
        return [_indexed(coco, {**shared, "annotations": objects}) for objects in (truth, found)]

    def get_config(self):
        """Returns the constructor arguments.

        Returns:
            A dictionary.
        """
        return {"per_class": self.per_class, "class_names": self.class_names}


def _evaluator():
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError(
            "COCODetectionMetrics: the package `faster-coco-eval` is needed: "
            "`pip install faster-coco-eval`; or pass another `evaluator` to `compile`, "
            "`()` for none."
        ) from error
    return COCO, COCOeval_faster


def _xywh(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()


def _annotation(index, image_id, label, box, area):
    # The evaluator takes an id of 0 for "not matched": its ids begin at 1.
    return {
        "id": index + 1,
        "image_id": image_id,
        "category_id": int(label),
        "bbox": box,
        "area": area,
    }


def _indexed(coco, dataset):
    """An evaluator's data set, made from memory."""
    indexed = coco()
    indexed.dataset = dataset
    indexed.createIndex()
    return indexed
