"""How the receptive field grows along a net."""

from kvision.visualization.figures import new_figure, saved

_ROW_INCHES = 0.2


def draw_receptive_fields(fields, *, path=None):
    """Draws for each layer what the position in the middle of its map sees of the image's width.

    The rows go down the net; a layer that sees what the layer before it sees has none. The grey
    band is the image, and the colour tells the stride.

    Args:
        fields: What `kvision.receptive_field` returned.
        path: File to write; its ending, such as `.png`, gives the format. `None` writes none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    rows = []
    for row in fields:
        if row.map_size and (not rows or row[3:5] != rows[-1][3:5]):
            rows.append(row)
    figure = new_figure("draw_receptive_fields", 8, 1.2 + _ROW_INCHES * len(rows))
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    strides = sorted({row.stride[1] for row in rows})
    colors = {
        stride: colormaps["viridis"](index / max(1, len(strides) - 1))
        for index, stride in enumerate(strides)
    }
    axes = figure.subplots()
    width = fields.image_size[1]
    axes.axvspan(0, width, color="0.92", zorder=0)
    for place, row in enumerate(rows):
        stride, size = row.stride[1], row.size[1]
        left = float(row.start[1] + (row.map_size[1] - 1) // 2 * stride)
        axes.barh(place, size, left=left, height=0.8, color=colors[stride])
        axes.annotate(
            f"{size}{' + all' if row.sees_all else ''}",
            (left + size, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    axes.set_yticks(range(len(rows)), [row.layer for row in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.use_sticky_edges = False
    axes.margins(x=0.1)
    axes.set_xlabel(f"pixels of an image {width} wide")
    handles = [Patch(color=colors[stride], label=str(stride)) for stride in strides]
    axes.legend(handles=handles, title="stride", fontsize=7, title_fontsize=7)
    return saved(figure, path)
