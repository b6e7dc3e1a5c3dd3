"""One small instance of every public class that has a configuration.

A new layer, model or metric adds a line here and is held to the contracts by it.
"""

import functools

import kvision
from kvision.layers import FeatureSpec
from kvision.models.catalog import CATALOG, create_small

SPECS = {"P2": FeatureSpec(8, 4), "P3": FeatureSpec(16, 8)}
IMAGE_SHAPE = (2, 64, 64, 3)


def _region_detector(model, **arguments):
    return model(
        kvision.backbones.ResNetTiny(normalization="group"),
        num_classes=3,
        class_names=["a", "b", "c"],
        image_size=IMAGE_SHAPE[1:3],
        fpn_filters=8,
        anchor_sizes=(8, 16, 32, 64, 128),
        rpn_pre_nms_top_n=20,
        rpn_pre_nms_top_n_train=20,
        rpn_post_nms_top_n=10,
        rpn_post_nms_top_n_train=10,
        anchors_per_image=16,
        box_head_units=16,
        rois_per_image=8,
        score_threshold=0.0,
        max_detections=5,
        seed=3,
        **arguments,
    )


DETECTORS = {
    "kvision.models.detection.FasterRCNN": functools.partial(
        _region_detector, kvision.models.detection.FasterRCNN
    ),
    "kvision.models.instances.MaskRCNN": functools.partial(
        _region_detector,
        kvision.models.instances.MaskRCNN,
        mask_roi_output_size=5,
        mask_head_filters=8,
        mask_head_convs=1,
    ),
}


# The models of the other tasks, by an entry of the catalog.
OF_THE_CATALOG = {
    f"kvision.models.{entry.task}.{entry.model.__name__}": name
    for name, entry in CATALOG.items()
    if entry.task not in ("detection", "instances")
}
INSTANCES = {
    "kvision.backbones.MobileNetV2": lambda: kvision.backbones.MobileNetV2(
        alpha=0.1, last_filters=None, padding="same", output_stride=16
    ),
    "kvision.backbones.ResNet": lambda: kvision.backbones.ResNet(
        (1, 1, 1, 1),
        block="basic",
        widths=(8, 8, 16, 16),
        output_stride=16,
        multi_grid=(1, 2),
        normalization="group",
    ),
    "kvision.backbones.VGG": lambda: kvision.backbones.VGG(
        (1, 1, 1, 1, 1), widths=(8, 8, 8, 8, 8), normalization="batch", normalize_pixels="caffe"
    ),
    "kvision.backbones.Xception": lambda: kvision.backbones.Xception(
        aligned=True, middle_blocks=1, alpha=0.02, output_stride=8
    ),
    "kvision.layers.ASPP": lambda: kvision.layers.ASPP(
        8, dilation_rates=(2, 3), separable=True, image_pooling=False, dropout=0.2
    ),
    "kvision.data.RandomCopyPaste": lambda: kvision.data.RandomCopyPaste(0.5, 0.25, seed=3),
    "kvision.data.RandomScaledCrop": lambda: kvision.data.RandomScaledCrop(
        30, 40, scale=(0.75, 1.5), fill_value=114.0, seed=3
    ),
    "kvision.layers.BoxHead": lambda: kvision.layers.BoxHead(3, units=16),
    "kvision.layers.FPN": lambda: kvision.layers.FPN(SPECS, filters=8, num_extra_levels=2),
    "kvision.layers.FrozenBatchNormalization": lambda: kvision.layers.FrozenBatchNormalization(
        epsilon=1e-3
    ),
    "kvision.layers.LocalResponseNormalization": lambda: kvision.layers.LocalResponseNormalization(
        3, alpha=5e-4, beta=0.5, bias=2.0
    ),
    "kvision.layers.MaskHead": lambda: kvision.layers.MaskHead(3, filters=8, num_convs=1),
    "kvision.layers.MaxPoolingWithArgmax2D": lambda: kvision.layers.MaxPoolingWithArgmax2D(
        3, strides=(2, 1), padding="same"
    ),
    "kvision.layers.MaxUnpooling2D": lambda: kvision.layers.MaxUnpooling2D((5, 7)),
    "kvision.layers.NonMaxSuppression": lambda: kvision.layers.NonMaxSuppression(
        0.4, score_threshold=0.1, max_output_size=7, max_output_size_per_class=3
    ),
    "kvision.layers.MultiscaleRoIAlign": lambda: kvision.layers.MultiscaleRoIAlign(
        (3, 4), strides={"P2": 4, "P3": 8}, sampling_ratio=2, aligned=False
    ),
    "kvision.layers.RPNHead": lambda: kvision.layers.RPNHead(3, filters=8),
    "kvision.layers.RoIAlign": lambda: kvision.layers.RoIAlign((3, 4), spatial_scale=0.25),
    "kvision.losses.IoULoss": lambda: kvision.losses.IoULoss("ciou", name="box", reduction="sum"),
    "kvision.losses.PixelBinaryCrossEntropy": lambda: kvision.losses.PixelBinaryCrossEntropy(
        ignore_class=255, hard_threshold=0.7, min_kept=100, reduction="sum"
    ),
    "kvision.losses.PixelCrossEntropy": lambda: kvision.losses.PixelCrossEntropy(
        class_weight=[1.0, 2.5, 0.5], ignore_class=255, hard_fraction=0.25
    ),
    "kvision.losses.PixelFocal": lambda: kvision.losses.PixelFocal(
        1.5, 0.25, activation="sigmoid", name="focal"
    ),
    "kvision.losses.SoftDice": lambda: kvision.losses.SoftDice(
        activation="sigmoid", per_image=True, epsilon=0.1, squared=True
    ),
    "kvision.losses.SoftF1": lambda: kvision.losses.SoftF1(per_image=True, ignore_class=11),
    "kvision.layers.RoIPool": lambda: kvision.layers.RoIPool((3, 4), spatial_scale=0.25),
    "kvision.metrics.BoundaryFScore": lambda: kvision.metrics.BoundaryFScore(
        2, tolerance=3, ignore_class=255, count_absent=False, per_class=True, class_names=["a", "b"]
    ),
    "kvision.metrics.CityscapesInstanceMetrics": lambda: kvision.metrics.CityscapesInstanceMetrics(
        min_area=10, ignore_class=0, per_class=True, class_names=["a", "b"]
    ),
    "kvision.metrics.COCODetectionMetrics": lambda: kvision.metrics.COCODetectionMetrics(
        per_class=True, class_names=["a", "b"]
    ),
    "kvision.metrics.COCOMaskMetrics": lambda: kvision.metrics.COCOMaskMetrics(
        per_class=True, class_names=["a", "b"]
    ),
    "kvision.metrics.ObjectMetrics": lambda: kvision.metrics.ObjectMetrics(
        per_threshold=True, name="cells"
    ),
    "kvision.metrics.PanopticQuality": lambda: kvision.metrics.PanopticQuality(
        3, things=[0, 2], background_is_void=False, per_class=True, class_names=["a", "b", "c"]
    ),
    "kvision.metrics.SegmentationMetrics": lambda: kvision.metrics.SegmentationMetrics(
        2, ignore_class=255, per_class=True, class_names=["a", "b"], name="street"
    ),
    "kvision.metrics.VOCDetectionMetrics": lambda: kvision.metrics.VOCDetectionMetrics(
        iou_thresholds=(0.5, 0.75), interpolation="11_point"
    ),
    **DETECTORS,
    **{name: functools.partial(create_small, entry) for name, entry in OF_THE_CATALOG.items()},
}
# Only their subclasses are made.
ABSTRACT = {
    "kvision.backbones.Backbone",
    "kvision.losses.PixelLoss",
    "kvision.models.ImageModel",
    "kvision.models.detection.Detector",
    "kvision.models.segmentation.Segmenter",
}
