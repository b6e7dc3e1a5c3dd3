"""Energy levels for objects of other sizes than those of street scenes."""

import numpy as np
from keras import ops

from kvision.ops import watershed_targets


def choose_level_edges(
    instance_ids, num_levels=16, *, image_border_is_outside=False, min_area=0, decimals=0
):
    """Chooses the edges of energy levels by the distances of the training data.

    The published edges, from 0 to 54 pixels, are those of cars and persons in images of 1024x512:
    of nuclei that are ten pixels wide, they leave ten levels of sixteen without a pixel. The edges
    chosen here share the pixels out equally, as far as the grid of pixels lets them: level by
    level from the border inwards, each takes its equal part of the pixels that are deeper than its
    lower edge, and at least one pixel's width, for the objects are cut apart at the border. There
    are fewer levels than asked for where no pixel is left for more.

    Args:
        instance_ids: Integer array `(N, H, W)` or `(N, H, W, 1)`, 0 for background, or an iterable
            of such, of any sizes.
        num_levels: The most levels, at least 2.
        image_border_is_outside: As in `kvision.ops.watershed_targets`.
        min_area: As there.
        decimals: To how many decimals edges are rounded.

    Returns:
        Tuple of floats, the lower edges of the levels: the first is 0, the last level is open. It
        is the `level_edges` of `DeepWatershed` and `kvision.ops.watershed_targets`.

    Raises:
        ValueError: If there are less than two levels, or is no object.
    """
    if num_levels < 2:
        raise ValueError(
            f"choose_level_edges: `num_levels` must be at least 2. Received: {num_levels}."
        )
    distances = [
        _distances(maps, image_border_is_outside, min_area)
        for maps in ([instance_ids] if hasattr(instance_ids, "shape") else instance_ids)
    ]
    deeper, counts = np.unique(np.concatenate([np.zeros(0), *distances]), return_counts=True)
    if not deeper.size:
        raise ValueError("choose_level_edges: there is no object in `instance_ids`.")
    edges = [0.0]
    while len(edges) < num_levels:
        share = np.cumsum(counts) / counts.sum()
        nearest = deeper[np.argmin(np.abs(share - 1 / (num_levels - len(edges) + 1)))]
        edge = round(max(float(nearest), edges[-1] + 1.0), decimals)
        left = deeper > edge
        if not left.any():
            break
        deeper, counts = deeper[left], counts[left]
        edges.append(float(edge))
    return tuple(edges)


def _distances(maps, image_border_is_outside, min_area):
    maps = np.asarray(maps)
    maps = maps[..., 0] if maps.ndim == 4 else maps
    targets = watershed_targets(
        ops.convert_to_tensor(maps.astype("int32")),
        image_border_is_outside=image_border_is_outside,
        min_area=min_area,
    )
    distances = ops.convert_to_numpy(targets["distance"])
    return distances[distances > 0]
