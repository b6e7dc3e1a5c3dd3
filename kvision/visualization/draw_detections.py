"""Detections and true boxes, drawn on their images."""

import keras
import numpy as np

from kvision.visualization.figures import as_images, new_gallery, saved

_TEXT = {"color": "white", "fontsize": 7, "clip_on": True, "zorder": 4}


def draw_detections(
    images,
    detections=None,
    targets=None,
    *,
    class_names=None,
    score_threshold=0.5,
    columns=4,
    path=None,
):
    """Draws a gallery: detections solid, with class and score; true boxes dashed, with class.

    A class has the same colour everywhere. The figure belongs to no window and no global state;
    matplotlib is all it needs (`keras.visualization` draws solid boxes only, through OpenCV).

    Args:
        images: `(B, H, W, 3)`, or a sequence of `(h, w, 3)` of any sizes; RGB values in 0..255.
        detections: `boxes (B, K, 4)` xyxy in pixels of these images, `scores (B, K)`,
            `labels (B, K)` with -1 as padding: what `predict` returns. `None` draws none.
        targets: `boxes (B, M, 4)` xyxy pixels, `labels (B, M)` with -1 as padding. `None` draws
            none.
        class_names: Names of the classes, in the order of the labels. `None` writes the labels.
        score_threshold: Detections below this score, in 0..1, are not drawn.
        columns: Images in a row.
        path: File to write; its ending, such as `.png`, gives the format. `None` writes none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If an image has not three channels, or the numbers of images differ.
    """
    images = as_images("draw_detections", images)
    found = _per_image(detections, len(images), "detections")
    truth = _per_image(targets, len(images), "targets")

    figure, panels = new_gallery("draw_detections", images, 1, columns)
    for (axes,), image, one_found, one_truth in zip(panels, images, found, truth, strict=True):
        axes.imshow(np.clip(image, 0, 255).astype("uint8"))
        for box, label, score in one_found:
            if score >= score_threshold:
                _draw_detection(axes, box, label, f"{_name(label, class_names)} {score:.2f}")
        for box, label, _ in one_truth:
            _draw_truth(axes, box, _name(label, class_names))
    return saved(figure, path)


def _per_image(boxes, num_images, argument):
    """A list of `(box, label, score)` an image, without padding, the best scored last."""
    if boxes is None:
        return [[]] * num_images
    boxes = {name: keras.ops.convert_to_numpy(boxes[name]) for name in boxes}
    if len(boxes["labels"]) != num_images:
        raise ValueError(
            f"draw_detections: `{argument}` must be of as many images as `images`. "
            f"Received: {len(boxes['labels'])} and {num_images}."
        )
    scores = boxes.get("scores", np.ones(boxes["labels"].shape))
    per_image = []
    for one in zip(boxes["boxes"], boxes["labels"], scores, strict=True):
        real = [entry for entry in zip(*one, strict=True) if entry[1] >= 0]
        per_image.append(sorted(real, key=lambda entry: entry[2]))
    return per_image


def _name(label, class_names):
    return str(label) if class_names is None else class_names[label]


def _draw_detection(axes, box, label, text):
    from matplotlib import colormaps

    color = colormaps["tab10"](int(label) % 10)
    left, top, *_ = _draw_box(axes, box, edgecolor=color, linewidth=2.0)
    background = {"facecolor": color, "alpha": 0.9, "pad": 1, "linewidth": 0}
    axes.text(left, top, text, ha="left", va="top", bbox=background, **_TEXT)


def _draw_truth(axes, box, text):
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=2.0, foreground="black")]
    style = {"linestyle": (0, (4, 3)), "linewidth": 1.2, "path_effects": outline}
    *_, right, bottom = _draw_box(axes, box, edgecolor="white", **style)
    background = {"facecolor": "black", "alpha": 0.6, "pad": 1, "linewidth": 0}
    axes.text(right, bottom, text, ha="right", va="bottom", bbox=background, **_TEXT)


def _draw_box(axes, box, **style):
    from matplotlib.patches import Rectangle

    # Matplotlib's pixel i spans i - 0.5 to i + 0.5.
    left, top, right, bottom = (float(side) - 0.5 for side in box)
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, **style))
    return left, top, right, bottom
