"""Masks of instances, cropped to boxes and pasted into images, against torchvision."""

import numpy as np

from kvision import ops
from tests.conformance.comparison import Row
from tests.conformance.regions import align_box

INSTANCES = 4


def boxes_in(rng, number, height, width):
    """Boxes of one pixel to more than the image, half of them with halves as corners."""
    centre = rng.uniform(-0.1, 1.1, (number, 2)) * [width, height]
    extent = rng.uniform(0.3, 1, (number, 2)) * rng.choice([2, 15, 60], (number, 1))
    boxes = np.concatenate([centre - extent / 2, centre + extent / 2], axis=-1)
    boxes[::2] = np.round(2 * boxes[::2]) / 2 + [0, 0, 0.5, 0.5]
    return boxes.astype("float32")


def draw_crops(rng):
    height, width = (int(size) for size in rng.integers(1, 50, 2))
    side = int(rng.choice([1, 3, 8]))
    patches = rng.integers(0, INSTANCES + 1, (height // side + 1, width // side + 1))
    return {
        "label_map": patches.repeat(side, 0).repeat(side, 1)[:height, :width].astype("int32"),
        "boxes": boxes_in(rng, 10, height, width),
        "rows": rng.integers(0, INSTANCES, 10).astype("int32"),
        "output_size": int(rng.choice([1, 5, 14, 28])),
    }


def cropped(call):
    label_map, boxes, rows = (call[name][None] for name in ("label_map", "boxes", "rows"))
    return np.asarray(ops.crop_masks(label_map, boxes, rows, output_size=call["output_size"]))[0]


def defined_crops(call):
    size = np.array([call["output_size"]] * 2)
    how = {"output_size": size, "sampling_ratio": 0, "aligned": False}
    masks = [(call["label_map"] == row + 1)[..., None].astype("float64") for row in call["rows"]]
    pairs = zip(masks, call["boxes"], strict=True)
    return np.stack([align_box(mask, box, how)[..., 0] for mask, box in pairs])


def draw_pasting(rng):
    height, width = (int(size) for size in rng.integers(1, 50, 2))
    cells = int(rng.choice([1, 7, 14, 28]))
    # Clipped to the image, as detections are: torchvision raises at a box that lies beside it.
    boxes = boxes_in(rng, 60, height, width).clip(0, np.float32([width, height, width, height]))
    within = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    return {
        "masks": rng.random((10, cells, cells)).astype("float32"),
        "boxes": boxes[rng.choice(within, 10)],
        "height": height,
        "width": width,
    }


def pasted(call):
    """Bool pixels of every mask, out of its run lengths."""
    height, width = call["height"], call["width"]
    runs = ops.paste_masks(
        call["masks"][None],
        call["boxes"][None],
        image_size=(height, width),
        form="runs",
        rule="torchvision",
        num_runs=height * width + 1,
    )
    values = np.arange(height * width + 1) % 2
    pixels = np.stack([np.repeat(values, row) for row in np.asarray(runs)[0]])
    return pixels.reshape(-1, width, height).transpose(0, 2, 1)


def values_of_pasting(call):
    """Interpolated values of every mask at all pixels, in float64 from integer corners on."""
    cells = call["masks"].shape[1]
    grown = cells + 2
    boxes = call["boxes"]
    half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5) * np.float32(grown / cells)
    centre = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
    starts, ends = np.trunc(centre - half), np.trunc(centre + half)

    def weights(start, end, size):
        pixels = np.arange(size)
        position = (pixels - start + 0.5) * grown / (end - start + 1) - 0.5
        spread = 1 - np.abs(np.clip(position, 0, grown - 1)[:, None] - np.arange(grown))
        inside = (pixels >= start) & (pixels <= end)
        return np.maximum(spread, 0) * inside[:, None]

    padded = np.pad(call["masks"].astype("float64"), ((0, 0), (1, 1), (1, 1)))
    values = []
    for mask, start, end in zip(padded, starts, ends, strict=True):
        rows = weights(start[1], end[1], call["height"])
        values.append(rows @ mask @ weights(start[0], end[0], call["width"]).T)
    return np.stack(values)


def at_the_threshold(call, answer):
    """Pixels that rounding may put on either side."""
    return np.where(np.abs(values_of_pasting(call) - 0.5) < 1e-6, 1.0, 0.0)


ROWS = (
    Row("torchvision", "torchvision's project_masks_on_boxes", "crop_masks", draw_crops, cropped,
        defined_crops, lambda call, answer: 3e-6, "3e-6", cost=5, size=lambda call: 10),
    Row("torchvision", "torchvision's paste_masks_in_image", "paste_masks", draw_pasting, pasted,
        lambda call: values_of_pasting(call) >= 0.5, at_the_threshold,
        "equal, but where a value is within 1e-6 of the threshold", cost=20, size=lambda call: 10),
)  # fmt: skip
