"""Detections and ground truth of a whole data set, image by image, in original pixels."""

from typing import NamedTuple

import numpy as np

from kvision.boxes.resize import restore_boxes

_TRUTH = ("boxes", "labels", "is_crowd", "difficult", "area")


class ImageRecord(NamedTuple):
    """What one image holds and what was found in it, without padding.

    Attributes:
        boxes: True boxes `(M, 4)` float64, xyxy pixels.
        labels: Their classes `(M,)`.
        is_crowd: Which of them stand for a crowd `(M,)` bool.
        difficult: Which of them are marked difficult `(M,)` bool.
        area: Their areas `(M,)` in pixels.
        detected_boxes: Detections `(N, 4)` float64, xyxy pixels.
        detected_labels: Their classes `(N,)`.
        scores: Their scores `(N,)` float64.
        masks: Of each true object `{"segmentation": COCO's run lengths, "area": pixels}`, where
            masks are collected.
        detected_masks: The same of the detections.
    """

    boxes: np.ndarray
    labels: np.ndarray
    is_crowd: np.ndarray
    difficult: np.ndarray
    area: np.ndarray
    detected_boxes: np.ndarray
    detected_labels: np.ndarray
    scores: np.ndarray
    masks: tuple = ()
    detected_masks: tuple = ()


class CollectedDetections:
    """The part that all detection metrics share: `reset`, and `update` batch by batch.

    An image counts once: one whose `image_id` was seen before, with the same true boxes, is passed
    over, so that repeated or overlapping batches change nothing. Images without `image_id` are
    numbered as they come.
    """

    def __init__(self):
        self._images = {}

    def reset(self):
        """Forgets all images."""
        self._images = {}

    @property
    def images(self):
        """`{image id: ImageRecord}` by rising id: the order of the batches changes nothing."""
        return {image_id: self._images[image_id] for image_id in sorted(self._images)}

    @classmethod
    def from_config(cls, config):
        """Makes the metrics anew.

        Args:
            config: What `get_config` returned.

        Returns:
            Metrics of the same arguments, with nothing collected.
        """
        return cls(**config)

    def update(self, detections, targets, *, image_size=None, resize_policy=None):
        """Adds a batch.

        Args:
            detections: `boxes (B, K, 4)` xyxy pixels, `scores (B, K)`, `labels (B, K)` with -1 as
                padding; arrays or anything NumPy converts.
            targets: `boxes (B, M, 4)`, `labels (B, M)` with -1 as padding and, where known,
                `is_crowd`, `difficult` and `area` (each `(B, M)`), `image_id (B,)` and
                `original_size (B, 2)`. `area` is in pixels of the original image; where it is
                missing or not positive, the box's own area stands in.
            image_size: `(height, width)` of the images given to the model.
            resize_policy: How they were made from the original images. With this, `image_size` and
                `original_size`, all boxes are carried back to original pixels.

        Raises:
            ValueError: An `image_id` was seen before with other true boxes.
        """
        detections = {name: np.asarray(value) for name, value in detections.items()}
        targets = {name: np.asarray(value) for name, value in targets.items()}
        for index in range(len(targets["labels"])):
            one = {name: value[index] for name, value in targets.items()}
            found = {name: value[index] for name, value in detections.items()}
            image_id = one["image_id"].item() if "image_id" in one else len(self._images)
            record = self._record(one, found, image_size, resize_policy)
            seen = self._images.setdefault(image_id, record)
            if any(not np.array_equal(getattr(seen, k), getattr(record, k)) for k in _TRUTH):
                raise ValueError(
                    f"{type(self).__name__}.update: two different images have the `image_id` "
                    f"{image_id}; joined data sets need ids of their own."
                )

    def _record(self, targets, detections, image_size, resize_policy):
        """Makes the record of one image, of the rows of its targets and detections."""
        original_size = targets.get("original_size")

        def original_pixels(boxes):
            boxes = boxes.astype("float64")
            if original_size is None or image_size is None or resize_policy is None:
                return boxes
            return restore_boxes(boxes, original_size, image_size, resize_policy)

        real = targets["labels"] >= 0
        found = detections["labels"] >= 0
        boxes = original_pixels(targets["boxes"][real])
        box_area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        area = targets["area"][real].astype("float64") if "area" in targets else box_area
        none = np.zeros(real.shape, bool)
        return ImageRecord(
            boxes=boxes,
            labels=targets["labels"][real],
            is_crowd=targets.get("is_crowd", none)[real].astype(bool),
            difficult=targets.get("difficult", none)[real].astype(bool),
            area=np.where(area > 0, area, box_area),
            detected_boxes=original_pixels(detections["boxes"][found]),
            detected_labels=detections["labels"][found],
            scores=detections["scores"][found].astype("float64"),
        )
