import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.backbones import VGG, MobileNetV2, ResNet, ResNet18, ResNet50
from kvision.models.classification import ImageClassifier
from kvision.models.detection import FasterRCNN
from kvision.models.instances import MaskRCNN
from kvision.weights import WeightsMismatchError, load_torchvision
from kvision.weights.layouts import dense_after_flatten
from tests.golden.seeded_weights import seeded_state_dict

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "resnet.npz")
CLASSIFIERS = np.load(Path(__file__).parents[1] / "golden" / "classifiers.npz")
DETECTOR_SHAPES = json.loads(
    str(np.load(Path(__file__).parents[1] / "golden" / "fasterrcnn.npz")["shapes"])
)


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
    with pytest.raises(ValueError, match='padding="symmetric"'):
        load_torchvision(MobileNetV2(alpha=0.1, padding="same"), {})
    with pytest.raises(ValueError, match="normalize_pixels=True"):
        load_torchvision(VGG((1, 1, 1, 1, 1), widths=(4,) * 5, normalize_pixels="caffe"), {})
    with pytest.raises(ValueError, match="Received: Dense"):
        load_torchvision(keras.layers.Dense(1), {})
    with pytest.raises(ValueError, match=r"hidden_units=\(8,\)"):
        load_torchvision(ImageClassifier(MobileNetV2(alpha=0.1), 3, hidden_units=(8,)), {})


def test_a_backbone_leaves_the_classifier():
    shapes = json.loads(str(CLASSIFIERS["mobilenet_v2/shapes"]))
    report = load_torchvision(MobileNetV2(), seeded_state_dict(shapes))
    assert report.complete
    assert report.unused == ("classifier.1.weight", "classifier.1.bias")


@pytest.fixture(scope="module")
def detector():
    backbone = ResNet50(version="v1.5", normalization="frozen_batch")
    return FasterRCNN(backbone, num_classes=90)


def test_parameters_of_the_detector(detector):
    assert sum(int(np.prod(weight.shape)) for weight in detector.trainable_weights) == 41_755_286


def test_detectors_of_the_old_names(detector):
    old = {
        re.sub(r"(_blocks\.\d)\.0|(head\.conv)\.0\.0", r"\1\2", name): array
        for name, array in seeded_state_dict(DETECTOR_SHAPES).items()
    }
    assert "rpn.head.conv.weight" in old
    assert "backbone.fpn.inner_blocks.3.weight" in old
    assert load_torchvision(detector, old).complete


def test_another_number_of_classes(detector):
    """All but the two predictors is loaded: the start of fine-tuning."""
    few = FasterRCNN(detector.backbone, num_classes=4)
    state_dict = seeded_state_dict(DETECTOR_SHAPES)
    with pytest.raises(WeightsMismatchError):
        load_torchvision(few, state_dict)
    report = load_torchvision(few, state_dict, strict=False)
    predictor = "roi_heads.box_predictor"
    assert report.mismatched == {
        f"{predictor}.cls_score.weight": ((5, 1024), (91, 1024)),
        f"{predictor}.cls_score.bias": ((5,), (91,)),
        f"{predictor}.bbox_pred.weight": ((20, 1024), (364, 1024)),
        f"{predictor}.bbox_pred.bias": ((20,), (364,)),
    }
    np.testing.assert_array_equal(
        few.rpn_head.conv.bias.numpy(), state_dict["rpn.head.conv.0.0.bias"]
    )


@pytest.fixture(scope="module")
def small_mask_rcnn():
    backbone = ResNet((1,) * 4, widths=(4,) * 4, version="v1.5", normalization="frozen_batch")
    return MaskRCNN(backbone, 3, fpn_filters=4, box_head_units=4, mask_head_filters=4)


def test_masks_of_the_old_names(small_mask_rcnn):
    names = load_torchvision(small_mask_rcnn, {}, strict=False).missing
    nothing = dict.fromkeys(names, np.zeros(()))
    shapes = load_torchvision(small_mask_rcnn, nothing, strict=False).mismatched
    state_dict = seeded_state_dict({name: expected for name, (expected, _) in shapes.items()})
    old = {
        re.sub(r"(mask_head)\.(\d)\.0\.", lambda m: f"{m[1]}.mask_fcn{int(m[2]) + 1}.", name): array
        for name, array in state_dict.items()
    }
    assert "roi_heads.mask_head.mask_fcn4.bias" in old
    assert load_torchvision(small_mask_rcnn, old).complete
    for index, conv in enumerate(small_mask_rcnn.mask_head.convs):
        expected = state_dict[f"roi_heads.mask_head.{index}.0.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(conv.kernel), expected)


def test_torchvision_has_no_c4(small_mask_rcnn):
    c4 = MaskRCNN(
        small_mask_rcnn.backbone, 3, fpn_filters=None, anchor_sizes=((32, 64),), mask_head_convs=0
    )
    with pytest.raises(ValueError, match="fpn_filters=None"):
        load_torchvision(c4, {})


def test_flattened_maps_are_reordered():
    """A dense layer behind a flattened map gives the same sums in both orders."""
    rng = np.random.default_rng(0)
    maps, kernel = rng.normal(size=(2, 3, 5)), rng.normal(size=(4, 5 * 2 * 3))
    expected = kernel @ maps.transpose(2, 0, 1).ravel()
    layout = dense_after_flatten(2, 3)
    assert layout.source_shape((30, 4)) == (4, 30)
    np.testing.assert_allclose(maps.ravel() @ layout.convert(kernel), expected)
