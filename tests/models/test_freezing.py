"""What is frozen when a model is saved is frozen when it is loaded, and training goes on."""

import keras
import pytest

from kvision.backbones import ResNet
from tests.models.tiny_faster_rcnn import TinyBackbone, squares, tiny_faster_rcnn


def resnet(**kwargs):
    return ResNet((1, 1, 1, 1), block="basic", widths=(4, 4, 8, 8), normalization="group", **kwargs)


# No proposal is left out and none is drawn: TensorFlow's convolutions round now one way, now
# another, and which of two equal boxes comes first turns on that.
ALL_OF_THEM = {
    "rpn_pre_nms_top_n_train": 2000,
    "rpn_post_nms_top_n_train": 2000,
    "rpn_nms_threshold": 1.0,
    "anchors_per_image": 2000,
    "rois_per_image": 2000,
}


def freeze(name):
    return lambda model: setattr(getattr(model, name), "trainable", False)


def freeze_two_layers(model):
    for layer in model.backbone.layers[1:4:2]:
        layer.trainable = False
    next(iter(model.fpn.laterals.values())).trainable = False


def freeze_all_but_one(model):
    model.backbone.trainable = False
    next(layer for layer in model.backbone.layers[::-1] if layer.weights).trainable = True


def thaw(model):
    for layer in model.backbone.layers:
        layer.trainable = True


@pytest.mark.parametrize(
    ("backbone", "change"),
    [
        (resnet, freeze_two_layers),
        (resnet, freeze_all_but_one),
        (TinyBackbone, freeze("backbone")),
        (TinyBackbone, freeze("rpn_head")),
    ],
)
def test_a_loaded_model_trains_on_as_the_saved_one(tmp_path, backbone, change):
    check_training_goes_on(tmp_path, backbone(), change)


def test_thawed_stages_stay_thawed(tmp_path):
    check_training_goes_on(tmp_path, resnet(frozen_stages=3), thaw)


def check_training_goes_on(tmp_path, backbone, change):
    images, targets = squares(2)
    model = tiny_faster_rcnn(backbone=backbone, anchor_sizes=(8, 16, 32, 64), **ALL_OF_THEM)
    before = len(model.trainable_variables)
    change(model)
    assert len(model.trainable_variables) != before
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), evaluator=())
    model.train_on_batch(images, targets)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    flags = [
        [variable.trainable for variable in m.variables if variable.dtype == "float32"]
        for m in (model, loaded)
    ]
    assert flags[0] == flags[1]
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    assert int(loaded.optimizer.iterations) == 1
    for _ in range(2):  # the second depends on the momentum
        losses = [m.train_on_batch(images, targets, return_dict=True) for m in (model, loaded)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # without the momentum, 4e-3


@pytest.mark.parametrize("frozen_stages", [0, 2])
def test_a_backbone_alone_keeps_it(frozen_stages):
    backbone = resnet(frozen_stages=frozen_stages)
    backbone.get_layer("stage5_block0_conv1").trainable = False
    backbone.get_layer("stage1_conv").trainable = True
    again = ResNet.from_config(backbone.get_config())
    assert [layer.trainable for layer in again.layers] == [
        layer.trainable for layer in backbone.layers
    ]
    assert len(again.trainable_variables) == len(backbone.trainable_variables)
    assert again.frozen_stages == frozen_stages
