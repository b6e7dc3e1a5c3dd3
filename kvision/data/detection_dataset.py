"""Annotated images on disk and their batches, as ``tf.data`` or as arrays: what readers return."""

import keras
import numpy as np

from kvision.boxes.resize import check_resize, resize_boxes, resize_images
from kvision.data.annotated_image import check_size
from kvision.data.batches import Batches
from kvision.data.images import read_image

_PADDING = {"labels": -1}


class DetectionDataset:
    """Annotated images of one split, made by `read_voc` or `read_coco`.

    ``len()`` is their number, indexing gives an `AnnotatedImage`.

    Args:
        examples: sequence of `AnnotatedImage`.
        class_names: sequence of str, in the order of the labels.
        report: `ProblemReport`; unreadable images are added to it when a pass meets them.
        apply_exif: bool, whether EXIF orientation turns the pixels.
    """

    def __init__(self, examples, class_names, report, *, apply_exif=True):
        self.examples = tuple(examples)
        self.class_names = tuple(class_names)
        self.report = report
        self.apply_exif = apply_exif

    def __len__(self):
        """Count the images."""
        return len(self.examples)

    def __getitem__(self, index):
        """Give one `AnnotatedImage`."""
        return self.examples[index]

    @property
    def num_classes(self):
        """Number of classes."""
        return len(self.class_names)

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
            image_size: ``(H, W)``.
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
        import tensorflow as tf

        image_size, max_boxes = self._check(image_size, resize_policy, max_boxes)
        first = self._annotations(0, max_boxes)
        like = tf.nest.flatten(first)

        def read(index):
            return *self._image(index), *tf.nest.flatten(self._annotations(index, max_boxes))

        def load(index):
            dtypes = [tf.bool, tf.uint8, *(part.dtype for part in like)]
            readable, image, *parts = tf.numpy_function(read, [index], dtypes)
            parts = [tf.ensure_shape(x, part.shape) for x, part in zip(parts, like, strict=True)]
            image = tf.ensure_shape(image, (None, None, 3))
            return index, readable, image, tf.nest.pack_sequence_as(first, parts)

        def keep(index, readable, *_):
            return tf.ensure_shape(tf.numpy_function(self._keep, [index, readable], tf.bool), [])

        def resize(_index, _readable, image, annotations):
            return _resized(image, annotations, image_size, resize_policy)

        data = tf.data.Dataset.range(len(self))
        if shuffle:
            data = data.shuffle(len(self), seed=seed)
        if self.report.on_error == "skip":
            end = tf.data.Dataset.from_tensors(np.int64(-1))
            data = data.concatenate(end).map(load, num_parallel_calls=tf.data.AUTOTUNE).filter(keep)
        else:
            data = data.map(load, num_parallel_calls=tf.data.AUTOTUNE)
        data = data.map(resize, num_parallel_calls=tf.data.AUTOTUNE)
        return data.batch(batch_size, drop_remainder=drop_remainder).prefetch(tf.data.AUTOTUNE)

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
        image_size, max_boxes = self._check(image_size, resize_policy, max_boxes)

        def load(indices):
            examples = []
            for index in indices:
                readable, image = self._image(index)
                if readable:
                    annotations = self._annotations(index, max_boxes)
                    examples.append(_resized(image, annotations, image_size, resize_policy))
            if not examples:
                return None
            return keras.tree.map_structure(lambda *rows: np.stack(rows), *examples)

        return Batches(
            load,
            len(self),
            batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_remainder=drop_remainder,
            at_end=self.report.warn,
            **kwargs,
        )

    def _check(self, image_size, resize_policy, max_boxes):
        """The two arguments of `dataset` and `batches` in their final form."""
        name = self.report.reader
        image_size = check_resize(name, image_size, resize_policy)
        max_boxes = self.max_boxes if max_boxes is None else max_boxes
        if max_boxes < self.max_boxes:
            raise ValueError(
                f"{name}: `max_boxes`={max_boxes} would cut boxes off: "
                f"an image has {self.max_boxes}."
            )
        if not self.examples:
            raise ValueError(f"{name}: there are no images to read.")
        return image_size, max_boxes

    def _image(self, index):
        """Whether image ``index`` can be used, and its pixels; -1 marks the end of a pass."""
        unusable = np.False_, np.zeros((1, 1, 3), "uint8")
        if index < 0:
            return unusable
        example = self.examples[index]
        try:
            image = read_image(example.path, apply_exif=self.apply_exif)
            check_size(image.shape[:2], example.original_size)
        except ValueError as error:
            reason = str(error)
        else:
            return np.True_, image
        self.report.add(example.path, "image", reason)
        return unusable

    def _annotations(self, index, max_boxes):
        """Annotations of image ``index`` in its own pixels, padded."""
        example = self.examples[index]

        def padded(key, values):
            room = [(0, max_boxes - len(values))] + [(0, 0)] * (values.ndim - 1)
            return np.pad(values, room, constant_values=_PADDING.get(key, 0))

        return {
            "bounding_boxes": {key: padded(key, v) for key, v in example.bounding_boxes.items()},
            "image_id": np.int32(example.image_id),
            "original_size": np.array(example.original_size, "int32"),
        }

    def _keep(self, index, readable):
        """The filter runs in order, so that the end comes to it after every image of the pass."""
        if index < 0:
            self.report.warn()
        return readable


def _resized(image, annotations, image_size, policy):
    """One example of the batch dictionary, of arrays or of TensorFlow's tensors."""
    own = annotations["bounding_boxes"]
    boxes = resize_boxes(own["boxes"], annotations["original_size"], image_size, policy)
    images = resize_images(image, image_size, policy)
    return annotations | {"images": images, "bounding_boxes": own | {"boxes": boxes}}
