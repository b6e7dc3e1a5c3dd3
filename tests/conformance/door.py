"""One door's side of `tests.conformance.doors`: trains in this process, and writes what happened.

The backend is that of KERAS_BACKEND. It imports nothing but kvision, so that it runs wherever that
is installed.
"""

import argparse
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops

import kvision
from kvision.backbones import ResNetTiny
from kvision.data import digit_scenes, to_fit
from kvision.models.detection import FasterRCNN
from kvision.models.detection.training_samples import Samples
from kvision.ops import native

STEPS, BATCH, SIDE = 20, 2, 128
# torchvision's for 16 images, 0.02, scaled to 2: nearly, as a power of 2, so that the first step
# gives the gradient exactly.
LEARNING_RATE = 2.0**-9
ANCHOR_SIZES, STRIDES = (16, 32, 64, 128), (4, 8, 16, 32)
ANCHORS, REGIONS, PROPOSALS = 64, 32, 64
COMPILED = {
    "tensorflow": {"run_eagerly": True},
    "xla": {"jit_compile": True},
    "jax": {"jit_compile": True},
    "torch": {"jit_compile": False},
}


class Witness(FasterRCNN):
    """Records what every training step decides, and decides as its targets say, if they do.

    The records are weights: the one thing that leaves a compiled step on every backend.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        num_anchors = 3 * sum((SIDE // stride) ** 2 for stride in STRIDES)
        shapes = {
            "rpn_logits": (num_anchors,),
            "rpn_deltas": (num_anchors, 4),
            "proposals": (PROPOSALS, 4),
            "num_proposals": (),
            **_shapes_of_samples("anchor", ANCHORS, self.anchor_positive_fraction),
            **_shapes_of_samples("region", REGIONS, self.roi_positive_fraction),
        }
        self.records = {
            name: self.add_weight(
                name=f"record_{name}",
                shape=(BATCH, *shape),
                dtype="int32" if _is_integer(name) else "float32",
                initializer="zeros",
                trainable=False,
                autocast=False,
            )
            for name, shape in shapes.items()
        }

    def compute_losses(self, images, targets, raw, training):
        self._given = targets
        self.implementation = implementation()
        for name in ("rpn_logits", "rpn_deltas", "proposals", "num_proposals"):
            self.records[name].assign(ops.stop_gradient(raw[name]))
        return super().compute_losses(images, targets, raw, training)

    def sample_anchors(self, *args):
        return self._witnessed("anchor", super().sample_anchors(*args))

    def sample_regions(self, *args):
        return self._witnessed("region", super().sample_regions(*args))

    def _witnessed(self, kind, samples):
        names = [f"{kind}_{field}" for field in Samples._fields]
        if names[0] in self._given:
            samples = Samples(*(self._given[name] for name in names))
        for name, value in zip(names, samples, strict=True):
            self.records[name].assign(value)
        return samples


def _shapes_of_samples(kind, size, positive_fraction):
    shapes = {
        "indices": (size,),
        "boxes": (size, 4),
        "labels": (size,),
        "targets": (int(size * positive_fraction), 4),
        "num_positive": (),
        "num_sampled": (),
    }
    return {f"{kind}_{field}": shapes[field] for field in Samples._fields}


def _is_integer(name):
    return "num_" in name or name.endswith(("indices", "labels"))


def implementation():
    """Which implementation `roi_align` runs, here and now."""
    if hasattr(kvision.ops, "implementation_of"):
        return kvision.ops.implementation_of("roi_align")
    return "native" if native.use_native() else "reference"


def make_model():
    """A small Faster R-CNN on a pyramid of four levels, with batch statistics that are fixed."""
    keras.utils.set_random_seed(1)
    return Witness(
        ResNetTiny(normalization="frozen_batch"),
        10,
        fpn_filters=32,
        anchor_sizes=ANCHOR_SIZES,
        rpn_pre_nms_top_n_train=PROPOSALS,
        rpn_post_nms_top_n_train=PROPOSALS,
        anchors_per_image=ANCHORS,
        rois_per_image=REGIONS,
        box_head_units=64,
    )


def batches():
    """`STEPS` batches of digit scenes: images and targets."""
    scenes = digit_scenes(STEPS * BATCH, image_size=(SIDE, SIDE), masks=False)
    images, targets = to_fit(scenes)
    images = images.astype("float32")
    for start in range(0, STEPS * BATCH, BATCH):
        part = slice(start, start + BATCH)
        yield images[part], {name: value[part] for name, value in targets.items()}


def train(door, weights, replayed=None):
    """Trains from the given weights; returns the losses, the first gradients and the records."""
    model = make_model()
    model.load_weights(weights)
    model.supports_jit = (
        True  # asked for by name: where XLA has no kernel, it compiles the reference
    )
    optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=0.9)
    model.compile(optimizer, evaluator=(), **COMPILED[door])
    losses, records, result = [], [], {}
    for step, (images, targets) in enumerate(batches()):
        if replayed is not None:
            decided = {name: value[step] for name, value in replayed.items()}
            targets = targets | decided
        model.reset_metrics()
        logs = model.train_on_batch(images, targets, return_dict=True)
        losses.append([float(logs[name]) for name in ("loss", *model.loss_names)])
        records.append({k: ops.convert_to_numpy(v) for k, v in model.records.items()})
        if step == 0:  # the first velocity is the gradient, times the learning rate
            for variable, velocity in zip(
                model.trainable_variables, optimizer.momentums, strict=True
            ):
                gradient = -ops.convert_to_numpy(velocity) / LEARNING_RATE
                result[f"gradient/{variable.path}"] = gradient
    for name in records[0]:
        result[f"record/{name}"] = np.stack([record[name] for record in records])
    return {**result, "losses": np.array(losses), "implementation": model.implementation}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("door", choices=COMPILED)
    parser.add_argument("folder", type=Path, help="where the doors' results are")
    parser.add_argument("--first", help="the door whose weights and decisions are taken")
    arguments = parser.parse_args()
    weights = arguments.folder / "first.weights.h5"
    if not arguments.first:
        make_model().save_weights(weights)
    start = time.perf_counter()
    results = {"free": train(arguments.door, weights)}
    if arguments.first:
        with np.load(arguments.folder / f"{arguments.first}_free.npz") as first:
            replayed = {
                name: first[f"record/{name}"]
                for name in (key.removeprefix("record/") for key in first)
                if name.startswith(("anchor_", "region_"))
            }
        results["replayed"] = train(arguments.door, weights, replayed)
    for name, result in results.items():
        np.savez(arguments.folder / f"{arguments.door}_{name}.npz", **result)
    seconds = time.perf_counter() - start
    ops_used = results["free"]["implementation"]
    print(
        f"{arguments.door}: Keras {keras.__version__}, {ops_used} ops, {seconds:.0f} s", flush=True
    )


if __name__ == "__main__":
    main()
