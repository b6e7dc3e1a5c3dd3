"""Which classes are taken for which."""

import keras
import numpy as np

from kvision.visualization.figures import new_figure, saved

_CELL_INCHES = 0.42
_MOST_WRITTEN = 30


def draw_confusion_matrix(matrix, class_names, *, normalize=True, path=None):
    """Draws a confusion matrix: a row for each true class, a column for each class found.

    Args:
        matrix: `(num_classes, num_classes)`, counts not below 0; the true class is the row.
        class_names: Names of the classes, in the order of the labels.
        normalize: Whether each row shows the parts of its sum, in per cent, so that the diagonal
            is the recall; rows without a count are left empty. Else counts are shown.
        path: File to write; its ending, such as `.png`, gives the format. `None` writes none.

    Returns:
        A `matplotlib.figure.Figure`. Numbers are written up to 30 classes.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the matrix is not square or not of as many classes as there are names.
    """
    matrix = keras.ops.convert_to_numpy(matrix).astype("float64")
    count = len(class_names)
    if matrix.shape != (count, count):
        raise ValueError(
            f"draw_confusion_matrix: `matrix` must have shape ({count}, {count}), as there are "
            f"{count} names. Received: {matrix.shape}."
        )
    totals = matrix.sum(axis=1, keepdims=True)
    shown = matrix
    if normalize:
        shown = np.divide(100 * matrix, totals, out=np.full_like(matrix, np.nan), where=totals > 0)
    side = max(3.0, _CELL_INCHES * count + 1.6)
    figure = new_figure("draw_confusion_matrix", side + 0.6, side)
    axes = figure.subplots()
    most = 100 if normalize else max(1.0, np.nanmax(shown, initial=1.0))
    picture = axes.imshow(np.ma.masked_invalid(shown), cmap="Blues", vmin=0, vmax=most)
    axes.set_facecolor("0.9")  # of rows without a count
    if count <= _MOST_WRITTEN:
        for (row, column), value in np.ndenumerate(shown):
            if np.isnan(value):
                continue
            color = "white" if value > most / 2 else "0.2"
            text = f"{value:.0f}" if normalize else f"{value:,.0f}"
            if normalize and 0 < value < 0.5:
                text = "<1"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(count), class_names, fontsize=8, **turned)
    axes.set_yticks(range(count), class_names, fontsize=8)
    axes.set_xlabel("found", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    bar = figure.colorbar(picture, ax=axes, shrink=0.7)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("per cent of the true class" if normalize else "count", fontsize=8)
    return saved(figure, path)
