"""Curves of a training run."""

import numpy as np

from kvision.visualization.figures import new_figure, saved

_PANEL_INCHES = (4.0, 2.8)


def draw_history(history, *, names=None, columns=3, path=None):
    """Draws a panel for each loss and metric of `fit`: training and validation over the epochs.

    Args:
        history: What `fit` returns, or its `history` dictionary.
        names: Which to draw, without `val_`, in this order. `None` draws all but those with a
            slash, which are of single classes.
        columns: Panels in a row.
        path: File to write; its ending, such as `.png`, gives the format. `None` writes none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no such curve, or none at all.
    """
    curves = getattr(history, "history", history)
    known = list(dict.fromkeys(key.removeprefix("val_") for key in curves))
    names = [name for name in known if "/" not in name] if names is None else list(names)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"draw_history: `names` must be of the curves {known}. Received: {unknown or names}."
        )
    columns = max(1, min(columns, len(names)))
    rows = -(-len(names) // columns)
    width, height = _PANEL_INCHES
    figure = new_figure("draw_history", columns * width, rows * height)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes in list(panels)[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(figure.axes, names, strict=False):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in curves:
                values = np.asarray(curves[key], "float64")
                # One value a validation: fewer than epochs where `validation_freq` is above 1.
                epochs = np.linspace(0, len(next(iter(curves.values()))), len(values) + 1)[1:]
                if label == "validation":  # NaN of the epochs without one are no gaps
                    epochs, values = epochs[~np.isnan(values)], values[~np.isnan(values)]
                marker = "o" if len(values) < 10 else None
                axes.plot(epochs, values, label=label, marker=marker, markersize=3)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if f"val_{name}" in curves:
            axes.legend(fontsize=8, frameon=False)
    return saved(figure, path)
