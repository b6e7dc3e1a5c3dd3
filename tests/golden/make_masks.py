"""Golden crops and pastes of torchvision's Mask R-CNN.

Run in an environment with torch and torchvision: `python tests/golden/make_masks.py`.
"""

from pathlib import Path

import numpy as np
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

IMAGE_SIZES = {"wide": (23, 40), "high": (57, 31)}
INSTANCES, BOXES, CELLS = 4, 12, 14


def label_map_for(rng, height, width):
    """Ellipses, later ones over earlier, with ids from 1."""
    y, x = np.mgrid[:height, :width]
    label_map = np.zeros((height, width), "int32")
    for i in range(INSTANCES):
        centre, radii = rng.uniform(0, [height, width]), rng.uniform(3, 14, 2)
        inside = ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1
        label_map[inside] = i + 1
    return label_map


def boxes_for(rng, height, width):
    """Boxes around anywhere, some over the edge of the image, some with halves as corners."""
    centre = rng.uniform(0, [width, height], (BOXES, 2))
    extent = rng.uniform(0.3, 1.0, (BOXES, 2)) * rng.choice([3, 20, 40], (BOXES, 1))
    boxes = np.concatenate([centre - extent / 2, centre + extent / 2], axis=-1)
    boxes[::2] = np.round(2 * boxes[::2]) / 2 + np.array([0, 0, 0.5, 0.5])
    return boxes.astype("float32")


def main():
    """Writes `masks.npz` beside this file."""
    rng = np.random.default_rng(0)
    golden = {}
    for name, (height, width) in IMAGE_SIZES.items():
        label_map = label_map_for(rng, height, width)
        boxes = boxes_for(rng, height, width)
        rows = rng.integers(0, INSTANCES, BOXES).astype("int32")
        masks = label_map == np.arange(1, INSTANCES + 1)[:, None, None]
        crops = project_masks_on_boxes(
            torch.from_numpy(masks.astype("uint8")),
            torch.from_numpy(boxes),
            torch.from_numpy(rows).to(torch.int64),
            CELLS,
        )
        # Smooth ones, as networks give.
        cells = rng.normal(size=(BOXES, 1, 4, 4)).astype("float32")
        probabilities = torch.nn.functional.interpolate(
            torch.from_numpy(cells), size=(CELLS, CELLS), mode="bicubic"
        ).sigmoid()
        pasted = paste_masks_in_image(probabilities, torch.from_numpy(boxes), (height, width))
        golden |= {
            f"{name}/label_map": label_map,
            f"{name}/boxes": boxes,
            f"{name}/rows": rows,
            f"{name}/crops": crops.numpy(),
            f"{name}/probabilities": probabilities[:, 0].numpy(),
            f"{name}/pasted": pasted[:, 0].numpy(),
        }
    np.savez_compressed(Path(__file__).with_name("masks.npz"), **golden)


if __name__ == "__main__":
    main()
