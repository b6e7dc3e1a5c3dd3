"""Golden outputs of torchvision's maskrcnn_resnet50_fpn on three photographs.

As `make_fasterrcnn.py`, with the masks of the detections, pasted into the photograph, and the
probabilities themselves of a few.

Run in an environment with torch, torchvision and Pillow, from the project's root:

    python -m tests.golden.make_maskrcnn ../shared/data/coco_tiny/images
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision.models.detection.roi_heads import paste_masks_in_image

from tests.golden.make_fasterrcnn import chosen_photographs, images_of, seeded

KEPT = 8  # masks whose probabilities are stored


@torch.no_grad()
def main(folder):
    model, shapes = seeded(torchvision.models.detection.maskrcnn_resnet50_fpn)
    golden = {
        "shapes": json.dumps(shapes),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    chosen = chosen_photographs(folder, lambda image, shake=None: _outputs(model, image, shake))
    for name, outputs in chosen.items():
        golden |= {f"{name}/{key}": value for key, value in outputs.items()}
    golden["photographs"] = json.dumps(list(chosen))
    np.savez_compressed(Path(__file__).parent / "maskrcnn.npz", **golden)


def _outputs(model, image, shake):
    images = images_of(image, shake)
    features = model.backbone(images.tensors)
    proposals, _ = model.rpn(images, features)
    (detections,), _ = model.roi_heads(features, proposals, images.image_sizes)
    masks = detections.pop("masks")
    pasted = paste_masks_in_image(masks, detections["boxes"], image.shape[:2])[:, 0] > 0.5
    return {
        **{key: value.numpy() for key, value in detections.items()},
        "pixels": np.int64(image.sum(dtype="int64")),
        "masks": masks[:KEPT, 0].numpy(),
        "pasted": np.packbits(pasted.numpy(), axis=-1),
    }


if __name__ == "__main__":
    main(sys.argv[1])
