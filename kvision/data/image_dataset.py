"""What every data set of image files shares: its length, its two kinds of batches, its damage."""

import keras
import numpy as np

from kvision.boxes.resize import check_resize, resize_images
from kvision.data.annotated_image import check_size
from kvision.data.batches import Batches
from kvision.data.images import read_image


class ImageDataset:
    """Images of one split with what is known of them; base class of the data sets of each task.

    ``len()`` is their number, indexing gives one of the examples.

    A subclass says which files a pass reads (`_files` and `_read`), what is known without reading
    any (`_annotations`), and how an example is resized (`_resize`).

    Args:
        examples: sequence of objects with ``path``, ``image_id`` and ``original_size``.
        class_names: sequence of str, in the order of the labels.
        report: `ProblemReport`; unreadable images are added to it when a pass meets them.
        apply_exif: bool, whether EXIF orientation turns the pixels.
    """

    # Arrays that a pass reads from files: their dtypes and numbers of channels.
    _PIXELS = {"images": ("uint8", 3)}

    def __init__(self, examples, class_names, report, *, apply_exif=True):
        self.examples = tuple(examples)
        self.class_names = tuple(class_names)
        self.report = report
        self.apply_exif = apply_exif

    def __len__(self):
        """Count the images."""
        return len(self.examples)

    def __getitem__(self, index):
        """Give one example."""
        return self.examples[index]

    @property
    def num_classes(self):
        """Number of classes."""
        return len(self.class_names)

    def dataset(
        self,
        batch_size,
        image_size,
        *,
        resize_policy="letterbox",
        shuffle=False,
        seed=None,
        drop_remainder=False,
    ):
        """Batches of resized images with their annotations.

        A file that cannot be decoded, or whose size is not the one stated, is met here, when its
        turn comes: an error with its name, or, under ``on_error="skip"``, its image is left out,
        reported, and counted in one warning at the end of the pass. (A dataset that may skip does
        not know its length beforehand.)

        Args:
            batch_size: int.
            image_size: ``(H, W)``; or None, and images keep their own size, which then has to be
                the same for all of them unless ``batch_size`` is 1.
            resize_policy: ``"letterbox"`` (aspect kept, top-left, padded with the colour
                `kvision.boxes.resize.PADDING_COLOR`) or ``"stretch"``.
            shuffle: bool, whether each pass goes through the images in another order.
            seed: int or None, of the shuffling.
            drop_remainder: bool, whether the last batch is left out when it is smaller.

        Returns:
            ``tf.data.Dataset`` of the batch dictionaries that the class describes.

        Raises:
            ValueError: a bad argument, or no images.
        """
        return self._dataset(
            self._annotations,
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
            self._annotations,
            batch_size,
            image_size,
            resize_policy,
            shuffle=shuffle,
            seed=seed,
            drop_remainder=drop_remainder,
            **kwargs,
        )

    def _dataset(
        self, annotations, batch_size, image_size, policy, *, shuffle, seed, drop_remainder
    ):
        import tensorflow as tf

        image_size = self._check(batch_size, image_size, policy)
        first = annotations(0)
        like = tf.nest.flatten(first)

        def read(index):
            pixels = self._load(index)
            readable = pixels is not None
            if not readable:
                pixels = {
                    key: np.zeros((1, 1, channels), dtype)
                    for key, (dtype, channels) in self._PIXELS.items()
                }
            return np.bool_(readable), *pixels.values(), *tf.nest.flatten(annotations(index))

        def load(index):
            dtypes = [dtype for dtype, _ in self._PIXELS.values()]
            dtypes = [tf.bool, *dtypes, *(part.dtype for part in like)]
            readable, *parts = tf.numpy_function(read, [index], dtypes)
            pixels = {
                key: tf.ensure_shape(parts.pop(0), (None, None, channels))
                for key, (_, channels) in self._PIXELS.items()
            }
            parts = [tf.ensure_shape(x, part.shape) for x, part in zip(parts, like, strict=True)]
            return index, readable, pixels | tf.nest.pack_sequence_as(first, parts)

        def keep(index, readable, _example):
            return tf.ensure_shape(tf.numpy_function(self._keep, [index, readable], tf.bool), [])

        def resize(_index, _readable, example):
            return self._resize(example, image_size, policy) if image_size else example

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

    def _batches(self, annotations, batch_size, image_size, policy, **kwargs):
        image_size = self._check(batch_size, image_size, policy)

        def load(indices):
            examples = []
            for index in indices:
                pixels = self._load(index)
                if pixels is not None:
                    example = pixels | annotations(index)
                    if image_size:
                        example = self._resize(example, image_size, policy)
                    examples.append(example)
            if not examples:
                return None
            return keras.tree.map_structure(lambda *rows: np.stack(rows), *examples)

        return Batches(load, len(self), batch_size, at_end=self.report.warn, **kwargs)

    def _check(self, batch_size, image_size, policy):
        """The size of the batches' images, or None where each keeps its own."""
        name = self.report.reader
        if not self.examples:
            raise ValueError(f"{name}: there are no images to read.")
        if image_size is None:
            sizes = {tuple(example.original_size) for example in self.examples}
            if len(sizes) > 1:
                if batch_size != 1:
                    raise ValueError(
                        f"{name}: with `image_size`=None `batch_size` must be 1, for the images "
                        f"have {len(sizes)} different sizes. Received: `batch_size`={batch_size}."
                    )
                return None
            (image_size,) = sizes
        return check_resize(name, image_size, policy)

    def _files(self, example):
        """The files of an example that a pass reads, by their key of the batch dictionary."""
        return {"images": example.path}

    def _read(self, key, path):
        """The pixels of one of these files, ``(h, w, channels)``; a ValueError says why not."""
        return read_image(path, apply_exif=self.apply_exif)

    def _annotations(self, index):
        """What is known of image ``index`` before its files are read, in its own pixels."""
        example = self.examples[index]
        return {
            "image_id": np.int32(example.image_id),
            "original_size": np.array(example.original_size, "int32"),
        }

    def _resize(self, example, image_size, policy):
        """One example of the batch dictionary, of arrays or of TensorFlow's tensors."""
        return example | {"images": resize_images(example["images"], image_size, policy)}

    def _load(self, index):
        """The pixels of image ``index``, or None if it cannot be used; -1 marks a pass's end."""
        if index < 0:
            return None
        example = self.examples[index]
        pixels = {}
        for key, path in self._files(example).items():
            try:
                pixels[key] = self._read(key, path)
                check_size(pixels[key].shape[:2], example.original_size)
            except ValueError as error:
                reason = str(error)
            else:
                continue
            self.report.add(path, "image", reason)
            return None
        return pixels

    def _keep(self, index, readable):
        """The filter runs in order, so that the end comes to it after every image of the pass."""
        if index < 0:
            self.report.warn()
        return readable
