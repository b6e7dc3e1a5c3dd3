"""Direction fields in the colours of a wheel, which is drawn beside them."""

import keras
import numpy as np

from kvision.visualization.figures import as_images, new_gallery, saved

_WHEEL_PIXELS = 201


def draw_directions(images, directions, targets=None, *, columns=4, path=None):
    """Draws a gallery of images beside the directions of their pixels.

    The hue of a pixel is where it points to, as in the wheel at the right: red to the right, and
    from there clockwise. The length of the vector is its brightness: what points nowhere is black.

    Args:
        images: `(B, H, W, 3)`, or a sequence of `(h, w, 3)` of any sizes; RGB values in 0..255.
        directions: `(B, H, W, 2)`, or a sequence of `(h, w, 2)`: x to the right and y down, of
            length 1 at most, such as `kvision.ops.watershed_targets` gives.
        targets: The true directions, as `directions`. `None` draws none.
        columns: Images in a row.
        path: File to write; its ending, such as `.png`, gives the format. `None` writes none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If an image has not three channels, or fields and images differ in number or
            size.
    """
    images = as_images("draw_directions", images)
    fields = {"found": _as_fields(directions, images, "directions")}
    if targets is not None:
        fields["truth"] = _as_fields(targets, images, "targets")
    figure, panels = new_gallery("draw_directions", images, 1 + len(fields), columns)
    for index, (image, row) in enumerate(zip(images, panels, strict=True)):
        row[0].imshow(np.clip(image, 0, 255).astype("uint8"))
        for axes, (title, field) in zip(row[1:], fields.items(), strict=True):
            axes.imshow(direction_colors(field[index]), interpolation="nearest")
            if len(fields) > 1:
                axes.set_title(title, fontsize=8, pad=2)
    if images:
        _draw_wheel(figure)
    return saved(figure, path)


def direction_colors(directions):
    """Gives each vector its colour on the wheel.

    Args:
        directions: Array `(..., 2)`, x to the right and y down.

    Returns:
        Floats `(..., 3)` in 0..1.
    """
    from matplotlib.colors import hsv_to_rgb

    x, y = np.moveaxis(np.asarray(directions, "float64"), -1, 0)
    hue = np.arctan2(y, x) / (2 * np.pi) % 1
    return hsv_to_rgb(np.stack([hue, np.ones_like(hue), np.clip(np.hypot(x, y), 0, 1)], -1))


def _as_fields(fields, images, argument):
    fields = [keras.ops.convert_to_numpy(one) for one in fields]
    shapes = [(*image.shape[:2], 2) for image in images]
    if [one.shape for one in fields] != shapes:
        raise ValueError(
            f"draw_directions: `{argument}` must have the shapes {shapes}. "
            f"Received: {[one.shape for one in fields]}."
        )
    return fields


def _draw_wheel(figure):
    from matplotlib.colorbar import make_axes

    axes, _ = make_axes(figure.axes, location="right", fraction=0.12, pad=0.02, aspect=1.0)
    axes.set_axis_off()
    axes.set_aspect("equal")
    reach = np.linspace(-1, 1, _WHEEL_PIXELS)
    vectors = np.stack(np.meshgrid(reach, reach), -1)
    length = np.hypot(vectors[..., 0], vectors[..., 1])
    colors = np.dstack([direction_colors(vectors), length <= 1])
    axes.imshow(colors, extent=(-1, 1, 1, -1))
    for angle in np.arange(0, 360, 90):
        x, y = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        axes.annotate(
            "", (0.95 * x, 0.95 * y), (0, 0), arrowprops={"arrowstyle": "->", "color": "white"}
        )
