"""The share of a training step that the metrics of label maps take.

A small network, three 3 x 3 convolutions of 32 channels at full size and a classifier, takes
training steps without metrics, with `SegmentationMetrics`, and with Keras' accuracy and mean IoU,
in turns, so that whatever else the machine does falls on all. Printed are medians over the rounds:
the step, what each metric adds to it in the same round, and what an update takes alone.

    python benchmarks/segmentation_metrics.py
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

THREADS = 2
# Images, height, width, classes.
SIZES = {"of CamVid": (2, 180, 240, 11), "of VOC": (2, 513, 513, 21)}
IGNORED = 255


def network(num_classes):
    """A network of full size feature maps."""
    import keras

    layers = [keras.Input((None, None, 3))]
    layers += [keras.layers.Conv2D(32, 3, padding="same", activation="relu") for _ in range(3)]
    return keras.Sequential([*layers, keras.layers.Conv2D(num_classes, 1)])


def keras_metrics(num_classes):
    """What Keras has of it; of logits it makes classes for each metric anew."""
    import keras

    arguments = {"ignore_class": IGNORED, "sparse_y_pred": False}
    return [
        keras.metrics.SparseCategoricalAccuracy(),
        keras.metrics.MeanIoU(num_classes, **arguments),
    ]


def measure(size, jit_compile, rounds):
    """Prints a row of the table."""
    import tensorflow as tf

    from kvision.losses import PixelCrossEntropy
    from kvision.metrics import SegmentationMetrics

    name, (batch, height, width, num_classes) = size
    rng = np.random.default_rng(0)
    images = tf.constant(rng.normal(size=(batch, height, width, 3)).astype("float32"))
    labels = rng.integers(0, num_classes, (batch, height, width))
    labels[:, :8] = IGNORED
    labels = tf.constant(labels.astype("int32"))
    logits = tf.constant(rng.normal(size=(*labels.shape, num_classes)).astype("float32"))

    def step_with(metrics):
        model = network(num_classes)
        loss = PixelCrossEntropy(ignore_class=IGNORED)
        model.compile("sgd", loss, metrics=metrics, jit_compile=jit_compile)
        return lambda: model.train_on_batch(images, labels)

    metric = SegmentationMetrics(num_classes, ignore_class=IGNORED)
    update = tf.function(lambda: metric.update_state(labels, logits), jit_compile=jit_compile)
    turns = {
        "step": step_with([]),
        "with": step_with([SegmentationMetrics(num_classes, ignore_class=IGNORED)]),
        "with Keras": step_with(keras_metrics(num_classes)),
        "update": update,
    }
    times = {turn: [] for turn in turns}
    for _ in range(rounds + 1):  # the first round compiles
        for turn, function in turns.items():
            start = time.perf_counter()
            function()
            times[turn].append(1e3 * (time.perf_counter() - start))
    times = {turn: np.array(values[1:]) for turn, values in times.items()}
    step = np.median(times["step"])
    share = np.median(times["update"] / times["step"])
    added = {turn: np.median((times[turn] - times["step"]) / times["step"]) for turn in turns}
    cells = [
        f"{batch} x {height} x {width}, {num_classes} classes, {name}{', XLA' * jit_compile}",
        f"{step:.0f}",
        f"{np.median(times['update']):.2f}",
        f"{share:.2%}",
        f"{added['with']:+.1%}",
        f"{added['with Keras']:+.1%}",
    ]
    print("|", " | ".join(cells), "|", flush=True)


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peer", help="not needed")
    arguments = parser.parse_args()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    print("| images | step ms | update ms | update / step | step with it | step with Keras' two |")
    print("|---|---|---|---|---|---|")
    for size in SIZES.items():
        for jit_compile in (False, True):
            measure(size, jit_compile, arguments.rounds)


if __name__ == "__main__":
    main()
