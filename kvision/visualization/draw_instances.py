"""Instances over their images, each in a colour of its own, and their borders against the true."""

import keras
import numpy as np

from kvision.visualization.figures import as_images, as_maps, new_gallery, saved

_FOUND, _TRUE = "#ff7f0e", "#00e5ff"
_GOLDEN_RATIO = 0.618034
_TEXT = {"color": "white", "fontsize": 7, "clip_on": True, "ha": "left", "va": "top"}


def draw_instances(
    images,
    instances=None,
    targets=None,
    *,
    class_names=None,
    boxes=False,
    opacity=0.5,
    columns=4,
    path=None,
):
    """Draws a gallery of images under their instances.

    With both, an image has three panels: what was found, the truth, and the borders of both over
    each other, the true ones in blue and those found in orange.

    Args:
        images: `(B, H, W, 3)`, or a sequence of `(h, w, 3)` of any sizes; RGB values in 0..255.
        instances: What a model found, a dictionary of `instance_ids`, ints `(B, H, W)` or
            `(B, H, W, 1)` or a sequence of such maps, of which 0 is background; where known, with
            `boxes (B, M, 4)` xyxy in pixels, `labels (B, M)` with -1 as padding and
            `scores (B, M)`, whose row i is of the id i + 1. `None` draws none.
        targets: The truth, as `instances`: what `kvision.data.to_fit` gives.
        class_names: Names of the classes, in the order of the labels. `None` writes the labels.
        boxes: Whether boxes, classes and scores are drawn as well.
        opacity: How much of the colours is to be seen, in 0..1; the rest is the image.
        columns: Images in a row.
        path: File to write; its ending, such as `.png`, gives the format. `None` writes none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there are no `instance_ids`, an image has not three channels, or maps and
            images differ in number or size.
    """
    images = as_images("draw_instances", images)
    for argument, given in (("instances", instances), ("targets", targets)):
        if given is not None and not (isinstance(given, dict) and "instance_ids" in given):
            received = sorted(given) if isinstance(given, dict) else type(given).__name__
            raise ValueError(
                f"draw_instances: `{argument}` must be a dictionary with `instance_ids`; "
                "`kvision.ops.paste_masks` makes a label map of the masks of Mask R-CNN. "
                f"Received: {received}."
            )
    kinds = {
        title: (given, as_maps("draw_instances", given["instance_ids"], images, argument))
        for title, given, argument in (
            ("found", instances, "instances"),
            ("truth", targets, "targets"),
        )
        if given is not None
    }
    both = len(kinds) == 2
    figure, panels = new_gallery("draw_instances", images, 3 if both else 1, columns)
    for index, (image, row) in enumerate(zip(images, panels, strict=True)):
        picture = np.clip(image, 0, 255).astype("uint8")
        if not kinds:
            row[0].imshow(picture)
        for axes, (title, (given, maps)) in zip(row, kinds.items(), strict=False):
            axes.imshow(_overlay(picture, maps[index], opacity))
            _draw_borders(axes, maps[index], color="white", linewidth=0.6)
            if boxes and "boxes" in given:
                _draw_boxes(axes, given, index, class_names)
            if both:
                axes.set_title(title, fontsize=8, pad=2)
        if both:
            found, truth = (maps[index] for _, maps in kinds.values())
            row[2].imshow(picture)
            _draw_borders(row[2], truth, color=_TRUE, linewidth=1.8)
            _draw_borders(row[2], found, color=_FOUND, linewidth=0.9)
            row[2].set_title("borders: found orange, true blue", fontsize=8, pad=2)
    return saved(figure, path)


def instance_color(instance_id):
    """Returns a colour that differs from those of other ids near to it.

    Args:
        instance_id: Int.

    Returns:
        `(red, green, blue)` in 0..1.
    """
    from matplotlib.colors import hsv_to_rgb

    hue = instance_id * _GOLDEN_RATIO % 1
    return hsv_to_rgb((hue, (1.0, 0.65)[instance_id % 2], (1.0, 0.85)[instance_id // 2 % 2]))


def _overlay(picture, ids, opacity):
    colors = np.array([instance_color(index) for index in range(int(ids.max(initial=0)) + 1)])
    over = (1 - opacity) * picture + opacity * 255 * colors[ids]
    return np.where(ids[..., None] > 0, over, picture).round().astype("uint8")


def _draw_borders(axes, ids, **style):
    """Lines along the edges of pixels between different instances, or at the image's edge."""
    from matplotlib.collections import LineCollection

    padded = np.pad(ids, 1)
    y, x = np.nonzero(padded[1:] != padded[:-1])
    level = np.stack([np.stack([x - 1, y], -1), np.stack([x, y], -1)], 1)
    y, x = np.nonzero(padded[:, 1:] != padded[:, :-1])
    upright = np.stack([np.stack([x, y - 1], -1), np.stack([x, y], -1)], 1)
    # Matplotlib's pixel i spans i - 0.5 to i + 0.5.
    lines = np.concatenate([level, upright]) - 0.5
    axes.add_collection(LineCollection(lines, capstyle="projecting", **style), autolim=False)


def _draw_boxes(axes, given, index, class_names):
    from matplotlib.patches import Rectangle

    parts = {
        key: keras.ops.convert_to_numpy(given[key][index])
        for key in ("boxes", "labels", "scores")
        if key in given
    }
    for row, box in enumerate(parts["boxes"]):
        label = parts["labels"][row] if "labels" in parts else 0
        if label < 0 or not (box[2:] > box[:2]).all():
            continue
        left, top, right, bottom = (float(side) - 0.5 for side in box)
        color = instance_color(row + 1)
        axes.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color)
        )
        words = []
        if "labels" in parts:
            words.append(str(label) if class_names is None else class_names[label])
        if "scores" in parts:
            words.append(f"{parts['scores'][row]:.2f}")
        if words:
            background = {"facecolor": "black", "alpha": 0.6, "pad": 1, "linewidth": 0}
            axes.text(left, top, " ".join(words), bbox=background, **_TEXT)
