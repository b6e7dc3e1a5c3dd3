"""Images with one mask an object: the data set that readers of instances return, and its making."""

import concurrent.futures

import keras
import numpy as np

from kvision.boxes.resize import check_resize, resize_images, resized_size
from kvision.data.annotated_image import AnnotatedImage, check_size, pack_boxes
from kvision.data.detection_dataset import DetectionDataset
from kvision.data.images import read_size
from kvision.data.problems import ProblemReport
from kvision.masks.run_lengths import (
    mask_to_runs,
    pad_runs,
    polygons_to_runs,
    runs_to_ids,
    runs_to_mask,
)


class InstanceDataset(DetectionDataset):
    """A `DetectionDataset` whose objects have masks.

    Batches hold what those of `DetectionDataset` do and one of two things more:

    * ``instance_ids`` int32 ``(B, H, W, 1)``, where the masks come as label maps: 0 is background,
      i + 1 the object in row i of ``bounding_boxes``. They are resized to nearest, with pixel
      centres where those of the image are.
    * ``mask_runs`` int32 ``(B, M, R)``, where objects overlap, as in COCO: row i has the run
      lengths of object i's mask at the size of ``images``, down the columns, the first one outside
      of it, padded with zeros. R is the same in every batch. Polygons are resized by their corners
      and drawn then. `paint_instances` makes ``instance_ids`` of them.

    An object that is too small to have a pixel left becomes padding in its place.

    Args:
        examples: sequence of `AnnotatedImage` with ``masks``.
        class_names: sequence of str, in the order of the labels.
        report: `ProblemReport`; unreadable files are added to it when a pass meets them.
        read_ids: function of an example's ``masks``, the path of a label map, to the map, int32
            ``(h, w)``, in which everything above 0 is an object; or None, where ``masks`` are one
            object each, and there will be runs.
        apply_exif: bool, whether EXIF orientation turns the pixels.
    """

    def __init__(self, examples, class_names, report, *, read_ids=None, apply_exif=True):
        super().__init__(examples, class_names, report, apply_exif=apply_exif)
        self.read_ids = read_ids
        if read_ids is not None:
            self._PIXELS = self._PIXELS | {"instance_ids": ("int32", 1)}

    def _files(self, example):
        masks = {} if self.read_ids is None else {"instance_ids": example.masks}
        return super()._files(example) | masks

    def _read(self, key, path):
        if key == "images":
            return super()._read(key, path)
        return numbered(self.read_ids(path))[1][..., None]

    def _padded(self, max_boxes, image_size, policy):
        annotations = super()._padded(max_boxes, image_size, policy)
        if self.read_ids is not None:
            return annotations
        if image_size is not None:
            check_resize(self.report.reader, image_size, policy)
        sizes = [_Sizes(example.original_size, image_size, policy) for example in self.examples]
        most = [
            _most_runs(mask, size)
            for example, size in zip(self.examples, sizes, strict=True)
            for mask in example.masks
        ]
        length = max(most, default=1)

        def with_runs(index):
            found = annotations(index)
            boxes = found["bounding_boxes"]
            runs = np.zeros((len(boxes["labels"]), length), "int32")
            drawn = [_draw(mask, sizes[index]) for mask in self.examples[index].masks]
            runs[: len(drawn)] = pad_runs(drawn, length)
            visible = runs[:, 1::2].any(axis=1)
            runs[~visible] = 0
            return found | {"bounding_boxes": padding_where(~visible, boxes), "mask_runs": runs}

        return with_runs

    def _resize(self, example, image_size, policy):
        resized = super()._resize(example, image_size, policy)
        if self.read_ids is None:
            return resized
        ids = resize_images(example["instance_ids"], image_size, policy, interpolation="nearest")
        boxes = resized["bounding_boxes"]
        boxes = padding_where(~_has_pixels(ids, boxes["labels"].shape[0]), boxes)
        return resized | {"bounding_boxes": boxes, "instance_ids": ids}


def instance_dataset(files, class_names, read_ids, describe, reader, on_error, apply_exif):
    """Make the data set of pairs of an image and its label map, after a look at all label maps.

    Args:
        files: sequence of (path of the image, path of its label map).
        class_names: sequence of str.
        read_ids: function of the latter path to int32 ``(h, w)``, as `InstanceDataset` takes it.
        describe: function of the values of the objects of a map, in order, to a dictionary of their
            ``labels`` and, where known, ``is_crowd``.
        reader: str, the function that reads.
        on_error: ``"raise"`` or ``"skip"``.
        apply_exif: bool.

    Returns:
        `InstanceDataset`. Its objects have ``area``, their number of pixels, and boxes around these
        pixels.

    Raises:
        ValueError: a bad ``on_error``, or, under ``"raise"``, the first problem.
    """
    report = ProblemReport(reader, on_error)
    examples = []

    def look(pair):
        """The example without its id, or the file at fault and the reason."""
        at_fault = pair[0]
        try:
            size = read_size(pair[0], apply_exif=apply_exif)
            at_fault = pair[1]
            values, ids = numbered(read_ids(pair[1]))
            check_size(ids.shape, size)
        except ValueError as error:
            return at_fault, str(error)
        boxes, area = boxes_and_areas(ids, len(values))
        return size, pack_boxes(boxes, **describe(values), area=area)

    with concurrent.futures.ThreadPoolExecutor() as threads:
        for image_id, (pair, (first, second)) in enumerate(
            zip(files, threads.map(look, files), strict=True)
        ):
            if isinstance(second, str):
                report.add(first, "image", second)
            else:
                path, masks = map(str, pair)
                examples.append(AnnotatedImage(path, image_id, first, second, masks))
    report.warn()
    return InstanceDataset(examples, class_names, report, read_ids=read_ids, apply_exif=apply_exif)


def paint_instances(batch):
    """Make ``instance_ids`` of ``mask_runs``, for models and augmentations that take label maps.

    Where objects overlap, the smallest is on top; one that is covered entirely becomes padding.

    Args:
        batch: dictionary of arrays or TensorFlow tensors with ``images``, ``bounding_boxes`` and
            ``mask_runs (B, M, R)``, as `read_coco` gives it; for ``Dataset.map`` and `Batches.map`.

    Returns:
        The dictionary with ``instance_ids`` int32 ``(B, H, W, 1)`` in the place of ``mask_runs``.

    Raises:
        ValueError: the batch has no ``mask_runs``.
    """
    if "mask_runs" not in batch:
        raise ValueError(f"paint_instances: the batch has no mask_runs. It has {sorted(batch)}.")
    images, runs = batch["images"], batch["mask_runs"]

    def paint(runs, size):
        ids = np.stack([runs_to_ids(rows, size) for rows in runs])[..., None]
        return ids, np.stack([_has_pixels(one, runs.shape[1]) for one in ids])

    if type(runs).__module__.startswith("tensorflow"):
        import tensorflow as tf

        ids, seen = tf.numpy_function(paint, [runs, tf.shape(images)[1:3]], [tf.int32, tf.bool])
        ids = tf.ensure_shape(ids, (*images.shape[:3], 1))
        seen = tf.ensure_shape(seen, runs.shape[:2])
    else:
        ids, seen = paint(keras.ops.convert_to_numpy(runs), images.shape[1:3])
    boxes = padding_where(~seen, batch["bounding_boxes"])
    rest = {key: value for key, value in batch.items() if key != "mask_runs"}
    return rest | {"bounding_boxes": boxes, "instance_ids": ids}


def numbered(values):
    """Number the objects of a label map 1, 2, ... in the order of their values.

    Args:
        values: ints ``(h, w)``; everything above 0 is an object.

    Returns:
        The values ``(n,)`` in order, and the map int32 ``(h, w)`` of 0 and 1..n.
    """
    known = np.unique(values)
    known = known[known > 0]
    ids = np.searchsorted(known, values).astype("int32") + 1
    return known, np.where(values > 0, ids, 0)


def boxes_and_areas(instance_ids, num_objects):
    """Find the boxes around the objects of a label map.

    Args:
        instance_ids: ints ``(h, w)`` of 0..n.
        num_objects: int n.

    Returns:
        Boxes float32 ``(n, 4)``, xyxy in pixels, and areas float32 ``(n,)``; an id without pixels
        has an area of 0.
    """
    rows, columns = np.nonzero(instance_ids)
    owner = instance_ids[rows, columns] - 1
    boxes = np.zeros((num_objects, 4), "int64")
    boxes[owner, :2] = instance_ids.shape[1], instance_ids.shape[0]
    for side, places in enumerate((columns, rows)):
        np.minimum.at(boxes[:, side], owner, places)
        np.maximum.at(boxes[:, side + 2], owner, places + 1)
    area = np.bincount(owner, minlength=num_objects)
    return boxes.astype("float32"), area.astype("float32")


def padding_where(gone, boxes):
    """Make rows padding: label -1 and everything else 0.

    Args:
        gone: bool ``(..., M)``, array or TensorFlow tensor.
        boxes: dictionary of ``boxes (..., M, 4)``, ``labels (..., M)`` and others ``(..., M)``.

    Returns:
        The dictionary with these rows as padding.
    """
    if type(gone).__module__.startswith("tensorflow"):
        import tensorflow as xp
    else:
        xp = np
    result = {}
    for key, values in boxes.items():
        empty = -xp.ones_like(values) if key == "labels" else xp.zeros_like(values)
        result[key] = xp.where(gone[..., None] if key == "boxes" else gone, empty, values)
    return result


def _has_pixels(ids, num_objects):
    """Which of the ids 1..n a label map holds."""
    if isinstance(ids, np.ndarray):
        return np.bincount(ids.ravel(), minlength=num_objects + 1)[1:] > 0
    import tensorflow as tf

    return tf.math.bincount(tf.reshape(ids, [-1]), minlength=num_objects + 1)[1:] > 0


class _Sizes:
    """The size of an image, and where its pixels go in the image of the batch."""

    def __init__(self, original_size, image_size, policy):
        self.original, self.policy = original_size, policy
        self.canvas = original_size if image_size is None else tuple(image_size)
        inside = resized_size(np.array(original_size), self.canvas, policy)
        self.scale = inside[::-1] / np.array(original_size)[::-1]  # across and down


def _draw(mask, sizes):
    """The runs of an object in the image of the batch; ``mask`` are polygons, or runs."""
    if not isinstance(mask, np.ndarray):
        scaled = [(np.reshape(polygon, (-1, 2)) * sizes.scale).ravel() for polygon in mask]
        return polygons_to_runs(scaled, sizes.canvas)
    if sizes.canvas == tuple(sizes.original):
        return mask
    pixels = runs_to_mask(mask, sizes.original)[..., None]
    resized = resize_images(pixels, sizes.canvas, sizes.policy, interpolation="nearest")
    return mask_to_runs(resized[..., 0])


def _most_runs(mask, sizes):
    """A length that the runs of an object do not exceed, without drawing it."""
    width = sizes.canvas[1]
    if isinstance(mask, np.ndarray):
        # A column is taken over so often, and each may end in the middle of a run.
        return len(mask) * -(-width // sizes.original[1]) + width + 1
    crossings = 0
    for polygon in mask:
        # COCO draws on a grid five times as fine, and a run ends where an outline passes the middle
        # of a column.
        x = np.floor(np.reshape(polygon, (-1, 2))[:, 0] * sizes.scale[0] * 5 + 0.5)
        passed = np.clip((x - 3) // 5 + 1, 0, width)
        crossings += np.abs(np.diff(passed, append=passed[:1])).sum()
    return int(crossings) + 1
