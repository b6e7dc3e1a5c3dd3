"""A number for each class, as bars."""

import numpy as np

from kvision.visualization.figures import new_figure, saved

_BAR_INCHES = 0.24
_BEHIND_TEXT = {"facecolor": "white", "linewidth": 0, "pad": 0.5}


def draw_class_bars(values, class_names, *, title=None, path=None):
    """Draws a bar for each class, with its number, and the mean as a dashed line.

    Args:
        values: Sequence of one number a class, in 0..1; NaN for a class that does not occur. Or a
            dictionary of several, `{name: numbers}`, which are drawn beside each other.
        class_names: Names of the classes, in the same order.
        title: What the numbers are, such as `"IoU"`. `None` writes none.
        path: File to write; its ending, such as `.png`, gives the format. `None` writes none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there are more or fewer numbers than names.
    """
    series = values if isinstance(values, dict) else {None: values}
    series = {name: np.asarray(numbers, "float64") for name, numbers in series.items()}
    for name, numbers in series.items():
        if numbers.shape != (len(class_names),):
            raise ValueError(
                f"draw_class_bars: `values` must be one number for each of {len(class_names)} "
                f"classes. Received: shape {numbers.shape}{f' for {name!r}' if name else ''}."
            )
    height = max(2.0, _BAR_INCHES * len(class_names) * max(1.2, len(series)) + 0.9)
    figure = new_figure("draw_class_bars", 6.0, height)
    axes = figure.subplots()
    thickness = 0.8 / len(series)
    for index, (name, numbers) in enumerate(series.items()):
        color = f"C{index}"
        places = np.arange(len(class_names)) + (index - (len(series) - 1) / 2) * thickness
        known = ~np.isnan(numbers)
        mean = numbers[known].mean() if known.any() else np.nan
        label = f"mean {mean:.3f}" if name is None else f"{name}, mean {mean:.3f}"
        axes.barh(places, np.nan_to_num(numbers), thickness * 0.9, color=color, label=label)
        axes.axvline(mean, color=color, linestyle="--", linewidth=1)
        for place, number in zip(places, numbers, strict=True):
            text = "does not occur" if np.isnan(number) else f"{number:.3f}"
            where = np.nan_to_num(number) + 0.01, place
            axes.text(*where, text, va="center", fontsize=7, color="0.25", bbox=_BEHIND_TEXT)
    axes.set_yticks(range(len(class_names)), class_names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title, fontsize=10)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=2)
    return saved(figure, path)
