"""Energy maps of the deep watershed: how deep within its instance each pixel lies."""

import keras
import numpy as np

from kvision.visualization.figures import as_images, as_maps, new_gallery, saved


def draw_energy(images, energy, targets=None, *, num_levels=None, cut=None, columns=4, path=None):
    """Draws a gallery of images beside their energy maps, with a scale of the levels.

    Args:
        images: `(B, H, W, 3)`, or a sequence of `(h, w, 3)` of any sizes; RGB values in 0..255.
        energy: Levels, ints `(B, H, W)` or `(B, H, W, 1)`, or a sequence of such maps; 0 is
            background or border. Or the logits of the levels `(B, H, W, num_levels)`, as `call` of
            `kvision.models.instances.DeepWatershed` gives them.
        targets: The true levels, as `energy`. `None` draws none.
        num_levels: Number of levels; `None` is that of the logits, else 16.
        cut: The level at which instances are cut from each other: a line is drawn around the pixels
            above it. `None` draws none.
        columns: Images in a row.
        path: File to write; its ending, such as `.png`, gives the format. `None` writes none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If an image has not three channels, or maps and images differ in number or size.
    """
    images = as_images("draw_energy", images)
    energy = [keras.ops.convert_to_numpy(one) for one in energy]
    logits = [one.ndim == 3 and one.shape[-1] > 1 for one in energy]
    if num_levels is None:
        num_levels = energy[0].shape[-1] if any(logits[:1]) else 16
    energy = [
        one.argmax(-1) if is_logits else one for one, is_logits in zip(energy, logits, strict=True)
    ]
    maps = {"found": as_maps("draw_energy", energy, images, "energy")}
    if targets is not None:
        maps["truth"] = as_maps("draw_energy", targets, images, "targets")
    figure, panels = new_gallery("draw_energy", images, 1 + len(maps), columns)
    from matplotlib import colormaps

    scale = {"cmap": colormaps["inferno"].resampled(num_levels), "vmin": -0.5}
    scale["vmax"] = num_levels - 0.5
    drawn = None
    for index, (image, row) in enumerate(zip(images, panels, strict=True)):
        row[0].imshow(np.clip(image, 0, 255).astype("uint8"))
        for axes, (title, levels) in zip(row[1:], maps.items(), strict=True):
            drawn = axes.imshow(levels[index], interpolation="nearest", **scale)
            above = levels[index] > cut if cut is not None else np.zeros((1, 1))
            if above.any() and not above.all():
                axes.contour(above, levels=[0.5], colors="white", linewidths=0.7)
            if len(maps) > 1:
                axes.set_title(title, fontsize=8, pad=2)
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=figure.axes, fraction=0.04, pad=0.01, shrink=0.8)
        bar.set_label("level", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    return saved(figure, path)
