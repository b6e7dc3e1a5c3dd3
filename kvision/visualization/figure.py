"""The figure that every picture is drawn on."""


def new_figure(caller, figsize):
    """Makes a figure that belongs to no window and to no global state.

    Args:
        caller: Name of the function that draws, for the error.
        figsize: `(width, height)` in inches.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"{caller}: the package `matplotlib` is needed: `pip install matplotlib`."
        ) from error
    return Figure(figsize=figsize, layout="constrained")
