"""Windows of one size cut from images of any size, as small and large images are trained on."""

import numpy as np

from kvision.data.instance_dataset import boxes_and_areas, numbered, padding_where
from kvision.data.label_code import IGNORE_LABEL

# What is cut, and what fills it beyond an image.
_MAPS = {"images": 0, "segmentation_masks": IGNORE_LABEL, "instance_ids": 0}


def cut_tiles(batches, tile_size):
    """Cut the images of batches into overlapping windows, with their objects.

    Along each axis an image of n pixels is covered by ``ceil(n / size)`` windows, spread evenly
    from one border to the other; a smaller one is filled at its end, images and ids with 0, masks
    with the ignore label 255. An object is in each window that has pixels of it: its id becomes its
    row among the window's objects, its box and area those of these pixels.

    Args:
        batches: iterable of batch dictionaries of arrays, such as ``dataset.batches(1, None)``, in
            which images keep their own size. There are ``images (B, H, W, 3)`` and any of
            ``instance_ids (B, H, W, 1)`` with ``bounding_boxes``, and ``segmentation_masks
            (B, H, W, 1)``.
        tile_size: ``(height, width)`` of the windows in pixels.

    Returns:
        Batch dictionary of all windows ``(T, height, width, ...)``, with ``bounding_boxes`` padded
        to the most objects of a window, for `as_dataset` and `as_batches`.

    Raises:
        ValueError: a bad size, no images, or boxes without ``instance_ids``, for a box does not
            tell which part of its object is in a window.
    """
    if len(tile_size) != 2 or min(tile_size) < 1:
        raise ValueError(
            f"cut_tiles: `tile_size` must be (height, width) in pixels. Received: {tile_size}."
        )
    tiles = []
    for batch in batches:
        if "bounding_boxes" in batch and "instance_ids" not in batch:
            raise ValueError(
                "cut_tiles: `bounding_boxes` can be cut with `instance_ids` only. "
                f"Received: {sorted(batch)}."
            )
        for index in range(len(batch["images"])):
            maps = {key: np.asarray(batch[key][index]) for key in _MAPS if key in batch}
            boxes = batch.get("bounding_boxes", {})
            boxes = {key: np.asarray(values[index]) for key, values in boxes.items()}
            tiles += _tiles_of(maps, boxes, tile_size)
    if not tiles:
        raise ValueError("cut_tiles: there are no images in `batches`.")
    return _stack(tiles)


def _tiles_of(maps, boxes, tile_size):
    """The windows of one image: maps and, where there are any, the rows of their objects."""
    tiles = []
    height, width = maps["images"].shape[:2]
    for top in _starts(height, tile_size[0]):
        for left in _starts(width, tile_size[1]):
            window = {
                key: _window(values, top, left, tile_size, _MAPS[key])
                for key, values in maps.items()
            }
            if boxes:
                known, ids = numbered(window["instance_ids"][..., 0])
                window["instance_ids"] = ids[..., None]
                rows = {key: values[known - 1] for key, values in boxes.items()}
                around, area = boxes_and_areas(ids, len(known))
                rows |= {"boxes": around} | ({"area": area} if "area" in boxes else {})
                window["bounding_boxes"] = rows
            tiles.append(window)
    return tiles


def _starts(length, size):
    """Where windows begin along an axis."""
    last = max(length - size, 0)
    return np.linspace(0, last, -(-length // size)).round().astype(int)


def _window(values, top, left, size, fill):
    window = values[top : top + size[0], left : left + size[1]]
    missing = [(0, want - have) for want, have in zip(size, window.shape[:2], strict=True)]
    return np.pad(window, [*missing, (0, 0)], constant_values=fill)


def _stack(tiles):
    """One batch of all windows, objects padded to the most of one."""
    batch = {key: np.stack([tile[key] for tile in tiles]) for key in _MAPS if key in tiles[0]}
    if "bounding_boxes" in tiles[0]:
        all_rows = [tile["bounding_boxes"] for tile in tiles]
        counts = np.array([len(rows["labels"]) for rows in all_rows])
        boxes = {}
        for key, first in all_rows[0].items():
            boxes[key] = np.zeros((len(tiles), counts.max(), *first.shape[1:]), first.dtype)
            for room, rows in zip(boxes[key], all_rows, strict=True):
                room[: len(rows[key])] = rows[key]
        empty = np.arange(counts.max()) >= counts[:, None]
        batch["bounding_boxes"] = padding_where(empty, boxes)
    return batch
