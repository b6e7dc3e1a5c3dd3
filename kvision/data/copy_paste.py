"""Objects of one image of a batch, pasted onto another."""

import keras

from kvision.data.augment_geometry import boxes_around_ids


@keras.saving.register_keras_serializable("kvision")
class RandomCopyPaste(keras.layers.CutMix):
    """Pastes objects of another image of the batch onto each image, for `augment`.

    Simple copy-paste, by G. Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method
    for Instance Segmentation", 2021. Both images are augmented by the layers before this one (there
    by flips and `RandomScaledCrop` with a scale of 0.1 to 2); then a random part of the objects of
    one is pasted onto the other where they stand, pixel by pixel and without blending. Of what they
    cover, the covered part is cut off: masks lose it, boxes shrink to what is left, and objects
    with nothing left become padding.

    A pasted object takes a row of padding of ``bounding_boxes``; those for which there is none are
    not pasted, so that the batch keeps its shape: give ``max_boxes`` some room. Crowds are not
    pasted. ``segmentation_masks`` and ``pixel_weights`` are pasted along.

    Args:
        probability: float in 0..1, the part of the images onto which something is pasted.
        object_probability: float in 0..1, with which each object of the other image is.
        seed: int or None.
        **kwargs: Arguments of `keras.layers.CutMix`, which takes pairs of images in the same way.

    Raises:
        ValueError: a probability outside of 0..1.
    """

    def __init__(self, probability=1.0, object_probability=0.5, seed=None, **kwargs):
        super().__init__(seed=seed, **kwargs)
        self.probability = probability
        self.object_probability = object_probability
        for name in ("probability", "object_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"RandomCopyPaste: `{name}` must be in 0..1. Received: {getattr(self, name)}."
                )

    def get_random_transformation(self, data, training=True, seed=None):
        """Draw whose objects come onto each image, and which of them.

        Args:
            data: dictionary with ``images (B, H, W, C)`` and ``bounding_boxes``, whose ``labels``
                are ``(B, M)``.
            training: bool; False pastes nothing.
            seed: `keras.random.SeedGenerator` or None.

        Returns:
            Dictionary of ``partner`` int32 ``(B,)``, the place of the other image in the batch, and
            ``chosen`` bool ``(B, M)``, which of its rows are to be pasted if they are objects.
        """
        xp, random = self.backend.numpy, self.backend.random
        seed = seed or self._get_seed_generator(self.backend._backend)
        batch_size, count = self.backend.shape(data["bounding_boxes"]["labels"])
        others = self.backend.cast(batch_size, "float32") - 1
        step = 1 + self.backend.cast(random.uniform((), seed=seed) * others, "int32")
        own = xp.arange(batch_size, dtype="int32")
        partner = (own + step) % batch_size
        pasted = random.uniform((batch_size, 1), seed=seed) < self.probability * training
        chosen = random.uniform((batch_size, count), seed=seed) < self.object_probability
        alone = xp.expand_dims(partner == own, 1)
        return {
            "partner": partner,
            "chosen": xp.logical_and(xp.logical_and(pasted, chosen), xp.logical_not(alone)),
        }

    def paste(self, images, masks, ids, boxes, real, sampled):
        """Paste objects.

        Args:
            images: ``(B, H, W, C)``.
            masks: ``(B, H, W, K)``, other pixels that go along.
            ids: int32 ``(B, H, W)`` of 0..M, which row each pixel belongs to.
            boxes: dictionary of ``boxes (B, M, 4)``, ``labels (B, M)`` and others ``(B, M)``.
            real: bool ``(B, M)``, which rows are objects.
            sampled: what `get_random_transformation` gave.

        Returns:
            ``images``, ``masks``, ``ids``, ``boxes`` and ``real`` as they are then.
        """
        xp, cast = self.backend.numpy, self.backend.cast
        count = real.shape[1]

        def of_partner(values):
            return xp.take(values, sampled["partner"], axis=0)

        around, visible = boxes_around_ids(ids, count, self.backend)
        chosen = xp.logical_and(sampled["chosen"], of_partner(xp.logical_and(real, visible)))
        if "is_crowd" in boxes:
            chosen = xp.logical_and(chosen, xp.logical_not(of_partner(boxes["is_crowd"])))

        # The k-th object that comes goes into the k-th free row.
        free = xp.logical_not(real)
        come, room = (xp.sum(cast(x, "int32"), 1, keepdims=True) for x in (chosen, free))
        rank_of_object = xp.cumsum(cast(chosen, "int32"), 1) - 1
        rank_of_row = xp.cumsum(cast(free, "int32"), 1) - 1
        chosen = xp.logical_and(chosen, rank_of_object < room)
        filled = xp.logical_and(free, rank_of_row < come)
        objects, rows = self._first(chosen), self._first(free)
        row_of_object = xp.take_along_axis(rows, xp.maximum(rank_of_object, 0), 1)
        object_of_row = xp.take_along_axis(objects, xp.maximum(rank_of_row, 0), 1)

        new_ids = xp.where(chosen, row_of_object + 1, 0)
        arriving = look_up(new_ids, of_partner(ids), self.backend)
        covered = arriving > 0
        images = xp.where(covered[..., None], of_partner(images), images)
        masks = xp.where(covered[..., None], of_partner(masks), masks)
        ids = xp.where(covered, arriving, ids)

        pasted = {}
        for key, values in boxes.items():
            index, row = object_of_row, filled
            if key == "boxes":
                index, row = xp.repeat(index[..., None], 4, -1), row[..., None]
            pasted[key] = xp.where(row, xp.take_along_axis(of_partner(values), index, 1), values)
        left_around, left = boxes_around_ids(ids, count, self.backend)
        cut = xp.logical_and(real, xp.any(left_around != around, -1))
        pasted["boxes"] = xp.where(cut[..., None], left_around, pasted["boxes"])
        gone = xp.logical_and(cut, xp.logical_not(left))
        real = xp.logical_and(xp.logical_or(real, filled), xp.logical_not(gone))
        return images, masks, ids, pasted, real

    def transform_images(self, images, transformation, training=True):
        """Refuse: images alone do not tell objects.

        Args:
            images: ``(B, H, W, C)``.
            transformation: what `get_random_transformation` gave.
            training: bool.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("RandomCopyPaste: objects are pasted by `kvision.data.augment`.")

    def get_config(self):
        """Give the constructor's arguments."""
        return super().get_config() | {
            "probability": self.probability,
            "object_probability": self.object_probability,
        }

    def _first(self, marked):
        """The places of the marked ones, in order, before all others: int32 ``(B, M)``."""
        xp = self.backend.numpy
        count = marked.shape[1]
        places = xp.arange(count, dtype="int32")
        return xp.sort(xp.where(marked, places, places + count), 1) % count


def look_up(values, ids, backend):
    """Take each pixel's value from the table of its image.

    Args:
        values: int32 ``(B, M)``, of the ids 1..M; the id 0 has the value 0.
        ids: int32 ``(B, H, W)``.
        backend: Keras' backend that computes.

    Returns:
        int32 ``(B, H, W)``.
    """
    xp = backend.numpy
    table = xp.concatenate([xp.zeros_like(values[:, :1]), values], 1)
    shape = backend.shape(ids)
    return xp.reshape(xp.take_along_axis(table, xp.reshape(ids, (shape[0], -1)), 1), shape)
