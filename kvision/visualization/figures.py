"""What all pictures share: figures without a window or a global state, and their files."""

import keras

RESOLUTION = 120
"""Dots an inch of the files that are written."""

PANEL_INCHES = 4.0
"""Width of a panel of a gallery."""


def new_figure(name, width, height):
    """Makes an empty figure.

    Args:
        name: The function that draws, for the error.
        width: Inches.
        height: Inches.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"{name}: the package `matplotlib` is needed: `pip install matplotlib`."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def new_gallery(name, images, panels, columns, legend_inches=0.0):
    """Makes a figure with some panels for each image, as high as the images ask for.

    Args:
        name: The function that draws, for the error.
        images: A list of arrays `(h, w, 3)`.
        panels: Panels an image, side by side.
        columns: Images in a row.
        legend_inches: Height that is left for a legend.

    Returns:
        A `matplotlib.figure.Figure`, and a list of its axes for each image.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    columns = max(1, min(columns, len(images)))
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    heights = [PANEL_INCHES * max(len(image) / image.shape[1] for image in row) for row in rows]
    figure = new_figure(
        name, columns * panels * PANEL_INCHES, (sum(heights) or PANEL_INCHES) + legend_inches
    )
    axes = figure.subplots(
        max(1, len(rows)), columns * panels, squeeze=False, height_ratios=heights or None
    )
    for one in axes.flat:
        one.set_axis_off()
    return figure, list(axes.reshape(-1, panels))[: len(images)]


def saved(figure, path):
    """Writes a figure, if there is a path.

    Args:
        figure: A `matplotlib.figure.Figure`.
        path: File to write; its ending gives the format. `None` writes none.

    Returns:
        The figure.
    """
    if path is not None:
        figure.savefig(path, dpi=RESOLUTION)
    return figure


def as_maps(name, maps, images, argument):
    """Checks maps of images and brings them into memory.

    Args:
        name: The function that draws, for the error.
        maps: `(B, H, W)` or `(B, H, W, 1)`, or a sequence of such maps of any sizes.
        images: The list of arrays that they belong to.
        argument: What they are called, for the error.

    Returns:
        A list of arrays `(h, w)`.

    Raises:
        ValueError: If maps and images differ in number or size.
    """
    maps = [keras.ops.convert_to_numpy(one) for one in maps]
    maps = [one[..., 0] if one.ndim == 3 and one.shape[-1] == 1 else one for one in maps]
    sizes = [image.shape[:2] for image in images]
    if [one.shape for one in maps] != sizes:
        raise ValueError(
            f"{name}: `{argument}` must be of the number and the sizes of `images`, {sizes}. "
            f"Received: {[one.shape for one in maps]}."
        )
    return maps


def as_images(name, images):
    """Checks images and brings them into memory.

    Args:
        name: The function that draws, for the error.
        images: `(B, H, W, 3)`, or a sequence of `(h, w, 3)`.

    Returns:
        A list of arrays.

    Raises:
        ValueError: If an image has not three channels.
    """
    images = [keras.ops.convert_to_numpy(image) for image in images]
    for image in images:
        if image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(
                f"{name}: each of `images` must have shape (height, width, 3). "
                f"Received: {image.shape}."
            )
    return images
