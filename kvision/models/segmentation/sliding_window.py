"""Segmentation of images larger than memory allows: overlapping tiles, stitched row by row."""

import contextlib

import keras
import numpy as np

BLENDS = ("interior", "linear", "gaussian")
"""Names of the ways in which overlapping tiles become one image."""

_MANY_TILES = 16


def predict_tiles(
    model, images, *, tile_size, overlap, batch_size=1, blend="interior", verbose="auto"
):
    """Segment images tile by tile.

    Tiles stand at every ``tile_size - overlap`` pixels, the last of a row or column flush with the
    image's edge, so that every edge of the image is an edge of a tile. Their logits are added with
    weights that sum to 1 at each pixel and are products of one weight a row and one a column:

    * ``"interior"``: 1 for the tile whose edges are farthest away, 0 for the others. Each tile
      gives its centre, up to the middle of the overlap.
    * ``"linear"``: falling linearly from the tile's centre to its edge.
    * ``"gaussian"``: ``exp(-(d / s) ** 2 / 2)`` at the distance d from the tile's centre, with s an
      eighth of its size (F. Isensee et al., "nnU-Net", 2021).

    With ``"interior"`` the result is that of the whole image, provided that ``overlap`` is at least
    the receptive field less 1, and, for a network of stride s, that the sizes of tiles and images
    and the overlap are multiples of s. (A network that pools the whole image, as for image
    features, sees the tile instead.)

    A network without padding gives fewer pixels than it is given. Its tiles then stand where their
    outputs overlap by ``overlap``, 0 being enough, and the image is continued beyond its edges by
    its mirror image (the overlap-tile strategy of O. Ronneberger et al., "U-Net", 2015).

    Only the logits of one row of tiles are in memory at a time. ``images`` may be a memory map, of
    which one batch of tiles is read at a time.

    Args:
        model: function from float32 ``(batch, h, w, C)`` to logits ``(batch, h - 2m, w - 2n, K)``
            with m, n >= 0, such as a `Segmenter` or any Keras model; Keras layers run in inference
            mode. Its ``decode``, where it has one, makes labels and scores of the logits; else they
            are the largest softmax probability and its place, and, where K is 1, whether the logit
            is positive, and the probability of that.
        images: array ``(H, W, C)`` or ``(B, H, W, C)``, or a list of arrays of one size, in the
            range that the model takes.
        tile_size: int or ``(height, width)`` in pixels. Smaller images are given to the model
            whole; to one without padding, mirrored up to the size of a tile.
        overlap: int or ``(down, across)``: how many pixels of output neighbouring tiles share, less
            than a tile gives.
        batch_size: int, tiles a call; every call has as many, the last ones being repeated.
        blend: ``"interior"``, ``"linear"`` or ``"gaussian"``.
        verbose: bool, whether progress is shown; ``"auto"``: from 16 tiles on.

    Returns:
        ``{"labels": int32 array (H, W), "scores": float32 array (H, W)}``; with the axis B where
        ``images`` have one. Scores are in 0..1.

    Raises:
        ValueError: an argument out of its range, or a model whose outputs are no logits of the
            pixels in the centre of a tile.
    """
    tile_size, overlap = _pair("tile_size", tile_size, 1), _pair("overlap", overlap, 0)
    if blend not in BLENDS:
        raise ValueError(f"predict_tiles: `blend` must be one of {BLENDS}. Received: {blend!r}.")
    if batch_size < 1:
        raise ValueError(f"predict_tiles: `batch_size` must be positive. Received: {batch_size}.")
    if not hasattr(images, "shape"):  # a memory map stays one
        images = _as_array(images)
    if len(images.shape) not in (3, 4):
        raise ValueError(
            "predict_tiles: `images` must have shape (height, width, channels) or (batch, height, "
            f"width, channels). Received: {tuple(images.shape)}."
        )
    if len(images.shape) == 3:
        return _predict_image(model, images, tile_size, overlap, batch_size, blend, verbose)
    each = [
        _predict_image(model, image, tile_size, overlap, batch_size, blend, verbose)
        for image in images
    ]
    if not each:
        nothing = (0, *images.shape[1:3])
        return {"labels": np.zeros(nothing, "int32"), "scores": np.zeros(nothing, "float32")}
    return {key: np.stack([one[key] for one in each]) for key in ("labels", "scores")}


def _as_array(images):
    try:
        return np.asarray(images)
    except ValueError as error:  # of no common size
        raise ValueError(
            "predict_tiles: a list of `images` must have one size, as one array would. Call it for "
            "each of them."
        ) from error


def _predict_image(model, image, tile_size, overlap, batch_size, blend, verbose):
    size = image.shape[:2]
    margins, num_classes = _probe(model, tile_size, image.shape[2])
    if margins == (0, 0):
        tile_size = tuple(map(min, tile_size, size))
    given = tuple(side - 2 * margin for side, margin in zip(tile_size, margins, strict=True))
    (tops, row_weights), (lefts, column_weights) = (
        _axis(*along, blend) for along in zip(size, given, overlap, strict=True)
    )
    tiles = [(row, column) for row in range(len(tops)) for column in range(len(lefts))]
    progress = verbose if verbose != "auto" else len(tiles) >= _MANY_TILES
    bar = keras.utils.Progbar(len(tiles), unit_name="tile", verbose=int(bool(progress)))

    labels, scores = np.zeros(size, "int32"), np.zeros(size, "float32")
    # Logits from the top of the present row of tiles down, as wide as the tiles reach.
    band = np.zeros((given[0], lefts[-1] + given[1], num_classes), "float32")
    for first in range(0, len(tiles), batch_size):
        batch = tiles[first : first + batch_size]
        places = [(tops[row] - margins[0], lefts[column] - margins[1]) for row, column in batch]
        places += places[-1:] * (batch_size - len(batch))
        logits = _run(model, np.stack([_cut(image, place, tile_size) for place in places]))
        for (row, column), tile in zip(batch, logits, strict=False):
            across = slice(lefts[column], lefts[column] + given[1])
            weights = row_weights[row][:, None] * column_weights[column]
            band[:, across] += weights[..., None] * tile
            if column == len(lefts) - 1:
                # What the next row of tiles does not reach is done.
                end = tops[row + 1] if row + 1 < len(tops) else size[0]
                done = end - tops[row]
                found = _decode(model, band[:done, : size[1]])
                labels[tops[row] : end], scores[tops[row] : end] = found
                band[: given[0] - done] = band[done:].copy()
                band[max(given[0] - done, 0) :] = 0
        bar.add(len(batch))
    return {"labels": labels, "scores": scores}


def _probe(model, tile_size, channels):
    """How many pixels the model leaves out at each side of a tile, and its number of classes."""
    shape = _run(model, np.zeros((1, *tile_size, channels), "float32")).shape
    lost = [have - given for have, given in zip(tile_size, shape[1:3], strict=True)]
    if len(shape) != 4 or min(lost) < 0 or lost[0] % 2 or lost[1] % 2 or min(shape[1:3]) < 1:
        raise ValueError(
            "predict_tiles: `model` must give logits (batch, height - 2m, width - 2n, classes) "
            f"for tiles (batch, height, width, channels). Received: {shape} for "
            f"{(1, *tile_size, channels)}."
        )
    return (lost[0] // 2, lost[1] // 2), shape[3]


def _run(model, tiles):
    arguments = {"training": False} if isinstance(model, keras.Layer) else {}
    with _no_gradients():
        tiles = keras.ops.convert_to_tensor(tiles.astype("float32"))
        logits = keras.ops.cast(model(tiles, **arguments), "float32")
    return keras.ops.convert_to_numpy(logits)


def _no_gradients():
    """PyTorch would keep every activation for a gradient that nobody asks for."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def _decode(model, logits):
    """Labels and scores of logits ``(h, w, K)``."""
    logits = keras.ops.convert_to_tensor(logits[None])
    if hasattr(model, "decode"):
        decoded = model.decode(logits)
        labels, scores = decoded["labels"], decoded["scores"]
    elif logits.shape[-1] == 1:
        labels = logits[..., 0] > 0
        scores = keras.ops.sigmoid(keras.ops.abs(logits[..., 0]))
    else:
        labels = keras.ops.argmax(logits, -1)
        scores = keras.ops.max(keras.ops.softmax(logits, -1), -1)
    return [keras.ops.convert_to_numpy(found)[0] for found in (labels, scores)]


def _axis(size, given, overlap, blend):
    """Where the outputs of tiles start along an axis, and their weights ``(tiles, given)``."""
    step = given - overlap
    if step < 1:
        raise ValueError(
            f"predict_tiles: `overlap` must be less than what a tile gives, {given} pixels. "
            f"Received: {overlap}."
        )
    last = max(size - given, 0)
    starts = [*range(0, last, step), last]
    inner = np.arange(given) + 0.5
    edge = np.minimum(inner, given - inner)
    if blend == "gaussian":
        weights = np.exp(-(((inner - given / 2) / (given / 8)) ** 2) / 2)
    else:
        weights = edge
    placed = np.zeros((len(starts), max(size, given)))
    for index, start in enumerate(starts):
        placed[index, start : start + given] = weights
    if blend == "interior":
        placed = placed.argmax(0) == np.arange(len(starts))[:, None]
    placed = (placed / placed.sum(0)).astype("float32")
    return starts, [placed[i, start : start + given] for i, start in enumerate(starts)]


def _cut(image, place, tile_size):
    """A tile of an image that its mirror images continue."""
    rows, columns = (
        _mirrored(np.arange(start, start + length), size)
        for start, length, size in zip(place, tile_size, image.shape[:2], strict=True)
    )
    top, left = rows.min(), columns.min()
    part = np.asarray(image[top : rows.max() + 1, left : columns.max() + 1])
    return part[(rows - top)[:, None], columns - left]


def _mirrored(index, size):
    """Where a pixel beyond the edges is the mirror image of, the edge's own not repeated."""
    period = max(2 * size - 2, 1)
    index = index % period
    return np.minimum(index, period - index) if size > 1 else index * 0


def _pair(name, value, least):
    try:
        pair = (int(value),) * 2 if np.ndim(value) == 0 else tuple(int(side) for side in value)
    except (TypeError, ValueError):
        pair = ()
    if len(pair) != 2 or min(pair) < least:
        raise ValueError(
            f"predict_tiles: `{name}` must be an int or (height, width), at least {least}. "
            f"Received: {value!r}."
        )
    return pair
