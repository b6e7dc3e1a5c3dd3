"""Batches of NumPy arrays: what `fit` takes on every Keras backend, TensorFlow or not."""

import copy

import keras
import numpy as np


class Batches(keras.utils.PyDataset):
    """Batch dictionaries of NumPy arrays, as `as_batches` and `DetectionDataset.batches` make them.

    ``len()`` is the number of batches, indexing makes one of them, a loop goes through them all.
    `fit`, `evaluate` and `predict` take it on every backend; with ``fit(shuffle=False)``, for Keras
    would put shuffled batches into another order yet again.

    Args:
        load: function of a sequence of images' indices to their batch dictionary; or to None,
            where all of these images are left out.
        num_images: int.
        batch_size: int.
        shuffle: bool, whether each pass goes through the images in another order.
        seed: int or None, of the shuffling.
        drop_remainder: bool, whether the last batch is left out when it is smaller.
        at_end: function without arguments, called after each pass; or None.
        **kwargs: Arguments of `keras.utils.PyDataset`: ``workers`` above 1 load batches ahead, in
            threads.
    """

    def __init__(
        self,
        load,
        num_images,
        batch_size,
        *,
        shuffle=False,
        seed=None,
        drop_remainder=False,
        at_end=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if batch_size < 1:
            raise ValueError(f"Batches: `batch_size` must be positive. Received: {batch_size}.")
        self.batch_size = batch_size
        self._load = load
        self._num_images = num_images
        self._shuffle = shuffle
        self._seed = np.random.SeedSequence(seed).entropy
        self._drop_remainder = drop_remainder
        self._at_end = at_end
        self._functions = ()
        self._pass = -1
        self._next_pass()

    def __len__(self):
        """Count the batches."""
        whole, rest = divmod(self._num_images, self.batch_size)
        return whole + (rest > 0 and not self._drop_remainder)

    def __getitem__(self, index):
        """Make one batch; a batch that is left without images takes the pass's next that can be."""
        if not 0 <= index < len(self):
            raise IndexError(f"Batches: there are {len(self)} batches. Received: {index}.")
        start, end = index * self.batch_size, (index + 1) * self.batch_size
        batch = self._load(self._order[start:end])
        for following in (*self._order[end:], *self._order[:start]):
            if batch is not None:
                break
            batch = self._load([following])
        if batch is None:
            raise ValueError("Batches: none of the images can be read.")
        for function in self._functions:
            batch = function(batch)
        return batch

    def __iter__(self):
        """Go through the batches of one pass."""
        yield from super().__iter__()
        self.on_epoch_end()

    def on_epoch_end(self):
        """Keras calls this after each pass."""
        if self._at_end is not None:
            self._at_end()
        self._next_pass()

    def map(self, function):
        """Apply a function to every batch, as ``tf.data.Dataset.map`` does.

        Args:
            function: function of a batch, such as `to_fit` or what `augment` makes.

        Returns:
            `Batches`.
        """
        mapped = copy.copy(self)
        mapped._functions = (*self._functions, function)
        return mapped

    def _next_pass(self):
        self._pass += 1
        self._order = np.arange(self._num_images)
        if self._shuffle:
            np.random.default_rng([self._seed, self._pass]).shuffle(self._order)


def as_batches(batch, batch_size, *, shuffle=False, seed=None, drop_remainder=False):
    """View a batch dictionary of arrays as `Batches`, for every backend and without TensorFlow.

    Args:
        batch: dictionary (nested at will) of arrays with one leading axis, as from `digit_scenes`.
        batch_size: int.
        shuffle: bool, whether each pass goes through the images in another order.
        seed: int or None, of the shuffling.
        drop_remainder: bool, whether the last batch is left out when it is smaller.

    Returns:
        `Batches` of dictionaries like ``batch``.
    """

    def rows(indices):
        return keras.tree.map_structure(lambda array: array[indices], batch)

    return Batches(
        rows,
        len(keras.tree.flatten(batch)[0]),
        batch_size,
        shuffle=shuffle,
        seed=seed,
        drop_remainder=drop_remainder,
    )
