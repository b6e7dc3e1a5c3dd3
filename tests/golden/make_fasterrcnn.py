"""Golden outputs of torchvision's fasterrcnn_resnet50_fpn on three photographs.

The photographs are of sizes that are multiples of 32 and go to backbone, RPN and heads as they
are: torchvision's own resizing is left out, so that both libraries see the same pixels.

Detection takes some thousand yes-or-no decisions (is this IoU above 0.7?), and with random
weights a few fall within the rounding of float32. Only photographs on which torchvision agrees
with itself, when the pixels are shaken by about that much, can be asked of another library.

Run in an environment with torch, torchvision and Pillow, from the project's root:

    python -m tests.golden.make_fasterrcnn ../shared/data/coco_tiny/images
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.models.detection.image_list import ImageList

from tests.golden.seeded_weights import seeded_state_dict

CANDIDATES = ("000000000133", "000000000208", "000000000321", "000000000387", "000000000443")
COUNT = 3
SHAKES = 6
LEVELS = ("P2", "P3", "P4", "P5", "P6")
MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
STDDEV = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)


@torch.no_grad()
def main(folder):
    model, shapes = seeded(torchvision.models.detection.fasterrcnn_resnet50_fpn)
    golden = {
        "shapes": json.dumps(shapes),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    chosen = chosen_photographs(folder, lambda image, shake=None: _outputs(model, image, shake))
    for name, outputs in chosen.items():
        golden |= {f"{name}/{key}": value for key, value in outputs.items()}
    golden["photographs"] = json.dumps(list(chosen))
    np.savez_compressed(Path(__file__).parent / "fasterrcnn.npz", **golden)


def seeded(make):
    """A detector of torchvision with seeded weights, and the shapes of its variables by name."""
    model = make(weights=None, weights_backbone=None, num_classes=91)
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    arrays = {name: torch.from_numpy(value) for name, value in seeded_state_dict(shapes).items()}
    missing = model.load_state_dict(arrays, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return model.eval(), shapes


def chosen_photographs(folder, outputs_of):
    """Outputs of the first photographs, by name, on which torchvision agrees with itself.

    `outputs_of(image, shake)` gives the outputs for an image, as it is or shaken by a seed.
    """
    chosen = {}
    for name in CANDIDATES:
        image = np.asarray(Image.open(Path(folder) / f"{name}.jpg").convert("RGB"))
        outputs = outputs_of(image)
        stable = all(_same_detections(outputs, outputs_of(image, shake)) for shake in range(SHAKES))
        print(name, "stable" if stable else "hangs on rounding")
        if stable and len(chosen) < COUNT:
            chosen[name] = outputs
    return chosen


def images_of(image, shake=None):
    """An image as torchvision's detectors take it after their own resizing."""
    x = (torch.tensor(image).permute(2, 0, 1)[None] / 255 - MEAN) / STDDEV
    if shake is not None:
        x = x + 1e-5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(shake))
    return ImageList(x, [image.shape[:2]])


def _same_detections(first, second):
    if not np.array_equal(first["labels"], second["labels"]):
        return False
    return np.abs(first["boxes"] - second["boxes"]).max() < 5e-3


def _outputs(model, image, shake=None):
    images = images_of(image, shake)
    features = model.backbone(images.tensors)
    logits, deltas = model.rpn.head(list(features.values()))
    proposals, _ = model.rpn(images, features)
    detections, _ = model.roi_heads(features, proposals, images.image_sizes)
    chosen = proposals[0][:: len(proposals[0]) // 16][:16]
    pooled = model.roi_heads.box_roi_pool(features, [chosen], images.image_sizes)
    class_logits, box_deltas = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))

    outputs = {key: value.numpy() for key, value in detections[0].items()}
    outputs |= {
        "pixels": np.int64(image.sum(dtype="int64")),
        "proposals": chosen.numpy(),
        "class_logits": class_logits.numpy(),
        "box_deltas": box_deltas.numpy(),
    }
    for level, feature, logit, delta in zip(LEVELS, features.values(), logits, deltas, strict=True):
        outputs[f"pyramid/{level}"] = _sample(feature)
        outputs[f"objectness/{level}"] = _sample(logit)
        outputs[f"rpn_deltas/{level}"] = _sample(delta)
    return outputs


def _sample(features):
    """Shape, sum of magnitudes, step and about 500 values of a map, channels last."""
    array = features.permute(0, 2, 3, 1).contiguous().numpy()
    step = max(1, array.size // 500) | 1
    magnitude = np.abs(array.astype("float64")).sum()
    return np.concatenate([array.shape, [magnitude, step], array.ravel()[::step]])


if __name__ == "__main__":
    main(sys.argv[1])
