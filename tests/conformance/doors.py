"""Training a small Faster R-CNN on TensorFlow, under its XLA, on JAX and on PyTorch.

    python -m tests.conformance.doors --jax PYTHON --torch PYTHON

Every door starts from the same weights, is given the same batches of digit scenes, and runs in a
process of its own (door.py). TensorFlow's eager mode is the first; the others are held against it:

- free: losses and gradients of the first step; then the step at which a decision first differs
  (which anchors are proposed, which regions are positive) and by how small a margin;
- replayed: with the first door's proposals and samples, the losses of all steps.

One kind of decision cannot be replayed: a ReLU whose argument is 0 but for the last bits passes its
gradient at one door and not at the other. Its effect on the weights is then no rounding error, and
grows. At the rate of torchvision's training, scaled to two images, twenty steps end before it
shows; at twice that rate it comes to some thousandths of a loss.

Exits with 1 if a bar is missed. Takes about three minutes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from kvision.boxes import pyramid_anchors
from tests.conformance import decisions, door

FIRST = "tensorflow"
BACKENDS = {"xla": "tensorflow", "jax": "jax", "torch": "torch"}
NAMES = {"xla": "TensorFlow XLA", "jax": "JAX", "torch": "PyTorch"}
BARS = {"first losses": 1e-5, "gradients": 1e-4, "margin": 1e-5, "replayed losses": 1e-3}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jax", help="Python of an environment with kvision and JAX")
    parser.add_argument("--torch", help="Python of an environment with kvision and PyTorch")
    arguments = parser.parse_args()
    pythons = {"xla": sys.executable, "jax": arguments.jax, "torch": arguments.torch}
    with tempfile.TemporaryDirectory() as folder:
        train(sys.executable, "tensorflow", FIRST, folder)
        first = load(folder, FIRST, "free")
        rows = {}
        for name, backend in BACKENDS.items():
            if pythons[name]:
                train(pythons[name], backend, name, folder, "--first", FIRST)
                rows[name] = compare(
                    first, *(load(folder, name, run) for run in ("free", "replayed"))
                )
    return report(rows)


def train(python, backend, name, folder, *options):
    """Runs a door in its environment."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""}
    command = [python, door.__file__, name, folder, *options]
    subprocess.run(command, check=True, env={"TF_CPP_MIN_LOG_LEVEL": "3", **environment})


def load(folder, name, run):
    """What a door wrote."""
    with np.load(Path(folder) / f"{name}_{run}.npz") as file:
        return dict(file)


def compare(first, free, replayed):
    """The figures of a door against the first one."""
    gradients = [name for name in first if name.startswith("gradient/")]
    step, found = first_difference(first, free)
    return {
        "first losses": relative(first["losses"][0], free["losses"][0]),
        "gradients": max(norm_ratio(first[name], free[name]) for name in gradients),
        "step": step,
        "what": "; ".join(sorted({difference.what for difference in found})),
        "margin": max((difference.margin for difference in found), default=0.0),
        "replayed losses": relative(first["losses"], replayed["losses"]),
    }


def relative(expected, actual):
    """The largest relative difference of a loss or one of its parts."""
    return float((np.abs(actual - expected) / np.abs(expected)).max())


def norm_ratio(expected, actual):
    """The norm of the difference of a variable's gradients, over that of its gradient."""
    difference, size = np.linalg.norm(actual - expected), np.linalg.norm(expected)
    return float(difference / max(size, np.finfo("float32").tiny))


def first_difference(first, second):
    """The first step with a decision that differs, from 1, and the differences; or None and []."""
    sizes = tuple((door.SIDE // stride,) * 2 for stride in door.STRIDES)
    model = door.make_model()
    rules = decisions.Rules(
        anchors=pyramid_anchors((door.SIDE,) * 2, sizes, model.anchor_sizes, model.aspect_ratios),
        image_size=(door.SIDE, door.SIDE),
        pre_nms_size=model.rpn_pre_nms_top_n_train,
        nms_threshold=model.rpn_nms_threshold,
        min_side=model.rpn_min_side,
        positive_iou=model.roi_positive_iou,
    )
    for step, (_, targets) in enumerate(door.batches()):
        records = [
            {
                name.removeprefix("record/"): values[step]
                for name, values in run.items()
                if name.startswith("record/")
            }
            for run in (first, second)
        ]
        found = decisions.differences(*records, targets["boxes"], targets["labels"], rules)
        if found:
            return step + 1, found
    return None, []


def report(rows):
    """Prints the table; returns the exit status."""
    print(f"\nagainst TensorFlow, eager; bars: {BARS}\n")
    print(
        "| door | first losses | gradients | first other decision | its margin | replayed losses |"
    )
    print("|---|---|---|---|---|---|")
    missed = []
    for name, row in rows.items():
        step = (
            f"step {row['step']}: {row['what']}" if row["step"] else f"none in {door.STEPS} steps"
        )
        print(
            f"| {NAMES[name]} | {row['first losses']:.1e} | {row['gradients']:.1e} | {step} | "
            f"{row['margin']:.1e} | {row['replayed losses']:.1e} |"
        )
        missed += [f"{NAMES[name]}: {figure}" for figure, bar in BARS.items() if row[figure] > bar]
    print("\nMissed: " + ", ".join(missed) if missed else "\nEvery bar is met.")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
