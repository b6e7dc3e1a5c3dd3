"""Annotated images on disk and their batches, as ``tf.data`` or as arrays: what readers return."""

import numpy as np

from kvision.boxes.resize import resize_boxes
from kvision.data.image_dataset import ImageDataset

_PADDING = {"labels": -1}


class DetectionDataset(ImageDataset):
    """Annotated images of one split, made by `read_voc` or `read_coco`.

    ``len()`` is their number, indexing gives an `AnnotatedImage`.

    Args:
        examples: sequence of `AnnotatedImage`.
        class_names: sequence of str, in the order of the labels.
        report: `ProblemReport`; unreadable images are added to it when a pass meets them.
        apply_exif: bool, whether EXIF orientation turns the pixels.
    """

    @property
    def max_boxes(self):
        """The most boxes of an image, at least 1."""
        return max([1, *(len(example.bounding_boxes["labels"]) for example in self.examples)])

    def dataset(
        self,
        batch_size,
        image_size,
        *,
        resize_policy="letterbox",
        max_boxes=None,
        shuffle=False,
        seed=None,
        drop_remainder=False,
    ):
        """Batches of resized images with their boxes.

        An image that cannot be decoded, or whose size is not the annotation's, is met here, when
        its turn comes: an error with its name, or, under ``on_error="skip"``, left out, reported,
        and counted in one warning at the end of the pass. (A dataset that may skip does not know
        its length beforehand.)

        Args:
            batch_size: int.
            image_size: ``(H, W)``; or None, and images keep their own size, which then has to be
                the same for all of them unless ``batch_size`` is 1.
            resize_policy: ``"letterbox"`` (aspect kept, top-left, padded with the colour
                `kvision.boxes.resize.PADDING_COLOR`) or ``"stretch"``.
            max_boxes: int or None, the M of the batches; at least the property of that name,
                which is the default.
            shuffle: bool, whether each pass goes through the images in another order.
            seed: int or None, of the shuffling.
            drop_remainder: bool, whether the last batch is left out when it is smaller.

        Returns:
            ``tf.data.Dataset`` of dictionaries: ``images`` uint8 ``(B, H, W, 3)``;
            ``bounding_boxes`` with ``boxes`` float32 ``(B, M, 4)``, xyxy in pixels of the resized
            image, and ``labels`` int32 ``(B, M)``, padded with 0 and -1, and what else the format
            has, padded with 0 (``area`` stays in original pixels); ``image_id`` int32 ``(B,)``;
            ``original_size`` int32 ``(B, 2)``, height and width.

        Raises:
            ValueError: a bad argument, or no images.
        """
        return self._dataset(
            self._padded(max_boxes, image_size, resize_policy),
            batch_size,
            image_size,
            resize_policy,
            shuffle=shuffle,
            seed=seed,
            drop_remainder=drop_remainder,
        )

    def batches(
        self,
        batch_size,
        image_size,
        *,
        resize_policy="letterbox",
        max_boxes=None,
        shuffle=False,
        seed=None,
        drop_remainder=False,
        **kwargs,
    ):
        """The same batches as NumPy arrays, for every Keras backend and without TensorFlow.

        Under ``on_error="skip"`` a batch has fewer images than the others if some of its own were
        left out, and the number of batches is what it would be without damage.

        Args:
            batch_size: See `dataset`.
            image_size: See `dataset`.
            resize_policy: See `dataset`.
            max_boxes: See `dataset`.
            shuffle: See `dataset`.
            seed: See `dataset`.
            drop_remainder: See `dataset`.
            **kwargs: Arguments of `keras.utils.PyDataset`, such as ``workers=4``: threads that load
                ahead.

        Returns:
            `Batches` of the dictionaries of `dataset`.

        Raises:
            ValueError: a bad argument, or no images.
        """
        return self._batches(
            self._padded(max_boxes, image_size, resize_policy),
            batch_size,
            image_size,
            resize_policy,
            shuffle=shuffle,
            seed=seed,
            drop_remainder=drop_remainder,
            **kwargs,
        )

    def _padded(self, max_boxes, image_size, policy):
        """`_annotations` with the boxes padded to ``max_boxes``, or to the most of an image."""
        max_boxes = self.max_boxes if max_boxes is None else max_boxes
        if max_boxes < self.max_boxes:
            raise ValueError(
                f"{self.report.reader}: `max_boxes`={max_boxes} would cut boxes off: "
                f"an image has {self.max_boxes}."
            )

        def padded(key, values):
            room = [(0, max_boxes - len(values))] + [(0, 0)] * (values.ndim - 1)
            return np.pad(values, room, constant_values=_PADDING.get(key, 0))

        def annotations(index):
            boxes = self.examples[index].bounding_boxes
            boxes = {key: padded(key, values) for key, values in boxes.items()}
            return {"bounding_boxes": boxes} | self._annotations(index)

        return annotations

    def _resize(self, example, image_size, policy):
        own = example["bounding_boxes"]
        boxes = resize_boxes(own["boxes"], example["original_size"], image_size, policy)
        return super()._resize(example, image_size, policy) | {
            "bounding_boxes": own | {"boxes": boxes}
        }
