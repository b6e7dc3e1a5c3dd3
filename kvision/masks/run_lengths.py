"""Masks of objects as COCO's run lengths, and the ways between these and all other forms.

Run lengths go down the columns, one column after the other; the first run counts pixels outside, so
that it is 0 where the mask begins with the object. Every other form is one step away::

    polygons ──┐           ┌── one mask (h, w)
               ├── runs ───┤
    COCO RLE ──┘           └── label map of all objects (h, w)

Format: T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", 2014, and its ``maskApi.c``.
"""

import numpy as np


def mask_to_runs(mask):
    """Count the runs of a mask.

    Args:
        mask: array ``(h, w)``; the object is where it is not 0.

    Returns:
        int32 ``(r,)``, whose sum is ``h * w``.

    Raises:
        ValueError: another shape.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(
            f"mask_to_runs: `mask` must have shape (height, width). Received: {mask.shape}."
        )
    inside = np.flatnonzero(mask.T)
    return _runs_of_places(inside, mask.size)


def runs_to_mask(runs, size):
    """Draw the mask of some runs.

    Args:
        runs: ints ``(r,)``; runs of 0 at the end, which are padding, change nothing, and a row of
            nothing but padding is an empty mask.
        size: ``(height, width)``.

    Returns:
        bool ``(height, width)``.

    Raises:
        ValueError: the runs are negative, or do not fill the size.
    """
    runs = _checked("runs_to_mask", runs, size)
    mask = np.zeros(size[0] * size[1], bool)
    filled = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask[: len(filled)] = filled
    return mask.reshape(size[1], size[0]).T


def rle_to_runs(rle):
    """Read COCO's RLE, plain or compressed.

    Args:
        rle: dictionary of ``size``, ``[height, width]``, and ``counts``: a list of ints, or the
            string (or bytes) into which they are compressed.

    Returns:
        int32 ``(r,)``.

    Raises:
        ValueError: the counts are damaged, or do not fill the size.
    """
    counts = rle["counts"]
    if isinstance(counts, str | bytes):
        counts = _decompress(counts.encode() if isinstance(counts, str) else counts)
    return _checked("rle_to_runs", counts, rle["size"])


def runs_to_rle(runs, size, *, compressed=True):
    """Write COCO's RLE.

    Args:
        runs: ints ``(r,)``, padded with zeros or not.
        size: ``(height, width)``.
        compressed: bool, whether the counts become a string.

    Returns:
        Dictionary of ``size`` and ``counts`` that `json` can write.

    Raises:
        ValueError: the runs are negative, or do not fill the size.
        ImportError: ``compressed`` without faster-coco-eval.
    """
    runs = _checked("runs_to_rle", runs, size)
    rle = {"size": [int(side) for side in size], "counts": _unpadded(runs).tolist()}
    if not rle["counts"]:
        rle["counts"] = [int(size[0] * size[1])]
    if compressed:
        packed = _mask_api("runs_to_rle").frPyObjects(rle, *rle["size"])["counts"]
        rle["counts"] = packed.decode() if isinstance(packed, bytes) else packed
    return rle


def polygons_to_runs(polygons, size):
    """Draw the union of polygons as COCO does.

    Args:
        polygons: list of n flat lists ``[x1, y1, x2, y2, ...]`` of three or more corners, in
            pixels; pixel i spans i to i + 1.
        size: ``(height, width)``.

    Returns:
        int32 ``(r,)``.

    Raises:
        ValueError: a polygon has fewer than three corners, or half of one.
        ImportError: without faster-coco-eval.
    """
    height, width = (int(side) for side in size)
    polygons = [check_polygon("polygons_to_runs", polygon).tolist() for polygon in polygons]
    if not polygons:
        return np.array([height * width], "int32")
    api = _mask_api("polygons_to_runs")
    return rle_to_runs(api.merge(api.frPyObjects(polygons, height, width)))


def mask_to_polygons(mask):
    """Trace the outlines of a mask along the edges of its pixels.

    `polygons_to_runs` draws exactly this mask from them again.

    Args:
        mask: array ``(h, w)``; the object is where it is not 0.

    Returns:
        List of polygons, flat lists ``[x1, y1, ...]`` of whole numbers, one a part of the object. A
        polygon cannot have a hole: where there are any, all outlines are one polygon that goes from
        each to the next and back on the same line.
    """
    rings = _outlines(np.asarray(mask) != 0)
    if all(_is_clockwise(ring) for ring in rings):
        return [np.ravel(ring).tolist() for ring in rings]
    start = rings[0][0]
    path = [*rings[0], start]
    for ring in rings[1:]:
        path += [*ring, ring[0], start]
    return [np.ravel(path).tolist()]


def runs_to_ids(runs, size):
    """Paint objects into one label map; where they overlap, the smallest is on top.

    Args:
        runs: ints ``(n, r)``, the runs of n objects, each padded with zeros; or a list of them.
        size: ``(height, width)``.

    Returns:
        int32 ``(height, width)``: 0 is background, i + 1 the object of row i.
    """
    height, width = size
    painted = np.zeros(height * width, "int32")
    areas = [np.sum(row[1::2]) for row in runs]
    for row in np.argsort(np.negative(areas), kind="stable"):
        ends = np.cumsum(runs[row])
        for start, end in zip(ends[0::2], ends[1::2], strict=False):
            painted[start:end] = row + 1
    return painted.reshape(width, height).T.copy()


def ids_to_runs(instance_ids, num_objects=None):
    """Count the runs of every object of a label map.

    Args:
        instance_ids: ints ``(h, w)`` or ``(h, w, 1)``: 0 is background.
        num_objects: int n, the highest id or more; None is the highest.

    Returns:
        int32 ``(n, r)``, row i of the object with the id i + 1, padded with zeros. An id without
        pixels has a row of zeros.
    """
    ids = np.asarray(instance_ids)
    count = int(ids.max(initial=0)) if num_objects is None else num_objects
    return pad_runs(rows_of_ids(ids.reshape(ids.shape[:2]), count))


def rows_of_ids(ids, num_objects):
    """The run lengths of the objects 1..n of a label map ``(h, w)``, each as long as it is."""
    flat = ids.T.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(flat[starts], kind="stable")
    bounds = np.searchsorted(flat[starts][order], np.arange(1, num_objects + 2))
    stretches = np.stack([starts, ends], axis=1)[order].astype("int32")
    rows = [stretches[first:last].ravel() for first, last in zip(bounds, bounds[1:], strict=False)]
    size = np.int32(flat.size)
    return [np.diff(row, prepend=np.int32(0), append=size) if len(row) else row for row in rows]


def pad_runs(rows, length=None):
    """Put runs of several masks under each other.

    Args:
        rows: list of n int arrays ``(r_i,)``.
        length: int, the length of the rows; None is the longest.

    Returns:
        int32 ``(n, length)``, padded with zeros.
    """
    length = max(map(len, rows), default=0) if length is None else length
    padded = np.zeros((len(rows), length), "int32")
    for row, runs in zip(padded, rows, strict=True):
        row[: len(runs)] = runs
    return padded


def check_polygon(name, polygon):
    """Check a polygon.

    Args:
        name: str, the function that speaks in the error.
        polygon: list of numbers.

    Returns:
        float64 ``(2 * corners,)``.

    Raises:
        ValueError: it is not three or more corners of finite numbers.
    """
    corners = np.array(polygon, "float64")
    if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2 or not np.isfinite(corners).all():
        raise ValueError(
            f"{name}: a polygon must be three or more corners, x and y in turn. "
            f"Received: {polygon}."
        )
    return corners


def _runs_of_places(inside, num_pixels):
    """Runs of the mask that has these pixels, counted down the columns and in order."""
    first = np.diff(inside, prepend=-2) > 1
    last = np.diff(inside, append=num_pixels + 1) > 1
    borders = np.stack([inside[first], inside[last] + 1], -1).ravel()
    runs = np.diff(borders, prepend=0, append=num_pixels).astype("int32")
    return runs if runs[-1] else runs[:-1]


def _unpadded(runs):
    return runs[: np.flatnonzero(runs)[-1] + 1] if runs.any() else runs[:0]


def _checked(name, runs, size):
    runs = np.asarray(runs)
    total = int(size[0]) * int(size[1])
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() not in (0, total):
        raise ValueError(
            f"{name}: the runs must be lengths that fill {size[0]} x {size[1]} = {total} pixels. "
            f"Received: {len(runs)} of them, {runs.sum()} pixels in all, the least {runs.min()}."
        )
    return runs.astype("int32")


def _decompress(counts):
    """The numbers of a string: five bits a character, then differences to the run before the last.

    Bit 5 says that the number goes on in the next character, bit 4 of its last one is the sign.
    """
    bits = np.frombuffer(counts, "uint8").astype("int64") - 48
    if not len(bits) or bits.min() < 0 or bits.max() > 63 or bits[-1] & 32:
        raise ValueError(f"rle_to_runs: {counts[:40]!r} is not a compressed RLE.")
    ends = np.flatnonzero(bits & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends + 1 - starts
    shifts = 5 * (np.arange(len(bits)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((bits & 31) << shifts, starts)
    runs -= (bits[ends] >> 4 & 1) << 5 * lengths
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _mask_api(name):
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise ImportError(
            f"{name}: the package `faster-coco-eval` is needed: `pip install faster-coco-eval`."
        ) from error
    return mask


def _outlines(mask):
    """Closed outlines, each a list of corners ``(x, y)``: clockwise around parts, else holes."""
    padded = np.pad(mask, 1)
    following = {}  # from a corner of pixels to those where edges lead, the object at their right
    for (row, column), (dy, dx), (y, x) in (
        ((-1, 0), (0, 1), (0, 0)),  # upper edges lead right
        ((0, 1), (1, 0), (0, 1)),  # right ones down
        ((1, 0), (0, -1), (1, 1)),  # lower ones left
        ((0, -1), (-1, 0), (1, 0)),  # left ones up
    ):
        beside = np.roll(padded, (-row, -column), (0, 1))[1:-1, 1:-1]
        for top, left in np.argwhere(mask & ~beside).tolist():
            start = (left + x, top + y)
            following.setdefault(start, []).append((start[0] + dx, start[1] + dy))
    rings = []
    while following:
        corner = next(iter(following))
        ring, heading = [], None
        while corner in following:
            choices = following[corner]
            # Where two pixels touch at a corner, the sharper turn to the right stays with one.
            target = max(choices, key=lambda end: _turn(heading, corner, end))
            choices.remove(target)
            if not choices:
                del following[corner]
            direction = (target[0] - corner[0], target[1] - corner[1])
            if direction != heading:
                ring.append(corner)
            corner, heading = target, direction
        if heading == (ring[1][0] - ring[0][0], ring[1][1] - ring[0][1]):
            ring.pop(0)
        rings.append(ring)
    return rings


def _turn(heading, corner, end):
    """1 to the right, 0 ahead, -1 to the left."""
    if heading is None:
        return 0
    return heading[0] * (end[1] - corner[1]) - heading[1] * (end[0] - corner[0])


def _is_clockwise(ring):
    x, y = np.array(ring).T
    return np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) > 0
