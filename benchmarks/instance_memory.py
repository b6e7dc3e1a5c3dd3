"""Memory of a batch of instances through data, losses and metrics, with nothing to compare to.

Four images of 1024 x 1024 with 40 instances each, written as files, read, mirrored, given to the
losses of Mask R-CNN (masks of 128 positive regions an image) and of the deep watershed (with its
gradients), and to the metrics of both. For each step the peak of the process above what it held
before is printed, and of the losses' graphs the largest tensor. A mask an object at the size of the
image would be 160 MiB in bool and 640 MiB in float32.

    python benchmarks/instance_memory.py
"""

import argparse
import pathlib
import tempfile

import numpy as np

import kvision
from kvision.losses import watershed_energy_loss
from kvision.models.instances.mask_losses import mask_loss

IMAGES, SIDE, INSTANCES, REGIONS, BINS, LEVELS = 4, 1024, 40, 128, 28, 16
MEBIBYTE = 2**20


def scene(seed):
    """An image of noise and a label map of ellipses, later ones over earlier."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    ids = np.zeros((SIDE, SIDE), "uint16")
    for i in range(INSTANCES):
        centre, radii = rng.uniform(0.1, 0.9, 2) * SIDE, rng.uniform(0.02, 0.08, 2) * SIDE
        ids[((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1] = i + 1
    return rng.integers(0, 256, (SIDE, SIDE, 3)).astype("uint8"), ids


def peak(function):
    """MiB by which the process grows at most while the function runs, and its result."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    result = function()
    return (_status("VmHWM") - before) / 1024, result


def _status(name):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])  # KiB
    raise ValueError(f"/proc/self/status has no {name}.")


def largest(function, *arguments):
    """Shape of the largest tensor of a function's graph whose shape is known, and its MiB."""
    graph = function.get_concrete_function(*arguments).graph
    operations = list(graph.get_operations())
    for inner in graph._functions.values():
        operations += inner.graph.get_operations() if hasattr(inner, "graph") else []
    tensors = [
        (int(np.prod(tensor.shape)) * tensor.dtype.size, tuple(tensor.shape))
        for operation in operations
        for tensor in operation.outputs
        if tensor.shape.is_fully_defined()
    ]
    size, shape = max(tensors)
    return size / MEBIBYTE, shape


def main():
    """Prints a row a step."""
    import keras
    import tensorflow as tf
    from PIL import Image

    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_known_args()
    print("| step | peak, MiB | largest tensor |\n|---|---|---|")

    def row(step, function, graph=None):
        grown, result = peak(function)
        told = "" if graph is None else f"{graph[1]}, {graph[0]:.0f} MiB"
        print(f"| {step} | {grown:.0f} | {told} |", flush=True)
        return result

    with tempfile.TemporaryDirectory() as folder:
        for name in ("images", "maps"):
            pathlib.Path(folder, name).mkdir()
        for i in range(IMAGES):
            image, ids = scene(i)
            Image.fromarray(image).save(f"{folder}/images/{i}.png")
            Image.fromarray(ids).save(f"{folder}/maps/{i}.png")
        data = kvision.data.read_instance_maps(f"{folder}/images", f"{folder}/maps")
        batch = row("reading", lambda: data.batches(IMAGES, None)[0])
        flip = kvision.data.augment([keras.layers.RandomFlip("horizontal", seed=0)])
        batch = row("a mirrored batch", lambda: flip(batch))

    images, targets = kvision.data.to_fit(batch, task="instances")
    ids, boxes = tf.constant(targets["instance_ids"]), tf.constant(targets["boxes"][:, :INSTANCES])
    rows = tf.constant(np.resize(np.arange(INSTANCES, dtype="int32"), (IMAGES, REGIONS)))
    regions = tf.gather(boxes, rows, batch_dims=1)
    logits = tf.Variable(tf.random.normal((IMAGES, REGIONS, BINS, BINS)))
    energy = tf.Variable(tf.random.normal((IMAGES, SIDE, SIDE, LEVELS)))

    @tf.function
    def masks(ids, regions, rows):
        with tf.GradientTape() as tape:
            cut = kvision.ops.crop_masks(ids[..., 0], regions, rows, output_size=BINS)
            loss = mask_loss(logits, cut, tf.fill([IMAGES], REGIONS))
        return loss, tape.gradient(loss, logits)

    @tf.function
    def watershed(ids):
        with tf.GradientTape() as tape:
            truth = kvision.ops.watershed_targets(ids[..., 0], level_edges=kvision.ops.DWT_EDGES)
            loss = watershed_energy_loss(
                truth["level"], tf.identity(energy), truth["weight"], gate=ids[..., 0] > 0
            )
        return loss, tape.gradient(loss, energy)

    graph = largest(masks, ids, regions, rows)
    row("mask loss of 128 regions an image", lambda: masks(ids, regions, rows), graph)
    graph = largest(watershed, ids)
    row("energy loss of 16 levels", lambda: watershed(ids), graph)

    found = {
        "boxes": targets["boxes"],
        "labels": targets["labels"],
        "scores": np.where(targets["labels"] < 0, 0, 0.9).astype("float32"),
        "num_detections": (targets["labels"] >= 0).sum(axis=1).astype("int32"),
        "masks": np.random.default_rng(0).random((*targets["labels"].shape, BINS, BINS), "float32"),
    }

    def of_masks():
        metric = kvision.metrics.COCOMaskMetrics()
        metric.update(found, targets, image_size=(SIDE, SIDE))
        return metric.result()

    def of_maps():
        metric = kvision.metrics.ObjectMetrics()
        metric.update_state(targets["instance_ids"], targets["instance_ids"])
        return metric.result()

    row("`COCOMaskMetrics`", of_masks)
    row("`ObjectMetrics`", of_maps)


if __name__ == "__main__":
    main()
