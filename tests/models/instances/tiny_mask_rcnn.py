"""A Mask R-CNN small enough to train in a test, and scenes of coloured discs."""

import keras
import numpy as np

from kvision.backbones import ResNet
from kvision.models.instances import MaskRCNN
from tests.models.tiny_faster_rcnn import SIDE, TinyBackbone, squares

_SMALL = {
    "rpn_pre_nms_top_n": 60,
    "rpn_pre_nms_top_n_train": 100,
    "rpn_post_nms_top_n": 40,
    "rpn_post_nms_top_n_train": 80,
    "anchors_per_image": 64,
    "rois_per_image": 48,
    "max_detections": 20,
    "mask_head_filters": 16,
}


def tiny_mask_rcnn(**kwargs):
    defaults = {
        **_SMALL,
        "fpn_filters": 24,
        "anchor_sizes": (16, 32, 64),
        "box_head_units": 48,
        "roi_output_size": 5,
        "mask_roi_output_size": 7,
        "mask_head_convs": 1,
    }
    backbone = TinyBackbone(dtype=kwargs.get("dtype"))
    return MaskRCNN(backbone, 2, **{**defaults, **kwargs})


def tiny_mask_rcnn_c4(**kwargs):
    defaults = {
        **_SMALL,
        "fpn_filters": None,
        "anchor_sizes": ((16, 32, 64),),
        "roi_output_size": 6,
        "mask_head_convs": 0,
    }
    backbone = ResNet((1, 1, 1, 1), block="basic", widths=(8, 8, 12, 16), normalization="group")
    return MaskRCNN(backbone, 2, **{**defaults, **kwargs})


def discs(num_images, seed=0):
    """`squares` with their corners cut off, and where each disc is."""
    images, targets = squares(num_images, seed)
    ids = np.zeros((num_images, SIDE, SIDE, 1), "int32")
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    for b, k in np.argwhere(targets["labels"] >= 0):
        x1, y1, x2, y2 = targets["boxes"][b, k]
        radius = (x2 - x1) / 2
        box = (x > x1) & (x < x2) & (y > y1) & (y < y2)
        disc = (x - (x1 + x2) / 2) ** 2 + (y - (y1 + y2) / 2) ** 2 < radius**2
        ids[b, box & disc, 0] = k + 1
        images[b, box & ~disc] = 105.0
    return images, {**targets, "instance_ids": ids}


def losses(model, images, targets, training):
    """The losses, as floats."""
    images = keras.ops.convert_to_tensor(images)
    targets = keras.tree.map_structure(keras.ops.convert_to_tensor, targets)
    raw = model(images, training=training)
    found = model.compute_losses(images, targets, raw, training)
    return {name: float(keras.ops.convert_to_numpy(value)) for name, value in found.items()}
