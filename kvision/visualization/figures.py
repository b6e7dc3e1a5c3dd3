"""What all pictures share: figures without a window or a global state, and their files."""

import keras

RESOLUTION = 120
"""Dots an inch of the files that are written."""


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
