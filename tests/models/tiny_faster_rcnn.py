"""A Faster R-CNN small enough to train in a test, and scenes of coloured squares."""

import keras
import numpy as np

from kvision.layers import FeatureSpec
from kvision.models.detection import FasterRCNN

SIDE = 64


@keras.saving.register_keras_serializable("kvision_tests")
class TinyBackbone(keras.Model):
    """Three convolutions of stride 2, two levels."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.feature_specs = {"P2": FeatureSpec(24, 4), "P3": FeatureSpec(24, 8)}
        self.convs = [
            keras.layers.Conv2D(
                filters, 3, 2, padding="same", activation="relu", dtype=self.dtype_policy
            )
            for filters in (12, 24, 24)
        ]
        for conv, channels in zip(self.convs, (3, 12, 24), strict=True):
            conv.build((None, None, None, channels))
        self.built = True

    def call(self, images):
        x = self.convs[0](keras.ops.cast(images, self.compute_dtype) / 127.5 - 1.0)
        p2 = self.convs[1](x)
        return {"P2": p2, "P3": self.convs[2](p2)}


def tiny_faster_rcnn(**kwargs):
    defaults = {
        "fpn_filters": 24,
        "anchor_sizes": (16, 32, 64),
        "rpn_pre_nms_top_n": 60,
        "rpn_pre_nms_top_n_train": 100,
        "rpn_post_nms_top_n": 40,
        "rpn_post_nms_top_n_train": 80,
        "anchors_per_image": 64,
        "box_head_units": 48,
        "roi_output_size": 5,
        "rois_per_image": 48,
        "max_detections": 20,
    }
    backbone = kwargs.pop("backbone", None) or TinyBackbone(dtype=kwargs.get("dtype"))
    return FasterRCNN(backbone, 2, **{**defaults, **kwargs})


def squares(num_images, seed=0):
    """Images with one or two squares: red ones are of class 0, green ones of class 1."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(90, 120, (num_images, SIDE, SIDE, 3)).astype("float32")
    boxes = np.zeros((num_images, 3, 4), "float32")
    labels = np.full((num_images, 3), -1, "int32")
    for b in range(num_images):
        for k in range(rng.integers(1, 3)):
            size = rng.integers(14, 26)
            x, y = rng.integers(0, SIDE // 2 - size + 6, 2) + (k * 32, 0)
            x, y = min(x, SIDE - size), min(y, SIDE - size)
            labels[b, k] = rng.integers(2)
            boxes[b, k] = x, y, x + size, y + size
            colour = [(230, 20, 20), (20, 230, 20)][labels[b, k]]
            images[b, y : y + size, x : x + size] = colour
    return images, {"boxes": boxes, "labels": labels}
