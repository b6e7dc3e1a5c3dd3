"""Soft and matrix non-maximum suppression on the CPU, against TensorFlow.

Soft-NMS has an op in TensorFlow, of the Gaussian alone; matrix NMS is its published form in
TensorFlow ops, on matrices of all pairs. Both sides run in this process, in turns on the same
boxes, with two threads; scores must agree. Printed are medians and ratios. torchvision has neither.

    python benchmarks/soft_nms.py
"""

import argparse
import statistics
import time

import numpy as np
from nms import THREADS, clustered, uniform

SIGMA, SCORE_THRESHOLD = 0.5, 0.001
BOXES = {
    "10,000 uniform": lambda: uniform(10_000),
    "10,000 clustered": lambda: clustered(10_000),
    "2,000 uniform": lambda: uniform(2_000),
}


def published_matrix_nms(boxes, scores, sigma):
    """The pseudo-code of the paper, on boxes: descending decayed scores."""
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
    decay = tf.exp(-sigma * (iou**2 - greatest[:, None] ** 2))
    return tf.sort(scores * tf.minimum(tf.reduce_min(decay, axis=0), 1), direction="DESCENDING")


def sides():
    """The two functions of each op; they return descending scores."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    from kvision.ops import matrix_nms, native, soft_nms

    native.load_ops()

    def tensorflow_soft_nms(boxes, scores):
        return tf.image.non_max_suppression_with_scores(
            boxes, scores, tf.shape(scores)[0], 1.0, SCORE_THRESHOLD, SIGMA / 2
        )[1]

    functions = {
        "soft_nms": (lambda boxes, scores: soft_nms(boxes, scores)[1], tensorflow_soft_nms),
        "matrix_nms": (
            lambda boxes, scores: matrix_nms(boxes, scores)[1],
            lambda boxes, scores: published_matrix_nms(boxes, scores, 2.0),
        ),
    }
    return {
        op: [tf.function(side, autograph=False) for side in pair] for op, pair in functions.items()
    }


def measure(pair, boxes, scores, rounds):
    """Medians of both sides in milliseconds."""
    import tensorflow as tf

    boxes, scores = tf.constant(boxes), tf.constant(scores)
    times = [], []
    for _ in range(rounds + 1):  # the first round compiles
        results = []
        for function, own in zip(pair, times, strict=True):
            start = time.perf_counter()
            results.append(function(boxes, scores).numpy())
            own.append(1e3 * (time.perf_counter() - start))
        np.testing.assert_allclose(*results, rtol=1e-4)
    return [statistics.median(own[1:]) for own in times]


def main():
    """Measures every op on every set of boxes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", help="not needed here")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    print("| work | kvision ms | TensorFlow ms | ratio |")
    print("|---|---|---|---|")
    for op, pair in sides().items():
        for name, boxes in BOXES.items():
            own, other = measure(pair, *boxes(), arguments.rounds)
            print(f"| {op}, {name} | {own:.2f} | {other:.2f} | {other / own:.0f}x |", flush=True)


if __name__ == "__main__":
    main()
