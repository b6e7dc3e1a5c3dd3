"""Non-maximum suppression on the CPU, against torchvision's and TensorFlow's.

torchvision runs in a process and an environment of its own; the sides take turns on the same
input, with two threads each, so that whatever else the machine does falls on all of them. A turn
is some calls and counts as their median: the first finds the caches and the threads as the other
side left them, which costs more than a short call itself. The indices must be equal where the
libraries decide alike. Printed are medians of the turns and ratios.

    python benchmarks/nms.py --peer PATH/TO/PYTHON/WITH/TORCHVISION
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import numpy as np

THREADS, IOU_THRESHOLD, SCORE_THRESHOLD, IMAGE = 2, 0.5, 0.05, 1000
CALLS = 5  # a turn


def uniform(size):
    """Boxes of sides 4 to 64 anywhere in the image, and scores."""
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, IMAGE, (size, 2)), rng.uniform(4, 64, (size, 2))
    boxes = np.concatenate([corner, corner + side], axis=1)
    return boxes.astype("float32"), rng.random(size, "float32")


def clustered(size):
    """Boxes around 200 others, so that about as many survive."""
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, IMAGE, (200, 2)), rng.uniform(32, 96, (200, 2))
    centres = np.concatenate([corner, corner + side], axis=1)[rng.integers(0, 200, size)]
    return (centres + rng.normal(0, 1, (size, 4))).astype("float32"), rng.random(size, "float32")


def with_image_box(size):
    """`uniform`, and one box as large as the image with the best score."""
    boxes, scores = uniform(size)
    boxes[0], scores[0] = (0, 0, IMAGE, IMAGE), 2
    return boxes, scores


def batch(images, size, classes):
    """Boxes `(images, size, 1, 4)` that classes share, and scores `(images, size, classes)`."""
    boxes, _ = clustered(images * size)
    scores = np.random.default_rng(1).random((images, size, classes), "float32") ** 4
    return boxes.reshape(images, size, 1, 4), scores


WORKLOADS = {
    "nms, 10,000 uniform": lambda: uniform(10_000),
    "nms, 10,000 clustered": lambda: clustered(10_000),
    "nms, 10,000 uniform, one image-sized": lambda: with_image_box(10_000),
    "nms, 2,000 uniform": lambda: uniform(2_000),
    "batched_nms, 8 x 2,000 x 80": lambda: batch(8, 2_000, 80),
}


def peer():
    """Runs the workloads named on standard input; answers milliseconds and a checksum."""
    import torch
    from torchvision.ops import nms

    torch.set_num_threads(THREADS)
    for name in map(str.strip, sys.stdin):
        boxes, scores = map(torch.from_numpy, WORKLOADS[name]())
        milliseconds, kept = timed(lambda: nms(boxes, scores, IOU_THRESHOLD))  # noqa: B023
        print(milliseconds, checksum(kept.numpy()), flush=True)


def timed(function):
    """Milliseconds of one call, the median of a turn, and its result."""
    milliseconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        result = function()
        milliseconds.append(1e3 * (time.perf_counter() - start))
    return statistics.median(milliseconds), result


def checksum(indices):
    """A number that depends on the values and their order."""
    return int(np.sum(np.arange(1, len(indices) + 1) * np.asarray(indices, "int64")))


def sides():
    """The functions of this process, by workload kind and library."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    from kvision.ops import batched_nms, native, nms

    native.load_ops()

    def compiled(function):
        return tf.function(function, autograph=False)

    return {
        "nms": {
            "kvision": compiled(lambda b, s: nms(b, s, iou_threshold=IOU_THRESHOLD)),
            "TensorFlow": compiled(
                lambda b, s: tf.image.non_max_suppression(b, s, tf.shape(s)[0], IOU_THRESHOLD)
            ),
        },
        "batched_nms": {
            "kvision": compiled(
                lambda b, s: batched_nms(
                    b[:, :, 0], s, iou_threshold=IOU_THRESHOLD, score_threshold=SCORE_THRESHOLD
                )["scores"]
            ),
            "TensorFlow": compiled(
                lambda b, s: (
                    tf.image.combined_non_max_suppression(
                        b, s, 100, 100, IOU_THRESHOLD, SCORE_THRESHOLD, clip_boxes=False
                    ).nmsed_scores
                )
            ),
        },
    }


def measure(name, functions, ask_peer, rounds):
    """Medians in milliseconds of one workload, by library."""
    import tensorflow as tf

    boxes, scores = map(tf.constant, WORKLOADS[name]())
    times = {library: [] for library in functions}
    for _ in range(rounds + 1):  # the first round compiles
        results = {}
        for library, function in functions.items():
            milliseconds, result = timed(lambda: function(boxes, scores).numpy())  # noqa: B023
            times[library].append(milliseconds)
            results[library] = result
        if name.startswith("nms"):
            milliseconds, sum_of_peer = ask_peer(name)
            times.setdefault("torchvision", []).append(milliseconds)
            if checksum(results["kvision"]) != sum_of_peer:
                raise AssertionError(f"{name}: kvision and torchvision keep different boxes")
        elif not np.array_equal(results["kvision"], results["TensorFlow"]):
            raise AssertionError(f"{name}: kvision and TensorFlow differ")
    return {library: statistics.median(values[1:]) for library, values in times.items()}


def main():
    """Measures every workload and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", help="Python of an environment with torchvision")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    if arguments.peer is None:
        return peer()

    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(
        [arguments.peer, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:

        def ask_peer(name):
            print(name, file=process.stdin, flush=True)
            milliseconds, sum_of_peer = process.stdout.readline().split()
            return float(milliseconds), int(sum_of_peer)

        functions = sides()
        print("| work | kvision ms | torchvision ms | TensorFlow ms | ratios |")
        print("|---|---|---|---|---|")
        for name in WORKLOADS:
            kind = name.split(",")[0]
            medians = measure(name, functions[kind], ask_peer, arguments.rounds)
            own = medians["kvision"]
            cells = [
                f"{medians[library]:.2f}" if library in medians else "-"
                for library in ("kvision", "torchvision", "TensorFlow")
            ]
            ratios = [
                f"{medians[library] / own:.1f}x {library}"
                for library in ("torchvision", "TensorFlow")
                if library in medians
            ]
            print(f"| {name} | {' | '.join(cells)} | {', '.join(ratios)} |", flush=True)
        process.stdin.close()
    return None


if __name__ == "__main__":
    main()
