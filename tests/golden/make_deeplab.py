"""Golden logits of DeepLab v3 and v3+ on three photographs.

Version 3 is torchvision's, on ResNet-50 and ResNet-101. Version 3+, which torchvision lacks, is
built here of torchvision's ResNet-50 and of PyTorch's own modules, one for each box of the paper's
figure: a convolution a branch, the image's mean spread over the map, all concatenated. Every
eighth logit in each direction is kept.

Run in an environment with torch, torchvision and Pillow, from the project's root:

    python -m tests.golden.make_deeplab ../shared/data/coco_tiny/images
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional

from tests.golden.photographs import photographs
from tests.golden.seeded_weights import seeded_state_dict

SIZE = (129, 161)
MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
STDDEV = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)


def conv_norm_relu(channels, filters, size, rate=1):
    padding = rate * (size // 2)
    convolution = nn.Conv2d(channels, filters, size, padding=padding, dilation=rate, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(filters), nn.ReLU())


class DeepLabV3Plus(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = torchvision.models.resnet50(
            replace_stride_with_dilation=[False, False, True]
        )
        self.backbone.fc = nn.Identity()
        rates = (6, 12, 18)
        self.branches = nn.ModuleList(
            [conv_norm_relu(2048, 256, 1), *(conv_norm_relu(2048, 256, 3, r) for r in rates)]
        )
        self.pooling = conv_norm_relu(2048, 256, 1)
        self.projection = conv_norm_relu(1280, 256, 1)
        self.reduction = conv_norm_relu(256, 48, 1)
        self.decoder = nn.ModuleList([conv_norm_relu(304, 256, 3), conv_norm_relu(256, 256, 3)])
        self.classifier = nn.Conv2d(256, 21, 1)

    def forward(self, x):
        size = x.shape[2:]
        net = self.backbone
        fine = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x)))))
        coarse = net.layer4(net.layer3(net.layer2(fine)))
        mean = self.pooling(coarse.mean((2, 3), keepdim=True)).expand(-1, -1, *coarse.shape[2:])
        coarse = torch.cat([*(branch(coarse) for branch in self.branches), mean], 1)
        coarse = enlarge(self.projection(coarse), fine.shape[2:])
        y = torch.cat([coarse, self.reduction(fine)], 1)
        for convolution in self.decoder:
            y = convolution(y)
        return enlarge(self.classifier(y), size)


def enlarge(maps, size):
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def torchvision_model(name):
    return torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=21, aux_loss=False
    )


MODELS = {
    "deeplabv3_resnet50": lambda: torchvision_model("deeplabv3_resnet50"),
    "deeplabv3_resnet101": lambda: torchvision_model("deeplabv3_resnet101"),
    "deeplabv3plus_resnet50": DeepLabV3Plus,
}


@torch.no_grad()
def main(folder):
    images = photographs(folder, *SIZE)
    golden = {
        "pixels": np.int64(images.sum(dtype="int64")),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    x = (torch.tensor(images).permute(0, 3, 1, 2) / 255 - MEAN) / STDDEV
    for name, make in MODELS.items():
        model = make()
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        arrays = {key: torch.from_numpy(value) for key, value in seeded_state_dict(shapes).items()}
        missing = model.load_state_dict(arrays, strict=False).missing_keys
        assert all(key.endswith("num_batches_tracked") for key in missing)
        logits = model.eval()(x)
        logits = (logits["out"] if isinstance(logits, dict) else logits).permute(0, 2, 3, 1)
        print(name, logits.std(), logits.std(0).mean())
        golden[f"{name}/shapes"] = json.dumps(shapes)
        golden[f"{name}/logits"] = logits[:, ::8, ::8].numpy()
    np.savez_compressed(Path(__file__).parent / "deeplab.npz", **golden)


if __name__ == "__main__":
    main(sys.argv[1])
