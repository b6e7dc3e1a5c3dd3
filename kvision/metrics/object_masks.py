"""Masks of objects on the host, whatever their form, as run lengths: never dense, one by one."""

import numpy as np
from keras import ops

from kvision.masks.run_lengths import rows_of_ids
from kvision.ops import paste_masks


def read_runs(owner, argument, objects, size):
    """The masks of one image's objects, in the form in which they come.

    Args:
        owner: Name of the metric, for the message.
        argument: Name of the argument, for the message.
        objects: Arrays of the N rows of the targets or of the detections: `labels (N,)` and either
            `masks (N, m, m)`, probabilities of the parts of the `boxes (N, 4)`, pasted at a
            threshold of 0.5; or `mask_runs (N, R)`; or `instance_ids (H, W)` or `(H, W, 1)`, which
            are `i + 1` at the pixels of the object of row `i`.
        size: `(height, width)` of the image.

    Returns:
        List of N int arrays: uncompressed run lengths of COCO, which may be padded with zeros.

    Raises:
        ValueError: If there are no masks.
    """
    if "masks" in objects:
        return _paste(objects["masks"], objects["boxes"], size)
    if "mask_runs" in objects:
        return list(objects["mask_runs"])
    if "instance_ids" in objects:
        return rows_of_ids(objects["instance_ids"].reshape(size), len(objects["labels"]))
    raise ValueError(
        f"{owner}.update: `{argument}` must have `masks`, `mask_runs` or `instance_ids`. "
        f"Received: {sorted(objects)}."
    )


def _paste(masks, boxes, size):
    """The run lengths of RoI masks `(K, m, m)` in their boxes `(K, 4)`."""
    num_runs, num_pixels = 2 * size[1] + 1, size[0] * size[1]
    rows = [None] * len(masks)
    left = np.arange(len(masks))
    while len(left):  # a row of -1 needs more runs than there is room for
        runs = paste_masks(
            masks[left][None], boxes[left][None], image_size=size, form="runs", num_runs=num_runs
        )
        for index, row in zip(left, ops.convert_to_numpy(runs)[0], strict=True):
            rows[index] = row
        left = np.array([index for index in left if rows[index][0] < 0], int)
        num_runs = min(4 * num_runs, num_pixels + 1)
    return rows
