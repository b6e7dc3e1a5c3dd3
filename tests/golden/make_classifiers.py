"""Golden logits of torchvision's VGGs, ResNets and MobileNet v2 on three photographs.

The photographs are cut to 256 x 224 pixels, of which VGG's adaptive pooling makes 7 x 7 parts of
unequal size.

Run in an environment with torch, torchvision and Pillow, from the project's root:

    python -m tests.golden.make_classifiers ../shared/data/coco_tiny/images
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision

from tests.golden.photographs import photographs
from tests.golden.seeded_weights import seeded_state_dict

MODELS = (
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "mobilenet_v2",
)
MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
STDDEV = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)


@torch.no_grad()
def main(folder):
    images = photographs(folder, 256, 224)
    golden = {
        "pixels": np.int64(images.sum(dtype="int64")),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    x = (torch.tensor(images).permute(0, 3, 1, 2) / 255 - MEAN) / STDDEV
    for name in MODELS:
        model = torchvision.models.get_model(name, weights=None)
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        arrays = {key: torch.from_numpy(value) for key, value in seeded_state_dict(shapes).items()}
        missing = model.load_state_dict(arrays, strict=False).missing_keys
        assert all(key.endswith("num_batches_tracked") for key in missing)
        logits = model.eval()(x).numpy()
        print(name, logits.std(), logits.std(axis=0).mean())
        golden[f"{name}/shapes"] = json.dumps(shapes)
        golden[f"{name}/logits"] = logits
    np.savez_compressed(Path(__file__).parent / "classifiers.npz", **golden)


if __name__ == "__main__":
    main(sys.argv[1])
