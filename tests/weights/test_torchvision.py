import json
from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.backbones import ResNet, ResNet18
from kvision.weights import WeightsMismatchError, load_torchvision
from tests.golden.seeded_weights import seeded_state_dict

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "resnet.npz")


@pytest.fixture(scope="module")
def state_dict():
    return seeded_state_dict(json.loads(str(GOLDEN["resnet18/shapes"])))


@pytest.fixture
def model():
    return ResNet18()


def test_loads_everything(model, state_dict):
    report = load_torchvision(model, {**state_dict, "bn1.num_batches_tracked": np.array(7)})
    assert len(report.loaded) == len(model.weights)
    assert report.unused == ("fc.weight", "fc.bias")
    assert report.complete
    kernel = model.get_layer("stage3_block0_shortcut_conv").kernel.numpy()
    np.testing.assert_array_equal(
        kernel[0, 0], state_dict["layer2.0.downsample.0.weight"][..., 0, 0].T
    )
    norm = model.get_layer("stage5_block1_norm2")
    np.testing.assert_array_equal(
        norm.moving_variance.numpy(), state_dict["layer4.1.bn2.running_var"]
    )
    np.testing.assert_array_equal(norm.gamma.numpy(), state_dict["layer4.1.bn2.weight"])


def test_frozen_batch_normalization_takes_the_same_weights(state_dict):
    model = ResNet18(normalization="frozen_batch")
    assert len(load_torchvision(model, state_dict).loaded) == len(model.weights)
    np.testing.assert_array_equal(
        model.get_layer("stage1_norm").moving_mean.numpy(), state_dict["bn1.running_mean"]
    )


def test_nothing_is_loaded_by_halves(model, state_dict):
    damaged = dict(state_dict)
    del damaged["layer1.0.conv1.weight"]
    damaged["layer1.0.bn1.weight"] = np.ones(7, "float32")
    damaged["layer9.weight"] = np.ones(3, "float32")
    before = model.get_weights()
    with pytest.raises(WeightsMismatchError, match="nothing was loaded") as caught:
        load_torchvision(model, damaged)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    report = caught.value.report
    assert report.missing == ("layer1.0.conv1.weight",)
    assert report.unexpected == ("layer9.weight",)
    assert report.mismatched == {"layer1.0.bn1.weight": ((64,), (7,))}
    for line in (
        "1 missing:\n  layer1.0.conv1.weight",
        "1 unexpected:\n  layer9.weight",
        "layer1.0.bn1.weight: expected (64,), received (7,)",
    ):
        assert line in str(caught.value)


def test_without_strict_all_that_matches_is_loaded(model, state_dict):
    damaged = {**state_dict, "conv1.weight": np.ones((64, 3, 3, 3), "float32")}
    before = model.get_layer("stage1_conv").kernel.numpy()
    report = load_torchvision(model, damaged, strict=False)
    assert report.mismatched == {"conv1.weight": ((64, 3, 7, 7), (64, 3, 3, 3))}
    np.testing.assert_array_equal(model.get_layer("stage1_conv").kernel.numpy(), before)
    np.testing.assert_array_equal(
        model.get_layer("stage1_norm").gamma.numpy(), state_dict["bn1.weight"]
    )


def test_refuses_models_torchvision_does_not_have():
    tiny = {"depths": (1, 1, 1, 1), "widths": (4, 4, 4, 4)}
    with pytest.raises(ValueError, match='version="v1.5"'):
        load_torchvision(ResNet(**tiny), {})
    with pytest.raises(ValueError, match="group"):
        load_torchvision(ResNet(**tiny, version="v1.5", normalization="group"), {})
    with pytest.raises(ValueError, match="Received: Dense"):
        load_torchvision(keras.layers.Dense(1), {})
