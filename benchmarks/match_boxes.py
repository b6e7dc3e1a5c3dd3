"""Matching of anchors on the CPU, against the matrix of IoUs in TensorFlow and in torchvision.

200,000 anchors of a grid, 50 boxes, 8 images, thresholds of a region proposal network with the
low-quality rule. TensorFlow has no matcher; its form is the matrix of IoUs and reductions over it,
image by image, compiled. torchvision's is `box_iou` and its own `Matcher`. Matches must be equal.
How it is measured: `_versus.py`.

    python benchmarks/match_boxes.py --peer PATH/TO/PYTHON/WITH/TORCHVISION
"""

import functools

import numpy as np
from _versus import Workload, main

IMAGES, BOXES, IMAGE = 8, 50, 1024
HIGH, LOW = 0.7, 0.3


@functools.cache
def case():
    """Anchors (200,000, 4) of three shapes on four grids, and boxes (8, 50, 4)."""
    rng = np.random.default_rng(0)
    anchors = []
    for stride, side in ((4, 32), (8, 64), (16, 128), (32, 256)):
        y, x = np.meshgrid(*[np.arange(0, IMAGE, stride)] * 2, indexing="ij")
        for ratio in (0.5, 1, 2):
            half = np.array([side / ratio**0.5, side * ratio**0.5]) / 2
            centre = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
            anchors.append(np.concatenate([centre - half, centre + half], axis=-1).reshape(-1, 4))
    anchors = np.concatenate(anchors)[:200_000]
    sides = np.exp(rng.uniform(np.log(16), np.log(400), (IMAGES, BOXES, 2)))
    corners = rng.uniform(0, 1, (IMAGES, BOXES, 2)) * (IMAGE - sides)
    boxes = np.concatenate([corners, corners + sides], axis=-1)
    return anchors.astype("float32"), boxes.astype("float32")


def kvision(anchors, boxes):
    """Matches (8, 200,000), -1 for negatives and -2 for what is between."""
    import tensorflow as tf

    from kvision.ops import match_boxes

    matches, status = match_boxes(
        anchors,
        boxes,
        tf.ones(boxes.shape[:2], bool),
        positive_threshold=HIGH,
        negative_threshold=LOW,
        allow_low_quality=True,
    )
    return tf.where(status == 1, matches, tf.where(status == 0, -1, -2))


def tensorflow(anchors, boxes):
    """The same from TensorFlow's ops."""
    import tensorflow as tf

    def area(corners):
        return (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])

    def match(own):
        low = tf.maximum(own[:, None, :2], anchors[None, :, :2])
        high = tf.minimum(own[:, None, 2:], anchors[None, :, 2:])
        side = tf.maximum(high - low, 0.0)
        inter = side[..., 0] * side[..., 1]
        iou = inter / (area(own)[:, None] + area(anchors)[None] - inter)
        best = tf.reduce_max(iou, axis=0)
        matches = tf.argmax(iou, axis=0, output_type=tf.int32)
        highest = tf.reduce_max(iou, axis=1, keepdims=True)
        low_quality = tf.reduce_any((iou == highest) & (highest > 0), axis=0)
        result = tf.where(best < LOW, -1, tf.where(best < HIGH, -2, matches))
        return tf.where(low_quality, matches, result)

    return tf.map_fn(match, boxes, fn_output_signature=tf.int32, parallel_iterations=1)


def torchvision(anchors, boxes):
    """The same from torchvision."""
    import torch
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou

    matcher = Matcher(HIGH, LOW, allow_low_quality_matches=True)
    return torch.stack([matcher(box_iou(own, anchors)) for own in boxes])


def checksum(results):
    """Of matches, whose place counts."""
    matches = np.asarray(results[0], "int64")
    weights = np.arange(1, matches.size + 1).reshape(matches.shape) % 65_521
    return float(np.sum(weights * (matches + 3)))


if __name__ == "__main__":
    main(
        __doc__.partition("\n")[0],
        {
            "match_boxes, 200,000 x 50 x 8": Workload(
                case,
                kvision,
                tensorflow,
                torchvision,
                checksum=checksum,
                small_inputs=lambda: (case()[0][:256], case()[1]),
            )
        },
    )
