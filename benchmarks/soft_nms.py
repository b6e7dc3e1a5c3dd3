"""Soft and matrix non-maximum suppression on the CPU, against TensorFlow.

Soft-NMS has an op in TensorFlow, of the Gaussian alone; matrix NMS is its published form in
TensorFlow ops, on matrices of all pairs. torchvision has neither. Scores must agree. How it is
measured: `_versus.py`.

    python benchmarks/soft_nms.py --peer PATH/TO/PYTHON/WITH/TORCHVISION
"""

import functools

import numpy as np
from _versus import Workload, main
from nms import clustered, uniform

SIGMA, SCORE_THRESHOLD, MATRIX_SIGMA = 0.5, 0.001, 2.0
BOXES = {
    "10,000 uniform": functools.partial(uniform, 10_000),
    "10,000 clustered": functools.partial(clustered, 10_000),
    "2,000 uniform": functools.partial(uniform, 2_000),
}


def kvision_soft(boxes, scores):
    """Descending decayed scores."""
    from kvision.ops import soft_nms

    return soft_nms(boxes, scores, sigma=SIGMA, score_threshold=SCORE_THRESHOLD)[1]


def tensorflow_soft(boxes, scores):
    """The same; TensorFlow's sigma is half of the paper's."""
    import tensorflow as tf

    return tf.image.non_max_suppression_with_scores(
        boxes, scores, tf.shape(scores)[0], 1.0, SCORE_THRESHOLD, SIGMA / 2
    )[1]


def kvision_matrix(boxes, scores):
    """Descending decayed scores."""
    from kvision.ops import matrix_nms

    return matrix_nms(boxes, scores, sigma=MATRIX_SIGMA)[1]


def tensorflow_matrix(boxes, scores):
    """The same by the pseudo-code of the paper, on boxes."""
    import tensorflow as tf

    scores, order = tf.math.top_k(scores, tf.shape(scores)[0])
    boxes = tf.gather(boxes, order)
    corners, opposite = tf.split(boxes, 2, axis=1)
    area = tf.reduce_prod(opposite - corners, axis=1)
    sides = tf.minimum(opposite[:, None], opposite) - tf.maximum(corners[:, None], corners)
    inter = tf.reduce_prod(tf.maximum(sides, 0), axis=-1)
    iou = inter / (area[:, None] + area - inter)
    iou = tf.linalg.band_part(iou, 0, -1) - tf.linalg.band_part(iou, 0, 0)
    greatest = tf.reduce_max(iou, axis=0)
    decay = tf.exp(-MATRIX_SIGMA * (iou**2 - greatest[:, None] ** 2))
    return tf.sort(scores * tf.minimum(tf.reduce_min(decay, axis=0), 1), direction="DESCENDING")


def checksum(results):
    """Of scores, whose order counts."""
    scores = np.asarray(results[0], "float64")
    return float(np.sum(scores * np.linspace(1, 2, len(scores))))


def workloads():
    """Both ops on every set of boxes."""
    sides = {
        "soft_nms": (kvision_soft, tensorflow_soft),
        "matrix_nms": (kvision_matrix, tensorflow_matrix),
    }
    for op, pair in sides.items():
        for name, boxes in BOXES.items():
            tolerance = {"TensorFlow": 1e-5}
            yield f"{op}, {name}", Workload(boxes, *pair, checksum=checksum, tolerance=tolerance)


if __name__ == "__main__":
    main(__doc__.partition("\n")[0], dict(workloads()))
