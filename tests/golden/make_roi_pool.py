"""Golden results and gradients of torchvision's `roi_pool`.

Run in an environment with torch and torchvision: `python tests/golden/make_roi_pool.py`.
Arrays are channels last; boxes are `(batch, num_boxes, 4)`.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
import torchvision

SIZES = {"wide": (7, 9, 3), "large": (24, 20, 2), "row": (1, 6, 2), "column": (5, 1, 2)}
SCALES = (1.0, 0.25, 0.7)
OUTPUT_SIZES = ((3, 2), (7, 7))
BATCH = 2
SPECIAL_BOXES = [
    (0, 0, 4, 4),
    (-2, -2, 2, 2),
    (-30, -30, -20, -20),
    (90, 90, 120, 110),
    (3, 3, 3, 3),
    (5, 5, 2, 3),
    (1.5, 2.5, 1.6, 30),
    (-150, -170, 160, 150),
]


def boxes_for(rng):
    """The special boxes, some with halves as corners, and any others."""
    corners = rng.uniform(-6, 40, (BATCH, 8, 2))
    corners[:, :4] = np.round(2 * corners[:, :4]) / 2
    extents = rng.exponential(8, (BATCH, 8, 2))
    extents[:, :4] = np.round(2 * extents[:, :4]) / 2
    special = np.tile(np.array(SPECIAL_BOXES)[None], (BATCH, 1, 1))
    boxes = np.concatenate([special, np.concatenate([corners, corners + extents], -1)], 1)
    return boxes.astype("float32")


def main():
    rng = np.random.default_rng(21)
    arrays = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    for name, (height, width, channels) in SIZES.items():
        # Integers, so that there are ties.
        features = rng.integers(-9, 9, size=(BATCH, height, width, channels)).astype("float32")
        boxes = boxes_for(rng)
        arrays[f"{name}/features"], arrays[f"{name}/boxes"] = features, boxes
        for scale, output_size in itertools.product(SCALES, OUTPUT_SIZES):
            shape = (*boxes.shape[:2], *output_size, channels)
            output_gradient = rng.integers(-99, 99, shape).astype("float32")
            maps = torch.tensor(features.transpose(0, 3, 1, 2).copy(), requires_grad=True)
            output = torchvision.ops.roi_pool(
                maps, [torch.tensor(b) for b in boxes], output_size, scale
            )
            upstream = torch.tensor(output_gradient.reshape(-1, *shape[2:]))
            output.backward(upstream.permute(0, 3, 1, 2))
            case = f"{name}/{scale}/{output_size[0]}"
            arrays[f"{case}/output"] = output.detach().numpy().transpose(0, 2, 3, 1).reshape(shape)
            arrays[f"{case}/output_gradient"] = output_gradient
            arrays[f"{case}/gradient"] = maps.grad.numpy().transpose(0, 2, 3, 1)
    np.savez_compressed(Path(__file__).with_name("roi_pool.npz"), **arrays)


if __name__ == "__main__":
    main()
