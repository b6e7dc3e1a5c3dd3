"""RoIAlign on the CPU, forward and with the gradient, against torchvision's and TensorFlow's form.

One map of 200 x 304 x 256 at stride 4, 1,000 boxes, 7 x 7 bins of 2 x 2 samples, float32.
TensorFlow has no RoIAlign; its form is `tf.image.crop_and_resize` to 14 x 14 and average pooling,
which gives the same numbers for boxes that do not pass the centre of the last cell. torchvision
runs in a process and an environment of its own; the sides take turns, with two threads each, so
that whatever else the machine does falls on all of them. The sums of the results must agree.
Printed are medians and ratios.

    python benchmarks/roi_align.py --peer PATH/TO/PYTHON/WITH/TORCHVISION
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import numpy as np

THREADS, HEIGHT, WIDTH, CHANNELS, STRIDE = 2, 200, 304, 256, 4
BOXES, BINS, SAMPLES = 1000, 7, 2
WORKLOADS = ("forward", "forward + backward")
# With two threads TensorFlow's gradient of crop_and_resize loses additions, other ones each time.
CHECKSUM_TOLERANCE = {"kvision": 0, "torchvision": 1e-5, "TensorFlow": 1e-3}


def case():
    """Features, boxes of sides 16 to 256 pixels inside the map, and the upstream gradient."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1, HEIGHT, WIDTH, CHANNELS)).astype("float32")
    sides = rng.uniform(16, 256, (1, BOXES, 2))
    corners = rng.uniform(0, 1, (1, BOXES, 2)) * (
        STRIDE * np.array([WIDTH - 1, HEIGHT - 1]) - sides
    )
    boxes = np.concatenate([corners, corners + sides], axis=-1).astype("float32")
    gradient = rng.normal(size=(1, BOXES, BINS, BINS, CHANNELS)).astype("float32")
    return features, boxes, gradient


def timed(function):
    """Milliseconds of one call, and its results."""
    start = time.perf_counter()
    results = function()
    return 1e3 * (time.perf_counter() - start), results


def checksum(results):
    """Mean absolute value of the last result, equal in every layout."""
    return float(np.mean(np.abs(np.asarray(results[-1])), dtype="float64"))


def peer():
    """Runs the workloads named on standard input; answers milliseconds and a checksum."""
    import torch
    from torchvision.ops import roi_align

    torch.set_num_threads(THREADS)
    features, boxes, gradient = (torch.from_numpy(array) for array in case())
    features = features.permute(0, 3, 1, 2).contiguous().requires_grad_()
    gradient = gradient[0].permute(0, 3, 1, 2).contiguous()

    def forward():
        with torch.no_grad():
            return (align(),)

    def forward_backward():
        output = align()
        return output.detach(), *torch.autograd.grad(output, features, gradient)

    def align():
        return roi_align(features, [boxes[0]], BINS, 1 / STRIDE, SAMPLES, aligned=False)

    functions = dict(zip(WORKLOADS, (forward, forward_backward), strict=True))
    for name in map(str.strip, sys.stdin):
        milliseconds, results = timed(functions[name])
        print(milliseconds, checksum(results), flush=True)


def sides():
    """The functions of this process, by workload and library."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    from kvision.ops import native, roi_align

    native.load_ops()
    features, boxes, gradient = map(tf.constant, case())

    def kvision(features, boxes):
        return roi_align(
            features,
            boxes,
            output_size=BINS,
            spatial_scale=1 / STRIDE,
            sampling_ratio=SAMPLES,
            aligned=False,
        )

    def tensorflow(features, boxes):
        start, end = tf.split(boxes[0] / STRIDE, 2, axis=-1)
        margin = (end - start) / (2 * BINS * SAMPLES)
        samples = tf.concat([start + margin, end - margin], axis=-1)
        samples /= [WIDTH - 1, HEIGHT - 1, WIDTH - 1, HEIGHT - 1]
        crops = tf.image.crop_and_resize(
            features,
            tf.gather(samples, [1, 0, 3, 2], axis=-1),
            tf.zeros(BOXES, tf.int32),
            (BINS * SAMPLES, BINS * SAMPLES),
        )
        return tf.nn.avg_pool2d(crops, SAMPLES, SAMPLES, "VALID")[None]

    def compiled(align):
        def forward_backward(features, boxes, gradient):
            with tf.GradientTape() as tape:
                tape.watch(features)
                output = align(features, boxes)
            return output, tape.gradient(output, features, gradient)

        forward = tf.function(lambda features, boxes: (align(features, boxes),), autograph=False)
        both = tf.function(forward_backward, autograph=False)
        return (lambda: forward(features, boxes)), (lambda: both(features, boxes, gradient))

    libraries = {"kvision": compiled(kvision), "TensorFlow": compiled(tensorflow)}
    return {
        name: {library: functions[index] for library, functions in libraries.items()}
        for index, name in enumerate(WORKLOADS)
    }


def measure(name, functions, ask_peer, rounds):
    """Medians in milliseconds of one workload, by library."""
    times = {library: [] for library in (*functions, "torchvision")}
    for _ in range(rounds + 1):  # the first round compiles
        sums = {}
        for library, function in functions.items():
            milliseconds, results = timed(function)
            times[library].append(milliseconds)
            sums[library] = checksum(results)
        milliseconds, sums["torchvision"] = ask_peer(name)
        times["torchvision"].append(milliseconds)
        for library, value in sums.items():
            if not np.isclose(value, sums["kvision"], rtol=CHECKSUM_TOLERANCE[library]):
                raise AssertionError(f"roi_align, {name}: the libraries differ: {sums}")
    return {library: statistics.median(values[1:]) for library, values in times.items()}


def main():
    """Measures both workloads and prints the table."""
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
            return tuple(map(float, process.stdout.readline().split()))

        functions = sides()
        print("| work | kvision ms | torchvision ms | TensorFlow ms | ratios |")
        print("|---|---|---|---|---|")
        for name in WORKLOADS:
            medians = measure(name, functions[name], ask_peer, arguments.rounds)
            order = ("kvision", "torchvision", "TensorFlow")
            cells = [f"{medians[library]:.1f}" for library in order]
            ratios = [
                f"{medians[library] / medians['kvision']:.1f}x {library}" for library in order[1:]
            ]
            print(f"| roi_align, {name} | {' | '.join(cells)} | {', '.join(ratios)} |", flush=True)
        process.stdin.close()
    return None


if __name__ == "__main__":
    main()
