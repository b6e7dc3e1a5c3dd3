"""Golden features of torchvision's ResNets and FPN on an image of odd size.

Run in an environment with torch and torchvision, from the project's root:

    python -m tests.golden.make_resnet
"""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torchvision

from tests.golden.seeded_weights import seeded_state_dict

MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
STDDEV = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)


def main():
    image = np.random.default_rng(0).integers(0, 256, (1, 65, 97, 3), dtype="uint8")
    golden = {
        "image": image,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    pixels = (torch.from_numpy(image).permute(0, 3, 1, 2) / 255 - MEAN) / STDDEV
    models = {
        "resnet18": torchvision.models.resnet18(),
        "resnet50": torchvision.models.resnet50(),
        "resnet50_stride8": torchvision.models.resnet50(
            replace_stride_with_dilation=[False, True, True]
        ),
        "resnet50_v1": _move_strides(torchvision.models.resnet50()),
    }
    for name, model in models.items():
        pyramid = _features(_seed(model, name, golden), pixels)
        for level, features in pyramid.items():
            golden[f"{name}/{level}"] = _sample(features)
        if name == "resnet18":
            fpn = torchvision.ops.FeaturePyramidNetwork(
                [64, 128, 256, 512], 32, torchvision.ops.feature_pyramid_network.LastLevelMaxPool()
            )
            holder = torch.nn.ModuleDict({"fpn": fpn})
            _seed(holder, "fpn", golden)
            with torch.no_grad():
                outputs = fpn(OrderedDict(pyramid))
            for level, features in zip(
                ("P2", "P3", "P4", "P5", "P6"), outputs.values(), strict=True
            ):
                golden[f"fpn/{level}"] = _sample(features)
    np.savez_compressed(Path(__file__).parent / "resnet.npz", **golden)


def _seed(model, name, golden):
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    golden[f"{name}/shapes"] = json.dumps(shapes)
    arrays = {key: torch.from_numpy(value) for key, value in seeded_state_dict(shapes).items()}
    missing = model.load_state_dict(arrays, strict=False).missing_keys
    assert all(key.endswith("num_batches_tracked") for key in missing)
    return model.eval()


def _move_strides(model):
    """The paper's stride placement: in the first 1x1 convolution of a stage."""
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return model


@torch.no_grad()
def _features(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    pyramid = {}
    for stage in (2, 3, 4, 5):
        x = getattr(model, f"layer{stage - 1}")(x)
        pyramid[f"P{stage}"] = x
    return pyramid


def _sample(features):
    """Shape, sum of magnitudes and about 700 values of a map, channels last."""
    array = features.permute(0, 2, 3, 1).contiguous().numpy()
    step = max(1, array.size // 700) | 1
    magnitude = np.abs(array.astype("float64")).sum()
    return np.concatenate([array.shape, [magnitude, step], array.ravel()[::step]])


if __name__ == "__main__":
    main()
