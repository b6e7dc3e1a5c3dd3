"""Every published model by its name: one flat table.

`kvision.list_models()` lists the names, `kvision.create(name, ...)` makes one. The contract test of
the catalog trains, saves, exports and mistreats what stands here; nothing else has to be written
for a new model.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import keras

from kvision import backbones
from kvision.models.classification import ImageClassifier
from kvision.models.detection import FasterRCNN
from kvision.models.image_model import ImageModel
from kvision.models.instances import DeepWatershed, MaskRCNN
from kvision.models.segmentation import (
    DeepLabV3,
    DeepLabV3Plus,
    SegNet,
    SegNetBasic,
    UNet,
)


class Entry(NamedTuple):
    """A model of the catalog.

    Attributes:
        model: Class of the model.
        arguments: Makes the arguments of the published model; a backbone as what makes it, for
            `create` may be given another.
        small: Makes those that differ in a model of the same structure, narrow enough to train in
            seconds.
        family: What it shares its structure with; the default test run takes one of each.
        paper: Authors and year.
        parameters: Numbers of trainable and of other values of the published model.
        optimizer: Makes the optimizer with which the small model learns a batch in 40 steps.
        image_size: Side of the square images of that batch.
        no_gradient: Part of the name of a variable -> why it gets next to no gradient.
        no_jit: Why XLA does not compile its training, or `None`.
        by_class: Names of the arguments that are of the published classes, and left at their
            defaults where `num_classes` is given.
    """

    model: type[ImageModel]
    arguments: Callable[[], dict]
    small: Callable[[], dict]
    family: str
    paper: str
    parameters: tuple[int, int]
    optimizer: Callable[[], keras.optimizers.Optimizer] = lambda: keras.optimizers.Adam(2e-3)
    image_size: int = 64
    no_gradient: dict[str, str] = {}
    no_jit: str | None = None
    by_class: tuple[str, ...] = ()

    @property
    def task(self):
        """`"classification"`, `"segmentation"`, `"detection"` or `"instances"`."""
        return self.model.task


_RESNET = "He, Zhang, Ren and Sun, 2015"
_VGG = "Simonyan and Zisserman, 2014"
_SEGNET = "Badrinarayanan, Kendall and Cipolla, 2015"
_FAINT = {
    f"mask_head/{layer}": "the masks' last convolution starts from N(0, 0.001^2), which scales "
    "what reaches the layers before it; of a bias' gradient, the two signs mostly cancel besides"
    for layer in ("conv_1", "upsampling")
}
_MASK_RCNN = "He, Gkioxari, Dollár and Girshick, 2017"
_C4 = {  # detectron2's numbers
    "fpn_filters": None,
    "anchor_sizes": ((32, 64, 128, 256, 512),),
    "rpn_pre_nms_top_n": 6000,
    "rpn_pre_nms_top_n_train": 12000,
    "roi_output_size": 14,
    "roi_sampling_ratio": 0,
    "roi_aligned": True,
    "mask_head_convs": 0,
}
_UNFELT = "a bias before batch normalisation"


def _resnet(backbone, parameters, **small):
    small = {"widths": (8, 16, 16, 16), **small}
    return Entry(
        ImageClassifier,
        lambda: {"backbone": backbone, "num_classes": 1000},
        lambda: {"backbone": backbone(**small), "num_classes": 10},
        "resnet",
        _RESNET,
        parameters,
    )


def _vgg(backbone, parameters):
    return Entry(
        ImageClassifier,
        lambda: {
            "backbone": backbone,
            "num_classes": 1000,
            "pool_size": 7,
            "hidden_units": (4096, 4096),
            "dropout": 0.5,
        },
        lambda: {
            "backbone": backbone(widths=(8, 16, 16, 16, 16)),
            "num_classes": 10,
            "hidden_units": (32, 32),
            "dropout": 0.0,
        },
        "vgg",
        _VGG,
        parameters,
        optimizer=lambda: keras.optimizers.Adam(1e-3),
    )


def _dilated_resnet50():
    return backbones.ResNet50(output_stride=16, multi_grid=(1, 2, 4))


def _small_backbone(**arguments):
    return backbones.ResNet((1, 1, 1, 1), block="basic", widths=(8, 16, 16, 16), **arguments)


_DETECTION_BACKBONE = functools.partial(
    backbones.ResNet50, version="v1.5", normalization="frozen_batch"
)


def _small_detector():
    return {
        "backbone": _small_backbone(normalization="group"),
        "num_classes": 10,
        "fpn_filters": 16,
        "anchor_sizes": (8, 16, 24, 32, 48),
        "rpn_pre_nms_top_n": 50,
        "rpn_pre_nms_top_n_train": 50,
        "rpn_post_nms_top_n": 20,
        "rpn_post_nms_top_n_train": 20,
        "anchors_per_image": 64,
        "box_head_units": 32,
        "rois_per_image": 16,
        "score_threshold": 0.0,
        "max_detections": 10,
    }


_UNPOOLED = {
    level: "no box of the batch is pooled from this level, so that its gradient comes "
    "through the proposals alone, whose weights start near zero"
    for level in ("fpn/output_P3", "fpn/output_P4", "fpn/output_P5")
}


CATALOG = {
    "resnet18": _resnet(backbones.ResNet18, (11_689_512, 9_600)),
    "resnet34": _resnet(backbones.ResNet34, (21_797_672, 17_024)),
    "resnet50": _resnet(backbones.ResNet50, (25_557_032, 53_120)),
    "resnet101": _resnet(backbones.ResNet101, (44_549_160, 105_344)),
    "resnet152": _resnet(backbones.ResNet152, (60_192_808, 151_424)),
    "vgg11": _vgg(backbones.VGG11, (132_863_336, 0)),
    "vgg13": _vgg(backbones.VGG13, (133_047_848, 0)),
    "vgg16": _vgg(backbones.VGG16, (138_357_544, 0)),
    "vgg19": _vgg(backbones.VGG19, (143_667_240, 0)),
    "xception": Entry(
        ImageClassifier,
        lambda: {"backbone": backbones.Xception, "num_classes": 1000},
        lambda: {"backbone": backbones.Xception(alpha=0.05, middle_blocks=1), "num_classes": 10},
        "xception",
        "Chollet, 2016",
        (22_855_952, 54_528),
    ),
    "mobilenet_v2": Entry(
        ImageClassifier,
        lambda: {"backbone": backbones.MobileNetV2, "num_classes": 1000, "dropout": 0.2},
        lambda: {
            "backbone": backbones.MobileNetV2(alpha=0.1, last_filters=32),
            "num_classes": 10,
            "dropout": 0.0,
        },
        "mobilenet",
        "Sandler, Howard, Zhu, Zhmoginov and Chen, 2018",
        (3_504_872, 34_112),
        no_gradient={
            "project_norm/beta": "a shift before a 1x1 convolution and its normalisation",
            "expand_norm/gamma": "a scale before ReLU and a depthwise convolution whose "
            "normalisation divides by it; what ReLU6 cuts off is all that feels it",
        },
    ),
    "faster_rcnn_fpn": Entry(
        FasterRCNN,
        lambda: {"backbone": _DETECTION_BACKBONE, "num_classes": 90},
        _small_detector,
        "faster_rcnn",
        "Ren, He, Girshick and Sun, 2015; Lin et al., 2017",
        (41_755_286, 106_241),
        no_gradient=_UNPOOLED,
    ),
    "mask_rcnn": Entry(
        MaskRCNN,
        lambda: {"backbone": _DETECTION_BACKBONE, "num_classes": 90},
        lambda: {
            **_small_detector(),
            "fpn_filters": 32,
            "box_head_units": 64,
            "mask_head_filters": 64,
            "mask_head_convs": 1,
        },
        "mask_rcnn",
        _MASK_RCNN,
        (44_401_393, 106_241),
        no_gradient=_UNPOOLED | _FAINT,
        optimizer=lambda: keras.optimizers.Adam(3e-3),
    ),
    "mask_rcnn_c4": Entry(
        MaskRCNN,
        lambda: {"backbone": _DETECTION_BACKBONE, "num_classes": 90, **_C4},
        lambda: {
            **_small_detector(),
            **_C4,
            "anchor_sizes": ((8, 16, 24, 32, 48),),
            "rpn_pre_nms_top_n": 50,
            "rpn_pre_nms_top_n_train": 50,
            "mask_head_filters": 16,
        },
        "mask_rcnn",
        _MASK_RCNN,
        (36_023_085, 106_241),
    ),
    "deep_watershed": Entry(
        DeepWatershed,
        # Of Cityscapes' person, rider, car, truck, bus, train, motorcycle and bicycle.
        lambda: {
            "num_classes": 8,
            "gate": "external",
            "semantic_codes": (-128, -96, 32, 64, 96, 128, -64, -32),
            "target_min_area": 100,
            "cut": (1, 1, 2, 2, 2, 2, 1, 1),
            "min_area": (20, 20, 25, 45, 45, 45, 20, 20),
            "grow": (1, 1, 2, 2, 2, 2, 1, 1),
        },
        lambda: {
            "num_classes": 10,
            "gate": "head",
            "level_edges": (0, 1, 2, 3),
            "semantic_weight": 8.0,
            "widths": (8, 16, 16, 16, 16),
            "strides": (1, 2, 2, 2),
            "branch_filters": 16,
            "fuse_filters": 32,
            "energy_widths": ((16, 16), (16, 16)),
            "energy_strides": (1, 2),
            "energy_filters": 32,
            "normalization": "batch",
            "dropout": 0.0,
            "normalize_pixels": "imagenet",
            "min_area": 1,
        },
        "deep_watershed",
        "Bai and Urtasun, 2016",
        (38_164_306, 0),
        optimizer=lambda: keras.optimizers.Adam(5e-3),
        by_class=("semantic_codes", "cut", "min_area", "grow"),
    ),
    "unet": Entry(
        UNet,
        lambda: {"num_classes": 2},
        lambda: {"num_classes": 11, "filters": 8, "dropout": 0.0},
        "unet",
        "Ronneberger, Fischer and Brox, 2015",
        (31_031_810, 0),
    ),
    "segnet": Entry(
        SegNet,
        lambda: {"num_classes": 11},
        lambda: {"num_classes": 11, "depths": (1, 2, 2), "widths": (16, 16, 32)},
        "segnet",
        _SEGNET,
        (29_449_355, 15_872),
        optimizer=lambda: keras.optimizers.Adam(1e-2),
        no_gradient={"conv1/bias": _UNFELT, "conv2/bias": _UNFELT},
    ),
    "segnet_basic": Entry(
        SegNetBasic,
        lambda: {"num_classes": 11},
        lambda: {"num_classes": 11, "filters": 16, "num_stages": 3, "kernel_size": 5},
        "segnet",
        _SEGNET,
        (1_416_587, 1_024),
        optimizer=lambda: keras.optimizers.Adam(1e-2),
        no_gradient={"_conv/bias": _UNFELT},
    ),
    "deeplab_v3": Entry(
        DeepLabV3,
        lambda: {
            "backbone": _dilated_resnet50,
            "num_classes": 21,
        },
        lambda: {
            "backbone": _small_backbone(output_stride=16, multi_grid=(2,)),
            "num_classes": 11,
            "filters": 16,
            "dropout": 0.0,
        },
        "deeplab",
        "Chen, Papandreou, Schroff and Adam, 2017",
        (39_048_533, 56_192),
        optimizer=lambda: keras.optimizers.Adam(5e-3),
    ),
    "deeplab_v3plus": Entry(
        DeepLabV3Plus,
        lambda: {
            "backbone": _dilated_resnet50,
            "num_classes": 21,
        },
        lambda: {
            "backbone": _small_backbone(output_stride=16, multi_grid=(2,)),
            "num_classes": 11,
            "low_level_filters": 8,
            "filters": 16,
            "decoder_filters": 16,
            "dropout": 0.0,
        },
        "deeplab",
        "Chen, Zhu, Papandreou, Schroff and Adam, 2018",
        (40_352_181, 57_312),
        optimizer=lambda: keras.optimizers.Adam(5e-3),
    ),
}
"""Name -> `Entry`."""


def list_models(task=None):
    """Names of the models of the catalog.

    Args:
        task: `"classification"`, `"segmentation"`, `"detection"` or `"instances"`; `None` for all.

    Returns:
        List of names, in the order of the catalog.

    Raises:
        ValueError: If no model has the task.
    """
    tasks = {entry.task for entry in CATALOG.values()}
    if task is not None and task not in tasks:
        raise ValueError(f"list_models: `task` must be one of {sorted(tasks)}. Received: {task!r}.")
    return [name for name, entry in CATALOG.items() if task in (None, entry.task)]


def create(name, **overrides):
    """Makes a model of the catalog, with its published arguments unless others are given.

    What is published for each class, such as the levels at which the deep watershed cuts, is left
    at the class's default where `num_classes` is given.

    `kvision.create("deeplab_v3", num_classes=11)` is the published network for eleven classes,
    `kvision.create("deeplab_v3", backbone=kvision.backbones.ResNet101(output_stride=8))` another.

    Args:
        name: One of `list_models()`.
        **overrides: Arguments of the model's class instead of, or beside, the published ones.

    Returns:
        The model, named `name`, with random weights.

    Raises:
        ValueError: If no model has the name.
    """
    if name not in CATALOG:
        raise ValueError(f"create: `name` must be one of {list(CATALOG)}. Received: {name!r}.")
    entry = CATALOG[name]
    published = entry.arguments()
    if "num_classes" in overrides:
        published = {key: value for key, value in published.items() if key not in entry.by_class}
    arguments = {"name": name, **published, **overrides}
    if "backbone" in arguments and "backbone" not in overrides:
        arguments["backbone"] = arguments["backbone"]()
    return entry.model(**arguments)
