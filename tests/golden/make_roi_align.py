"""Golden results and gradients of torchvision's `roi_align` and `MultiScaleRoIAlign`.

Run in an environment with torch and torchvision: `python tests/golden/make_roi_align.py`.
Arrays are channels last; boxes are `(batch, num_boxes, 4)`.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
import torchvision

SIZES = {"wide": (7, 9, 3), "large": (24, 20, 2), "row": (1, 6, 2), "column": (5, 1, 2)}
SCALES = (1.0, 0.25, 0.7)
SAMPLING_RATIOS = (0, 1, 2, 3)
OUTPUT_SIZE = (3, 2)
BATCH = 2
SPECIAL_BOXES = [
    (0, 0, 4, 4),
    (-2, -2, 2, 2),
    (-30, -30, -20, -20),
    (90, 90, 120, 110),
    (3, 3, 3, 3),
    (0, 0, 0, 0),
    (5, 5, 2, 3),
    (-1, -1, 1, 1),
    (1.5, 2.5, 1.6, 30),
    (-150, -170, 160, 150),
]


def boxes_for(rng):
    corners = rng.uniform(-6, 40, (BATCH, 8, 2))
    extents = rng.exponential(8, (BATCH, 8, 2))
    special = np.tile(np.array(SPECIAL_BOXES)[None], (BATCH, 1, 1))
    boxes = np.concatenate([special, np.concatenate([corners, corners + extents], -1)], 1)
    return boxes.astype("float32")


def output_gradient_for(rng, boxes, channels):
    """Small, for torchvision's own float32 sums over all boxes of a cell to be exact to 1e-5."""
    return rng.normal(0, 0.2, (*boxes.shape[:2], *OUTPUT_SIZE, channels)).astype("float32")


def run(function, features, boxes, output_gradient):
    """Result and feature gradients of a channels-first function, channels last."""
    maps = [torch.tensor(f.transpose(0, 3, 1, 2).copy(), requires_grad=True) for f in features]
    output = function(maps, [torch.tensor(b) for b in boxes])
    gradient = torch.tensor(output_gradient.reshape(-1, *output_gradient.shape[2:]))
    output.backward(gradient.permute(0, 3, 1, 2))
    output = output.detach().numpy().transpose(0, 2, 3, 1).reshape(output_gradient.shape)
    return output, [m.grad.numpy().transpose(0, 2, 3, 1) for m in maps]


def main():
    rng = np.random.default_rng(20)
    arrays = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    for name, (height, width, channels) in SIZES.items():
        features = rng.normal(size=(BATCH, height, width, channels)).astype("float32")
        boxes = boxes_for(rng)
        output_gradient = output_gradient_for(rng, boxes, channels)
        arrays[f"{name}/features"] = features
        arrays[f"{name}/boxes"] = boxes
        arrays[f"{name}/output_gradient"] = output_gradient
        for scale, ratio, aligned in itertools.product(SCALES, SAMPLING_RATIOS, (True, False)):

            def align(maps, rois, scale=scale, ratio=ratio, aligned=aligned):
                return torchvision.ops.roi_align(maps[0], rois, OUTPUT_SIZE, scale, ratio, aligned)

            output, gradients = run(align, [features], boxes, output_gradient)
            case = f"{name}/{scale}/{ratio}/{int(aligned)}"
            arrays[f"{case}/output"], arrays[f"{case}/gradient"] = output, gradients[0]

    sizes = {2: 24, 3: 12, 4: 6, 5: 3}
    pyramid = {k: rng.normal(size=(BATCH, n, n, 3)).astype("float32") for k, n in sizes.items()}
    # Boxes of every level of a canonical size of 48 pixels, and sides on the very borders.
    sides = np.array([10, 12, 23.99, 24, 47.9, 48, 60, 95.9, 96, 96, 200, 20])
    corners = rng.integers(0, 60, (BATCH, len(sides), 2))
    boxes = np.concatenate([corners, corners + sides[:, None]], -1).astype("float32")
    output_gradient = output_gradient_for(rng, boxes, 3)
    pooler = torchvision.ops.MultiScaleRoIAlign(
        [f"P{k}" for k in sizes], OUTPUT_SIZE, 2, canonical_scale=48, canonical_level=4
    )

    def pool(maps, rois):
        named = {f"P{k}": features for k, features in zip(sizes, maps, strict=True)}
        return pooler(named, rois, [(96, 96)] * BATCH)

    output, gradients = run(pool, list(pyramid.values()), boxes, output_gradient)
    arrays["pyramid/boxes"], arrays["pyramid/output_gradient"] = boxes, output_gradient
    arrays["pyramid/output"] = output
    for level, gradient in zip(sizes, gradients, strict=True):
        arrays[f"pyramid/P{level}"], arrays[f"pyramid/P{level}/gradient"] = pyramid[level], gradient
    np.savez_compressed(Path(__file__).with_name("roi_align.npz"), **arrays)


if __name__ == "__main__":
    main()
