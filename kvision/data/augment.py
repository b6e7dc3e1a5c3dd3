"""Keras' augmentation layers, with every target carried through the transformation of its image."""

import keras
import numpy as np

from kvision.data.augment_geometry import (
    GEOMETRIC_LAYERS,
    boxes_around_ids,
    output_size,
    transform_boxes,
)
from kvision.data.copy_paste import RandomCopyPaste, look_up
from kvision.data.elastic import deform, draw_displacements

_PIXEL_LAYERS = (
    keras.layers.AutoContrast,
    keras.layers.Equalization,
    keras.layers.RandomBrightness,
    keras.layers.RandomColorDegeneration,
    keras.layers.RandomColorJitter,
    keras.layers.RandomContrast,
    keras.layers.RandomErasing,
    keras.layers.RandomGaussianBlur,
    keras.layers.RandomGrayscale,
    keras.layers.RandomHue,
    keras.layers.RandomInvert,
    keras.layers.RandomPosterization,
    keras.layers.RandomSaturation,
    keras.layers.RandomSharpness,
    keras.layers.Solarization,
)
_MOVING_LAYERS = (*GEOMETRIC_LAYERS, keras.layers.RandomElasticTransform, RandomCopyPaste)
# Layers after which the upright box around the moved box is larger than need be, or unknown.
_TURNING_LAYERS = (keras.layers.RandomRotation, keras.layers.RandomElasticTransform)
_MASKS = ("segmentation_masks", "instance_ids", "pixel_weights")
_CARRIED = {"images", "bounding_boxes", *_MASKS}
_UNTOUCHED = {"image_id", "original_size", "labels"}


def augment(layers, *, ignore_label=255, min_visibility=0.0):
    """Make a function that augments a batch dictionary with Keras' own layers.

    Boxes and masks go through the transformation that was sampled for their image. Layers that
    change pixels only leave the targets alone: ``AutoContrast``, ``Equalization``,
    ``RandomBrightness``, ``RandomColorDegeneration``, ``RandomColorJitter``, ``RandomContrast``,
    ``RandomErasing``, ``RandomGaussianBlur``, ``RandomGrayscale``, ``RandomHue``, ``RandomInvert``,
    ``RandomPosterization``, ``RandomSaturation``, ``RandomSharpness``, ``Solarization``. Layers
    that move pixels: ``CenterCrop``, ``RandomCrop`` (one place for the whole batch),
    ``RandomElasticTransform`` (with boxes only where there are ``instance_ids``), ``RandomFlip``,
    ``RandomRotation``, ``RandomTranslation``, ``RandomZoom``, and `RandomScaledCrop`, by which
    segmenters are trained on windows of images of many scales. `RandomCopyPaste` pastes objects.
    Any other layer is refused by name: ``CutMix`` and ``MixUp`` would mix targets.

    Masks take the nearest pixel. ``pixel_weights`` do so as well, and are 0 where an image was
    filled. An elastic deformation is white noise blurred by a Gaussian, see
    `kvision.data.elastic`; U-Net's, of O. Ronneberger et al., 2015, is smoother: displacements of
    10 pixels' standard deviation on a grid of 3 x 3, with bicubic interpolation between them.

    A moved box is the smallest upright box around the four moved corners, clipped to the image;
    after ``RandomRotation`` and ``RandomElasticTransform`` it is the box around the object's pixels
    in ``instance_ids``, where there are any. A box that has left the image, or whose object has no
    pixels left, becomes padding in its place (label -1, everything else 0), and its pixels in
    ``instance_ids`` become 0: value i + 1 goes on meaning box i. ``mask_runs`` have to become such
    a label map first, by `paint_instances`.

    The function takes dictionaries of NumPy arrays (and gives such) as well as tensors, and works
    in ``Dataset.map`` under any Keras backend. Copies of the layers are used, in float32 under
    every dtype policy; their seeds are the layers' own. Nothing but the size of the images, where
    they are cropped, differs in shape or dtype between what comes in and goes out. ``area`` and
    ``original_size`` go on describing the original.

    Args:
        layers: list of Keras augmentation layers, in the order in which they act.
        ignore_label: int, what ``segmentation_masks`` hold where an image was filled.
        min_visibility: float in [0, 1): a moved box becomes padding when no more than this part of
            its area lies within the image.

    Returns:
        Function of a batch dictionary with ``images (B, H, W, 3)`` and, where known,
        ``bounding_boxes``, ``segmentation_masks``, ``instance_ids`` and ``pixel_weights``, the
        latter three ``(B, H, W, 1)`` or ``(B, H, W)``.

    Raises:
        ValueError: a layer that cannot be carried through, or a bad argument; and when the
            function is called: a batch with a target that it does not know, a crop that is not
            smaller than the images, boxes that would have to follow an elastic deformation without
            instance ids, objects that would have to be pasted without them, or, with boxes or
            instance ids, a ``fill_mode`` other than ``"constant"``, which would paint objects that
            no box marks.
    """
    for layer in layers:
        if not isinstance(layer, _PIXEL_LAYERS + _MOVING_LAYERS):
            known = sorted(kind.__name__ for kind in _PIXEL_LAYERS + _MOVING_LAYERS)
            raise ValueError(
                f"augment: boxes and masks cannot follow {type(layer).__name__}. "
                f"The layers they can follow are: {', '.join(known)}."
            )
        if layer.data_format != "channels_last":
            raise ValueError(f"augment: {type(layer).__name__} must be channels last.")
    if not 0 <= min_visibility < 1:
        raise ValueError(
            f"augment: `min_visibility` must be in [0, 1). Received: {min_visibility}."
        )
    return _Augmentation(layers, ignore_label, min_visibility)


class _Augmentation:
    """The function that `augment` makes."""

    def __init__(self, layers, ignore_label, min_visibility):
        # Masks are filled with 0, whatever the images are filled with.
        self.steps = [(_copy(layer), _copy(layer, fill_value=0.0)) for layer in layers]
        self.may_lose_pixels = any(
            isinstance(layer, _MOVING_LAYERS) and not isinstance(layer, keras.layers.RandomFlip)
            for layer in layers
        )
        self.ignore_label = ignore_label
        self.min_visibility = min_visibility

    def __call__(self, batch):
        self._check(batch)
        images = batch["images"]
        symbolic = type(images).__module__.startswith("tensorflow") and not hasattr(images, "numpy")
        backends = [layer.backend for step in self.steps for layer in step]
        for backend in backends:
            backend.set_backend("tensorflow" if symbolic else keras.backend.backend())
        try:
            result = self._augment(batch, backends[0]) if backends else batch
        finally:
            for backend in backends:
                backend.reset()
        if isinstance(images, np.ndarray):
            result = keras.tree.map_structure(keras.ops.convert_to_numpy, result)
        return result

    def _augment(self, batch, backend):
        batch = keras.tree.map_structure(backend.convert_to_tensor, batch)
        images = backend.cast(batch["images"], "float32")
        masks = _stack_masks(batch, backend)
        boxes = dict(batch.get("bounding_boxes", {}))
        real = boxes["labels"] >= 0 if boxes else None
        known = boxes and "instance_ids" in batch
        ids = _InstanceIds(batch, backend) if known and self.may_lose_pixels else None
        drawn = ids.boxes(masks)[1] if ids else None
        size = images.shape[1:3]
        for layer, mask_layer in self.steps:
            if isinstance(layer, RandomCopyPaste):
                masks = ids.forget(masks, real)
                sampled = layer.get_random_transformation({"bounding_boxes": boxes})
                images, masks, after, boxes, real = layer.paste(
                    images, masks, ids.of(masks), boxes, real, sampled
                )
                masks = ids.put(masks, after)
                drawn = backend.numpy.logical_or(drawn, ids.boxes(masks)[1])
                continue
            sampled = layer.get_random_transformation(images, training=True)
            if isinstance(layer, keras.layers.RandomElasticTransform):
                if sampled is not None:
                    images, masks = _deform(layer, sampled, images, masks, backend)
            else:
                images = layer.transform_images(images, _copied(sampled, backend), training=True)
            if isinstance(layer, GEOMETRIC_LAYERS):
                if masks is not None:
                    masks = mask_layer.transform_segmentation_masks(
                        masks, _copied(sampled, backend), training=True
                    )
                if boxes:
                    moved = transform_boxes(layer, sampled, boxes["boxes"], size)
                    size = output_size(layer, size)
                    boxes["boxes"] = _clip(moved, size, backend)
                    visible = _area(boxes["boxes"]) > self.min_visibility * _area(moved)
                    real = backend.numpy.logical_and(real, visible)
            if ids and isinstance(layer, _TURNING_LAYERS):
                around, visible = ids.boxes(masks)
                boxes["boxes"] = backend.numpy.where(visible[..., None], around, boxes["boxes"])
                if not isinstance(layer, GEOMETRIC_LAYERS):
                    real = backend.numpy.logical_and(real, visible)
        result = dict(batch)
        result["images"] = _as_before(images, batch["images"], backend)
        if ids:
            vanished = backend.numpy.logical_and(drawn, ~ids.boxes(masks)[1])
            real = backend.numpy.logical_and(real, ~vanished)
            masks = ids.forget(masks, real)
        if boxes:
            result["bounding_boxes"] = _pad(boxes, batch["bounding_boxes"], real, backend)
        return result | self._unstack_masks(masks, batch, backend)

    def _unstack_masks(self, masks, batch, backend):
        """Masks as they came in, what was filled marked in the semantic ones."""
        result = {}
        for channel, key in enumerate(key for key in _MASKS if key in batch):
            values = masks[..., channel : channel + 1]
            if key == "segmentation_masks":
                values = backend.numpy.where(values == 0, float(self.ignore_label), values - 1)
            if len(batch[key].shape) == 3:
                values = values[..., 0]
            dtype = keras.backend.standardize_dtype(batch[key].dtype)
            result[key] = backend.cast(values, dtype)
        return result

    def _check(self, batch):
        unknown = batch.keys() - _CARRIED - _UNTOUCHED
        moving = [layer for layer, _ in self.steps if isinstance(layer, _MOVING_LAYERS)]
        if unknown and moving:
            raise ValueError(
                f"augment: the batch holds targets it cannot carry: {sorted(unknown)}. "
                "(`paint_instances` makes `instance_ids` of `mask_runs`.)"
            )
        shape = batch["images"].shape
        if len(shape) != 4 or shape[1] is None or shape[2] is None:
            raise ValueError(
                "augment: `images` must have shape (batch, height, width, channels), height and "
                f"width known. Received: {tuple(shape)}."
            )
        size = tuple(shape[1:3])
        for layer in moving:
            size = output_size(layer, size)
            alone = "bounding_boxes" in batch and "instance_ids" not in batch
            if isinstance(layer, keras.layers.RandomElasticTransform) and alone:
                raise ValueError(
                    "augment: boxes cannot follow RandomElasticTransform without `instance_ids`."
                )
            if isinstance(layer, RandomCopyPaste) and (
                not {"bounding_boxes", "instance_ids"} <= batch.keys()
            ):
                raise ValueError(
                    "augment: RandomCopyPaste needs `bounding_boxes` and `instance_ids`."
                )
            if getattr(layer, "fill_mode", "constant") != "constant" and (
                "bounding_boxes" in batch or "instance_ids" in batch
            ):
                raise ValueError(
                    f"augment: {type(layer).__name__} with fill_mode={layer.fill_mode!r} would "
                    "paint objects that no box marks; set fill_mode='constant'."
                )


def _copy(layer, **changes):
    """The same layer in float32, with those changes that it knows."""
    config = layer.get_config()
    changes = {key: value for key, value in changes.items() if key in config}
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # also for layers that the layer makes
    try:
        return type(layer).from_config(config | changes | {"dtype": "float32"})
    finally:
        keras.config.set_dtype_policy(policy)


def _copied(sampled, backend):
    """A transformation to give away: on PyTorch, Keras' affine transform writes into its matrix."""
    return keras.tree.map_structure(
        lambda part: backend.numpy.copy(part) if backend.is_tensor(part) else part, sampled
    )


def _stack_masks(batch, backend):
    """Masks as float32 channels, the semantic ones with 1 added: 0 is what gets filled."""
    masks = []
    for key in _MASKS:
        if key in batch:
            mask = backend.cast(batch[key], "float32") + (key == "segmentation_masks")
            masks.append(mask if len(mask.shape) == 4 else mask[..., None])
    return backend.numpy.concatenate(masks, -1) if masks else None


def _deform(layer, sampled, images, masks, backend):
    """Images and masks through one elastic field."""
    shape = (backend.shape(images)[0], *images.shape[1:3])
    field = draw_displacements(layer, sampled, shape)
    how = {"interpolation": layer.interpolation, "fill_mode": layer.fill_mode}
    images = deform(images, field, backend, **how, fill_value=layer.fill_value)
    if masks is not None:
        masks = deform(masks, field, backend, **how | {"interpolation": "nearest"})
    return backend.numpy.clip(images, *layer.value_range), masks


class _InstanceIds:
    """The channel of stacked masks that tells instances, and what it says of their boxes."""

    def __init__(self, batch, backend):
        self.channel = [key for key in _MASKS if key in batch].index("instance_ids")
        self.count = batch["bounding_boxes"]["labels"].shape[1]
        self.backend = backend

    def of(self, masks):
        """Int32 ``(B, H, W)``."""
        return self.backend.cast(masks[..., self.channel], "int32")

    def boxes(self, masks):
        """Boxes around the pixels of all instances, and which of them have any."""
        return boxes_around_ids(self.of(masks), self.count, self.backend)

    def forget(self, masks, real):
        """Masks without the pixels of boxes that are padding now."""
        xp = self.backend.numpy
        own = xp.arange(1, self.count + 1, dtype="int32")
        return self.put(masks, look_up(xp.where(real, own, 0), self.of(masks), self.backend))

    def put(self, masks, ids):
        """Masks with other instances."""
        ids = self.backend.cast(ids, masks.dtype)[..., None]
        parts = [masks[..., : self.channel], ids, masks[..., self.channel + 1 :]]
        return self.backend.numpy.concatenate(parts, -1)


def _pad(boxes, like, real, backend):
    """Boxes and what belongs to them, padding wherever they are not real."""
    result = {}
    for key, values in boxes.items():
        keep = real[..., None] if key == "boxes" else real
        values = backend.numpy.where(keep, values, backend.numpy.zeros_like(values))
        if key == "labels":
            values = values - backend.cast(~keep, values.dtype)
        result[key] = _as_before(values, like[key], backend)
    return result


def _as_before(values, like, backend):
    """Values in the dtype they came in."""
    dtype = keras.backend.standardize_dtype(like.dtype)
    if dtype == "uint8":
        values = backend.numpy.clip(backend.numpy.round(values), 0, 255)
    return backend.cast(values, dtype)


def _clip(boxes, size, backend):
    height, width = size
    limits = backend.convert_to_tensor([width, height, width, height], "float32")
    return backend.numpy.minimum(backend.numpy.maximum(boxes, 0.0), limits)


def _area(boxes):
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
