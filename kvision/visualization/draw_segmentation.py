"""Label maps over their images, with a legend and the truth beside them."""

import numpy as np

from kvision.visualization.figures import PANEL_INCHES, as_images, as_maps, new_gallery, saved

_LEGEND_ROW_INCHES = 0.19
_LEGEND_ENTRY_INCHES = 1.3
_STRIPES = np.array([[70, 70, 70], [150, 150, 150]])


def draw_segmentation(
    images,
    labels=None,
    targets=None,
    *,
    class_names=None,
    colors=None,
    ignore_label=255,
    opacity=0.6,
    columns=4,
    path=None,
):
    """Draws a gallery of images under their labels, each with its truth at its right.

    The legend names the classes that are to be seen. Pixels with the ignore label are striped in
    grey.

    Args:
        images: `(B, H, W, 3)`, or a sequence of `(h, w, 3)` of any sizes; RGB values in 0..255.
        labels: What a model found, ints `(B, H, W)` or `(B, H, W, 1)`, or a sequence of such maps:
            the `labels` of `predict`. `None` draws none.
        targets: The true labels, as `labels`. `None` draws none.
        class_names: Names of the classes, in the order of the labels. `None` writes the labels.
        colors: `(num_classes, 3)` in 0..255, such as `kvision.data.CAMVID_COLORS`. `None` takes
            colours that are easy to tell apart.
        ignore_label: The label of pixels without truth.
        opacity: How much of the labels is to be seen, in 0..1; the rest is the image.
        columns: Images in a row.
        path: File to write; its ending, such as `.png`, gives the format. `None` writes none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If an image has not three channels, labels and images differ in number or size,
            or a label has no colour or no name.
    """
    images = as_images("draw_segmentation", images)
    kinds = {"found": labels, "truth": targets}
    maps = {
        title: as_maps("draw_segmentation", given, images, argument)
        for (title, given), argument in zip(kinds.items(), ("labels", "targets"), strict=True)
        if given is not None
    }
    seen = sorted(
        {int(value) for found in maps.values() for one in found for value in np.unique(one)}
    )
    classes = [label for label in seen if label != ignore_label]
    table = _color_table(classes, class_names, colors)

    panels = max(1, len(maps))
    width = max(1, min(columns, len(images))) * panels * PANEL_INCHES
    legend_rows = -(-len(seen) // int(width / _LEGEND_ENTRY_INCHES))
    legend_inches = legend_rows * _LEGEND_ROW_INCHES + 0.1
    figure, panels = new_gallery("draw_segmentation", images, panels, columns, legend_inches)
    for index, (image, row) in enumerate(zip(images, panels, strict=True)):
        picture = np.clip(image, 0, 255)
        if not maps:
            row[0].imshow(picture.astype("uint8"))
        for axes, (title, found) in zip(row, maps.items(), strict=False):
            axes.imshow(_overlay(picture, found[index], table, ignore_label, opacity))
            if len(maps) > 1:
                axes.set_title(title, fontsize=8, pad=2)
    _draw_legend(figure, seen, table, class_names, ignore_label, legend_rows)
    return saved(figure, path)


def _color_table(classes, class_names, colors):
    """The colour of each class that is to be seen."""
    for argument, given in (("class_names", class_names), ("colors", colors)):
        if given is not None and classes and not 0 <= classes[0] <= classes[-1] < len(given):
            raise ValueError(
                f"draw_segmentation: `{argument}` must have an entry for every label. Received: "
                f"{len(given)} entries, labels {classes[0]} to {classes[-1]}."
            )
    if colors is None:
        return {label: np.array(distinct_color(label)) * 255.0 for label in classes}
    return {label: np.array(colors[label], "float64") for label in classes}


def distinct_color(label):
    """Returns a colour that differs from those of other small labels.

    Args:
        label: Int.

    Returns:
        `(red, green, blue)` in 0..1.
    """
    from matplotlib import colormaps

    twenty = colormaps["tab20"]
    # Strong colours before pale ones; the fourth pair of ten is grey, which is kept for the end.
    order = [0, 2, 4, 6, 8, 10, 12, 16, 18, 1, 3, 5, 7, 9, 11, 13, 17, 19, 14, 15]
    return twenty(order[int(label) % 20])[:3]


def _overlay(picture, labels, table, ignore_label, opacity):
    over = np.array(picture, "float64")
    for label, color in table.items():
        at = labels == label
        over[at] = (1 - opacity) * over[at] + opacity * color
    at = labels == ignore_label
    if at.any():
        rows, columns = np.indices(labels.shape)
        width = max(2, min(labels.shape) // 60)
        stripes = _STRIPES[(rows + columns) // width % 2]
        over[at] = (1 - opacity) * over[at] + opacity * stripes[at]
    return np.round(over).astype("uint8")


def _draw_legend(figure, seen, table, class_names, ignore_label, legend_rows):
    from matplotlib.patches import Patch

    handles = []
    for label in seen:
        if label == ignore_label:
            style = {"facecolor": _STRIPES[1] / 255, "edgecolor": _STRIPES[0] / 255}
            handles.append(Patch(label="ignored", hatch="/////", linewidth=0, **style))
        else:
            name = str(label) if class_names is None else class_names[label]
            handles.append(Patch(label=name, facecolor=table[label] / 255))
    if handles:
        columns = -(-len(handles) // legend_rows)
        figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False
        )
