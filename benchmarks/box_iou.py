"""IoU and its relatives of 100 x 20,000 boxes on the CPU, with gradients, against torchvision.

Forward, and forward with the gradients to both sets of boxes. TensorFlow has no such op; for it
stands this project's reference in `keras.ops`. How it is measured: `_versus.py`.

    python benchmarks/box_iou.py --peer PATH/TO/PYTHON/WITH/TORCHVISION
"""

import functools

import numpy as np
from _versus import Workload, main

FIRST, SECOND, PAIRS = 100, 20_000, 200_000
TORCHVISION = {"iou": "box_iou", "giou": "generalized_box_iou", "ciou": "complete_box_iou"}


@functools.cache
def case():
    """Boxes (100, 4) and (20,000, 4) in pixels, and the gradient of their matrix."""
    rng = np.random.default_rng(0)
    sets = []
    for size in (FIRST, SECOND):
        corner, side = rng.uniform(0, 1000, (size, 2)), rng.uniform(8, 256, (size, 2))
        sets.append(np.concatenate([corner, corner + side], axis=1).astype("float32"))
    return *sets, rng.normal(size=(FIRST, SECOND)).astype("float32")


@functools.cache
def pairs():
    """Boxes (200,000, 4), others near them, and the gradient of their losses."""
    rng = np.random.default_rng(1)
    corner, side = rng.uniform(0, 1000, (PAIRS, 2)), rng.uniform(8, 256, (PAIRS, 2))
    boxes = np.concatenate([corner, corner + side], axis=1)
    others = boxes + rng.normal(0, 2, boxes.shape)
    return boxes.astype("float32"), others.astype("float32"), rng.random(PAIRS, "float32")


def kvision(kind, function="pairwise_iou", implementation="auto"):
    """Values, and with a third tensor the gradients for it."""

    def run(first, second, *upstream):
        import tensorflow as tf

        from kvision import ops

        with ops.native.implementation(implementation), tf.GradientTape() as tape:
            tape.watch([first, second])
            output = getattr(ops, function)(first, second, kind=kind)
        return output, *(tape.gradient(output, [first, second], *upstream) if upstream else [])

    return run


def torchvision(name):
    """The same from torchvision; losses have the other sign."""

    def run(first, second, *upstream):
        import torch
        import torchvision

        function = getattr(torchvision.ops, name)
        if not upstream:
            return function(first, second)
        leaves = [first.requires_grad_(), second.requires_grad_()]
        output = 1.0 - function(*leaves) if name.endswith("loss") else function(*leaves)
        return output, *torch.autograd.grad(output, leaves, *upstream)

    return run


def workloads():
    """Every kind that torchvision has, forward and backward."""
    tolerance = {"torchvision": 1e-4, "TensorFlow": 1e-4}
    for kind, name in TORCHVISION.items():
        sides = kvision(kind), kvision(kind, implementation="reference"), torchvision(name)
        forward = Workload(lambda: case()[:2], *sides, tolerance=tolerance)
        yield f"pairwise {kind}", forward
        yield f"pairwise {kind} with gradients", Workload(case, *sides, tolerance=tolerance)
    sides = (
        kvision("giou", "elementwise_iou"),
        kvision("giou", "elementwise_iou", "reference"),
        torchvision("generalized_box_iou_loss"),
    )
    yield "giou of 200,000 pairs with gradients", Workload(pairs, *sides, tolerance=tolerance)


if __name__ == "__main__":
    main(__doc__.partition("\n")[0], dict(workloads()))
