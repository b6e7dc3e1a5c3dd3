"""DeepLab v3 and v3+ with the weights of PyTorch's, on photographs (golden/make_deeplab.py)."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.backbones import ResNet50, ResNet101
from kvision.models.segmentation import DeepLabV3, DeepLabV3Plus
from kvision.weights import load_torchvision
from kvision.weights.layouts import CONVOLUTION
from kvision.weights.loading import Target, load, torch_targets
from kvision.weights.torchvision import _backbone_targets
from tests.golden.photographs import photographs
from tests.golden.seeded_weights import seeded_state_dict

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "deeplab.npz")
SIZE = (129, 161)
pytestmark = pytest.mark.conformance


@pytest.fixture(scope="module")
def images(shared_data):
    images = photographs(shared_data / "coco_tiny" / "images", *SIZE)
    assert images.sum(dtype="int64") == GOLDEN["pixels"], "the photographs were decoded otherwise"
    return images


def weights_of(name):
    return seeded_state_dict(json.loads(str(GOLDEN[f"{name}/shapes"])))


def assert_equal_logits(name, model, images):
    logits = keras.ops.convert_to_numpy(model(images.astype("float32"), training=False))
    assert logits.shape == (3, *SIZE, 21)
    golden = GOLDEN[f"{name}/logits"]
    difference = np.abs(logits[:, ::8, ::8] - golden).max() / np.abs(golden).max()
    print(f"{name}: {difference:.1e} of the largest logit")
    assert difference <= 1e-4
    # The photographs themselves differ by far more.
    assert np.abs(golden[0] - golden[1]).max() > 0.1 * np.abs(golden).max()


@pytest.mark.parametrize(
    ("name", "resnet"), [("deeplabv3_resnet50", ResNet50), ("deeplabv3_resnet101", ResNet101)]
)
def test_version_3(name, resnet, images):
    backbone = resnet(version="v1.5", output_stride=8)
    model = DeepLabV3(backbone, 21, head_filters=256, dropout=0.5)
    report = load_torchvision(model, weights_of(name))
    assert report.complete
    assert_equal_logits(name, model, images)


def test_version_3_plus(images):
    backbone = ResNet50(version="v1.5", output_stride=16)
    model = DeepLabV3Plus(backbone, 21)
    aspp = model.aspp
    targets = _backbone_targets(backbone, "backbone.")
    for index, kernel in enumerate([aspp.point_kernel, *aspp.branch_kernels]):
        part = slice(256 * index, 256 * (index + 1))
        targets[f"branches.{index}.0.weight"] = Target(kernel, CONVOLUTION)
        targets |= torch_targets(aspp.branch_norm, f"branches.{index}.1", part=part)
    targets["pooling.0.weight"] = Target(aspp.pooling_kernel, CONVOLUTION)
    targets["projection.0.weight"] = Target(aspp.projection_kernel, CONVOLUTION)
    targets |= torch_targets(aspp.pooling_norm, "pooling.1")
    targets |= torch_targets(aspp.projection_norm, "projection.1")
    targets |= torch_targets(model.classifier, "classifier")
    for layers, module in [
        (model.reduction, "reduction"),
        (model.decoder[0], "decoder.0"),
        (model.decoder[1], "decoder.1"),
    ]:
        targets |= torch_targets(layers.layers[0], f"{module}.0")
        targets |= torch_targets(layers.layers[1], f"{module}.1")
    arrays = weights_of("deeplabv3plus_resnet50")
    assert load("the test", model, targets, arrays, leftovers=(), strict=True).complete
    assert_equal_logits("deeplabv3plus_resnet50", model, images)
