"""COCO's average precision and recall of masks, beside those of boxes."""

import keras
import numpy as np

from kvision.boxes.resize import resized_size
from kvision.metrics.coco_detection_metrics import COCODetectionMetrics
from kvision.metrics.object_masks import read_runs


@keras.saving.register_keras_serializable("kvision")
class COCOMaskMetrics(COCODetectionMetrics):
    """The twelve statistics of COCO of the masks, and those of the boxes, in one pass.

    The boxes' have the names of `COCODetectionMetrics`, the masks' the same after `mask_`:
    `mask_AP`, `mask_AP50`, ... Overlap is that of the masks then, and the size of an object its
    annotated `area`, or where that is missing the number of its pixels.

    What `update` is given has the masks beside the boxes, of targets and detections in one of these
    forms each:

    - `masks` `(B, K, m, m)`: of detections, the probabilities of the parts of each box, as a mask
      head gives them. One detection after the other is pasted by `kvision.ops.paste_masks`, at a
      threshold of 0.5, and becomes run lengths.
    - `mask_runs` `(B, M, R)`: run lengths of COCO, uncompressed, padded with zeros at the end.
    - `instance_ids` `(B, H, W)` or `(B, H, W, 1)`: `i + 1` at the pixels of the object of row `i`.

    They are compared at the pixels of the images given to the model, where the true masks are
    known, so that `update` needs `image_size`. Areas are those of the original images, as far as
    `original_size` and `resize_policy` tell; boxes are carried back to original pixels.

    The evaluator is the package `faster-coco-eval`, whose compressed run lengths are all that is
    kept of the masks.

    Args:
        per_class: Whether to add `AP/<class>` and `mask_AP/<class>` for every class that has
            objects.
        class_names: Names for these keys, in the order of the labels. `None` uses the labels.
    """

    def result(self):
        """Evaluates what was collected.

        Returns:
            `{"AP": float, ..., "mask_AP": float, ...}`, each in 0..1 or NaN.

        Raises:
            ImportError: If the evaluator is not installed.
        """
        masks = {f"mask_{name}": value for name, value in self._statistics("segm").items()}
        return {**super().result(), **masks}

    def _record(self, targets, detections, image_size, resize_policy):
        record = super()._record(targets, detections, image_size, resize_policy)
        if image_size is None:
            raise ValueError(
                "COCOMaskMetrics.update: `image_size` must be the (height, width) of the masks. "
                "Received: None."
            )
        size = tuple(int(side) for side in image_size)
        scale, without_padding = 1.0, size
        if "original_size" in targets and resize_policy is not None:
            original_size = targets["original_size"]
            without_padding = resized_size(original_size, size, resize_policy)
            scale = np.prod(original_size / without_padding)
        masks, found = (
            _masks(name, objects, size, without_padding)
            for name, objects in (("targets", targets), ("detections", detections))
        )
        for mask in masks + found:
            mask["area"] *= scale
        if "area" in targets:
            annotated = targets["area"][targets["labels"] >= 0].tolist()
            for mask, area in zip(masks, annotated, strict=True):
                mask["area"] = area if area > 0 else mask["area"]
        return record._replace(masks=masks, detected_masks=found)


def _masks(argument, objects, size, without_padding):
    """Masks of the rows that are objects, whatever their form, as the evaluator takes them."""
    from faster_coco_eval.core import mask

    runs = read_runs("COCOMaskMetrics", argument, objects, size)
    nothing = [size[0] * size[1]]
    rles = [
        {"size": list(size), "counts": np.trim_zeros(row, "b").tolist() or nothing}
        for row, label in zip(runs, objects["labels"], strict=True)
        if label >= 0
    ]
    rles = mask.frPyObjects(rles, *size) if rles else []
    if tuple(without_padding) != size:
        height, width = (float(side) for side in without_padding)
        frame = mask.frPyObjects(np.array([[0.0, 0.0, width, height]]), *size)
        rles = [mask.merge([rle, *frame], intersect=1) for rle in rles]
    return [{"segmentation": rle, "area": float(mask.area(rle))} for rle in rles]
