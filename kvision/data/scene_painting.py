"""The paint of digit scenes: background, clutter and ink, in elementwise arithmetic only."""

import numpy as np


def paint_scene(rng, digits, size, background, clutter):
    """Paint digits over a background.

    Args:
        rng: `numpy.random.Generator`.
        digits: sequence of objects with ``ink`` ``(h, w)`` in 0..1, the ``window`` of the scene
            that it covers, and ``iou(other)``; later ones cover earlier ones.
        size: ``(H, W)``.
        background: ``"texture"`` or ``"plain"``.
        clutter: bool, whether there are shapes behind the digits.

    Returns:
        uint8 array ``(H, W, 3)``.
    """
    base = _colour(rng)
    canvas = np.empty((*size, 3), "float32")
    canvas[:] = base
    if background == "texture":
        for cell, strength in ((32, 60), (8, 30), (1, 16)):
            canvas += (_noise(rng, size, cell) - np.float32(0.5)) * np.float32(strength)
    if clutter:
        for _ in range(rng.integers(4, 11)):
            _paint_clutter(rng, canvas)
    colours = []
    for i, digit in enumerate(digits):
        under = [base, *(colours[j] for j in range(i) if digit.iou(digits[j]) > 0)]
        colours.append(_contrasting_colour(rng, under))
        _blend(canvas[digit.window], digit.ink, colours[i])
    return np.clip(np.floor(canvas + np.float32(0.5)), 0, 255).astype("uint8")


def _paint_clutter(rng, canvas):
    """A line, a rectangle or an ellipse, of a colour and an opacity of its own."""
    size = np.array(canvas.shape[:2], "float32")
    kind = rng.integers(3)
    centre = rng.random(2, "float32") * size
    y = np.arange(canvas.shape[0], dtype="float32")[:, None] - centre[0]
    x = np.arange(canvas.shape[1], dtype="float32")[None] - centre[1]
    if kind == 0:
        v, u = rng.random(2, "float32") * np.float32(2) - np.float32(1)
        norm = np.sqrt(v * v + u * u) + np.float32(1e-3)
        along, across = np.abs(y * v + x * u) / norm, np.abs(y * u - x * v) / norm
        half_length = np.float32(8) + rng.random(dtype="float32") * size.min() / np.float32(2)
        inside = np.minimum(np.float32(1.5) - across, half_length - along)
    else:
        radii = np.float32(2) + rng.random(2, "float32") * np.float32(10)
        v, u = y / radii[0], x / radii[1]
        extent = np.maximum(np.abs(v), np.abs(u)) if kind == 1 else np.sqrt(v * v + u * u)
        inside = (np.float32(1) - extent) * radii.min()
    opacity = np.float32(0.3) + rng.random(dtype="float32") * np.float32(0.5)
    _blend(canvas, np.clip(inside, 0, 1) * opacity, _colour(rng))


def _blend(canvas, opacity, colour):
    canvas += opacity[..., None] * (colour - canvas)


def _colour(rng):
    return rng.random(3, "float32") * np.float32(255)


def _contrasting_colour(rng, others):
    """Of several random colours, the one farthest from those it will stand on."""

    def contrast(colour):
        return min(sum(np.abs(colour - other).tolist()) for other in others)

    return max([_colour(rng) for _ in range(6)], key=contrast)


def _noise(rng, size, cell):
    """Random values in 0..1 at every ``cell`` pixels, bilinear between them: ``(H, W, 3)``."""
    if cell == 1:
        return rng.random((*size, 3), "float32")
    height, width = size
    grid = rng.random((height // cell + 2, width // cell + 2, 3), "float32")
    return sample(
        grid,
        np.arange(height, dtype="float32") / np.float32(cell),
        np.arange(width, dtype="float32") / np.float32(cell),
    )


def sample(grid, y, x):
    """Sample a grid bilinearly.

    Args:
        grid: float32 array ``(h, w, ...)``.
        y: float32 ``(H,)``, rows in 0..h - 1, the last excluded.
        x: float32 ``(W,)``, columns in 0..w - 1, the last excluded.

    Returns:
        float32 array ``(H, W, ...)``.
    """
    for axis, at in ((0, y), (1, x)):
        low = np.floor(at).astype("int32")
        weight = (at - low).astype("float32").reshape((-1,) + (1,) * (grid.ndim - 1 - axis))
        below, above = grid.take(low, axis), grid.take(low + 1, axis)
        grid = below + weight * (above - below)
    return grid
