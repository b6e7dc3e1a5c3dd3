"""One small instance of every public class that has a configuration.

A new layer, model or metric adds a line here and is held to the contracts by it.
"""

import kvision
from kvision.layers import FeatureSpec

SPECS = {"P2": FeatureSpec(8, 4), "P3": FeatureSpec(16, 8)}
IMAGE_SHAPE = (2, 64, 64, 3)


def _faster_rcnn():
    return kvision.models.detection.FasterRCNN(
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
    )


INSTANCES = {
    "kvision.backbones.ResNet": lambda: kvision.backbones.ResNet(
        (1, 1, 1, 1), block="basic", widths=(8, 8, 16, 16), normalization="group"
    ),
    "kvision.data.RandomScaledCrop": lambda: kvision.data.RandomScaledCrop(
        30, 40, scale=(0.75, 1.5), fill_value=114.0, seed=3
    ),
    "kvision.layers.BoxHead": lambda: kvision.layers.BoxHead(3, units=16),
    "kvision.layers.FPN": lambda: kvision.layers.FPN(SPECS, filters=8, num_extra_levels=2),
    "kvision.layers.FrozenBatchNormalization": lambda: kvision.layers.FrozenBatchNormalization(
        epsilon=1e-3
    ),
    "kvision.layers.NonMaxSuppression": lambda: kvision.layers.NonMaxSuppression(
        0.4, score_threshold=0.1, max_output_size=7, max_output_size_per_class=3
    ),
    "kvision.layers.MultiscaleRoIAlign": lambda: kvision.layers.MultiscaleRoIAlign(
        (3, 4), strides={"P2": 4, "P3": 8}, sampling_ratio=2, aligned=False
    ),
    "kvision.layers.RPNHead": lambda: kvision.layers.RPNHead(3, filters=8),
    "kvision.layers.RoIAlign": lambda: kvision.layers.RoIAlign((3, 4), spatial_scale=0.25),
    "kvision.losses.IoULoss": lambda: kvision.losses.IoULoss("ciou", name="box", reduction="sum"),
    "kvision.layers.RoIPool": lambda: kvision.layers.RoIPool((3, 4), spatial_scale=0.25),
    "kvision.metrics.COCODetectionMetrics": lambda: kvision.metrics.COCODetectionMetrics(
        per_class=True, class_names=["a", "b"]
    ),
    "kvision.metrics.VOCDetectionMetrics": lambda: kvision.metrics.VOCDetectionMetrics(
        iou_thresholds=(0.5, 0.75), interpolation="11_point"
    ),
    "kvision.models.detection.FasterRCNN": _faster_rcnn,
}
# Only their subclasses are made.
ABSTRACT = {"kvision.models.detection.Detector"}
DETECTORS = {"kvision.models.detection.FasterRCNN": _faster_rcnn}
