"""Train an instance segmenter of nuclei from scratch on the Data Science Bowl 2018.

    .venv/bin/python examples/segment_nuclei.py --data ../shared/data/dsb2018 --model deep_watershed

Trains `deep_watershed` or `mask_rcnn` on windows of 256 x 256 of the train split, keeps the weights
of the epoch with the best score on windows of the validation split, and chooses there, on whole
images, how answers become label maps: the cut and the growth of the deep watershed, the least score
of Mask R-CNN. Writes the model, the curves (`curves.png`), a picture of images with what was found
and the truth (`nuclei.png`) and `validation.json` to `--out`. Once all is chosen,

    .venv/bin/python examples/segment_nuclei.py --data ../shared/data/dsb2018 --test

measures the model that stands there on the test split, and writes `test.json` and the pictures of
that split.

Nuclei dark on bright are on 24 of the 212 training images; `--bright-weight 4` shows windows of
bright images four times an epoch. `--continue-from FOLDER` takes a model that was trained before,
and goes on in the last stage of its training.

Time on two cores, the figures of runs and the classical pipeline's: docs/benchmarks.md.
"""

import argparse
import itertools
import json
import pathlib
import time

import keras
import numpy as np

import kvision
from kvision.backbones import ResNetTiny
from kvision.data import RandomScaledCrop
from kvision.metrics import ObjectMetrics
from kvision.models.instances import choose_level_edges
from kvision.ops import paste_masks
from kvision.training import Stage, fit_stages

TILE = (256, 256)
REPORTED = ("f1_50", "f1_75", "f1", "ap_50", "ap_75", "ap")


class Watershed:
    """The deep watershed with fine maps, for nuclei are ten pixels wide."""

    monitor = "val_object_f1_50"
    epochs = 40
    least_epochs = 3  # one a stage
    # Level of the cut, pixels of growth, least area of a piece.
    choices = tuple(itertools.product((0, 1), (0, 1, 2, 3), (5, 15, 30)))

    @staticmethod
    def make(tiles):
        return kvision.models.instances.DeepWatershed(
            num_classes=1,
            gate="head",
            class_names=["nucleus"],
            level_edges=choose_level_edges(tiles["instance_ids"], num_levels=5),
            widths=(16, 32, 48, 64, 64),
            strides=(2, 1, 2, 2),
            branch_filters=32,
            fuse_filters=64,
            energy_widths=((16, 16), (32, 32)),
            energy_strides=(1, 2),
            energy_filters=64,
            energy_loss="cross_entropy",
            normalization="batch",
            dropout=0.0,
            normalize_pixels="imagenet",
            direction_weight=0.1,
            semantic_weight=10.0,
            cut=0,
            grow=2,
            grow_within_gate=True,
            min_area=5,
            fill_holes=8,
        )

    @staticmethod
    def fit(model, args, optimizer, **arguments):
        if args.continue_from:
            stages = [Stage("both", args.epochs, optimizer(args.epochs, args.learning_rate))]
            return fit_stages(model, stages, **arguments)
        # Two fifths of the epochs, a sixth, and the rest.
        direction, watershed = max(1, 2 * args.epochs // 5), max(1, args.epochs // 6)
        both = args.epochs - direction - watershed
        rate = args.learning_rate
        stages = [
            Stage("direction", direction, optimizer(direction, rate)),
            Stage("watershed", watershed, optimizer(watershed, rate)),
            Stage("both", both, optimizer(both, rate / 2)),
        ]
        return fit_stages(model, stages, **arguments)

    @staticmethod
    def run(model, image):
        return model(image[None], training=False)

    @staticmethod
    def choose(model, choice):
        model.cut, model.grow, model.min_area = choice

    @staticmethod
    def label(model, raw, image, choice):
        Watershed.choose(model, choice)
        return np.asarray(model.decode(raw)["instance_ids"])[0]


class MaskRCNN:
    """Mask R-CNN on a small backbone, with anchors from 8 pixels."""

    monitor = "val_mask_AP50"
    epochs = 50
    least_epochs = 1
    # Least score of a detection.
    choices = tuple(np.arange(0.3, 0.95, 0.05).round(2).tolist())

    @staticmethod
    def make(tiles):
        return kvision.create(
            "mask_rcnn",
            backbone=ResNetTiny(normalization="group"),
            num_classes=1,
            class_names=["nucleus"],
            fpn_filters=64,
            box_head_units=256,
            mask_head_filters=64,
            mask_head_convs=2,
            mask_roi_output_size=7,
            anchor_sizes=(8, 16, 32, 64, 128),
            rpn_post_nms_top_n_train=500,
            rpn_post_nms_top_n=1000,
            roi_aligned=True,
            rois_per_image=256,
            roi_positive_fraction=0.5,
            max_detections=400,
            score_threshold=0.2,
            nms_threshold=0.4,
        )

    @staticmethod
    def fit(model, args, optimizer, **arguments):
        model.compile(optimizer(args.epochs, args.learning_rate))
        return model.fit(epochs=args.epochs, **arguments)

    @staticmethod
    def run(model, image):
        # `predict` would want images of one size.
        return model.decode(model(image[None], training=False))

    @staticmethod
    def choose(model, choice):
        model.score_threshold = choice

    @staticmethod
    def label(model, found, image, choice):
        # Masks come in the order of their scores: the ones left out are the last.
        scores = np.asarray(found["scores"])[0, : int(found["num_detections"][0])]
        kept = int((scores >= choice).sum())
        masks, boxes = found["masks"][:, :kept], found["boxes"][:, :kept]
        return np.asarray(paste_masks(masks, boxes, image_size=image.shape[:2], form="label_map"))[
            0
        ]


SYSTEMS = {"deep_watershed": Watershed, "mask_rcnn": MaskRCNN}


def read(args, split):
    """The split's images in batches of one, each of its own size."""
    data = kvision.data.read_instance_maps(
        args.data / "images",
        args.data / "labels",
        class_name="nucleus",
        names=args.data / f"{split}.txt",
    )
    return data.batches(1, None)


def repeat_bright(tiles, times):
    """Windows of bright images that many times, so that dark nuclei on them are seen as often."""
    bright = np.median(tiles["images"], axis=(1, 2, 3)) > 96
    rows = np.repeat(np.arange(len(bright)), np.where(bright, times, 1))
    return keras.tree.map_structure(lambda values: values[rows], tiles)


def train(model, system, args, tiles):
    """Fits the model, leaves it with its best weights, and returns the history."""
    layers = [
        keras.layers.RandomFlip("horizontal_and_vertical", seed=args.seed),
        RandomScaledCrop(*TILE, scale=(0.7, 1.5), seed=args.seed),
        keras.layers.RandomBrightness(0.15, value_range=(0, 255), seed=args.seed),
        keras.layers.RandomContrast(0.4, value_range=(0, 255), seed=args.seed),
    ]
    training = kvision.data.as_dataset(
        repeat_bright(tiles, args.bright_weight),
        args.batch_size,
        shuffle=True,
        seed=args.seed,
        drop_remainder=True,
    ).map(kvision.data.augment(layers))
    training = kvision.data.to_fit(training, task="instances")
    validation = kvision.data.cut_tiles(read(args, "val"), TILE)
    validation = kvision.data.as_dataset(validation, args.batch_size)
    validation = kvision.data.to_fit(validation, task="instances")

    def optimizer(epochs, learning_rate):
        steps = epochs * len(training)
        schedule = keras.optimizers.schedules.CosineDecay(
            learning_rate / 10,
            steps - steps // 20,
            warmup_target=learning_rate,
            warmup_steps=steps // 20,
        )
        return keras.optimizers.AdamW(schedule, weight_decay=args.weight_decay, clipnorm=5.0)

    best = keras.callbacks.ModelCheckpoint(
        args.out / "best.weights.h5",
        monitor=system.monitor,
        mode="max",
        save_best_only=True,
        save_weights_only=True,
    )
    history = system.fit(
        model,
        args,
        optimizer,
        x=training,
        validation_data=validation,
        shuffle=False,  # done by the data set
        callbacks=[best],
        verbose=2,
    )
    model.load_weights(args.out / "best.weights.h5")
    return history.history


def measure(model, system, batches, choices):
    """The scores of each choice on a split, and the label maps of the last."""
    metrics = [ObjectMetrics() for _ in choices]
    maps = []
    for batch in batches:
        raw = system.run(model, batch["images"][0])
        for metric, choice in zip(metrics, choices, strict=True):
            ids = system.label(model, raw, batch["images"][0], choice)
            metric.update_state(batch["instance_ids"], ids[None])
        maps.append(ids)
    results = [{key: float(value) for key, value in m.result().items()} for m in metrics]
    return results, maps


def draw(maps, batches, out):
    """Draws images of many sizes with what was found and the truth."""
    batches = list(batches)
    some = np.linspace(0, len(batches) - 1, 8).astype(int)
    kvision.visualization.draw_instances(
        [batches[i]["images"][0] for i in some],
        {"instance_ids": [maps[i] for i in some]},
        {"instance_ids": [batches[i]["instance_ids"][0] for i in some]},
        columns=2,
        path=out / "nuclei.png",
    )


def main():
    """Trains, measures, draws and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--model", choices=SYSTEMS, default="deep_watershed")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-3)
    parser.add_argument("--bright-weight", type=int, default=1)
    parser.add_argument("--continue-from", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--test", action="store_true", help="measure the trained model on test")
    args = parser.parse_args()
    args.out = args.out or pathlib.Path("out", "segment_nuclei", args.model)
    args.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(args.seed)
    system = SYSTEMS[args.model]
    args.epochs = args.epochs or system.epochs
    if args.epochs < system.least_epochs:
        parser.error(f"{args.model} takes {system.least_epochs} --epochs or more")

    result = {"arguments": {key: str(value) for key, value in vars(args).items()}}
    if args.test:
        split = "test"
        model = keras.models.load_model(args.out / "model.keras")
        chosen = json.loads((args.out / "validation.json").read_text())["choice"]
    else:
        split = "val"
        tiles = kvision.data.cut_tiles(read(args, "train"), TILE)
        if args.continue_from:
            model = keras.models.load_model(args.continue_from / "model.keras")
        else:
            model = system.make(tiles)
        print(f"{args.model}: {model.count_params():,} parameters, {len(tiles['images'])} windows")
        start = time.perf_counter()
        history = train(model, system, args, tiles)
        result["minutes"] = (time.perf_counter() - start) / 60
        print(f"trained {result['minutes']:.1f} min")
        model.save(args.out / "model.keras")
        scores = [system.monitor.removeprefix("val_")]
        kvision.visualization.draw_history(
            history,
            names=["loss", *model.loss_names, *scores],
            path=args.out / "curves.png",
        )
        results, _ = measure(model, system, read(args, "val"), system.choices)
        best = max(range(len(results)), key=lambda i: results[i]["object_f1_50"])
        chosen = system.choices[best]
        for choice, one in zip(system.choices, results, strict=True):
            print(f"{choice}: {one['object_f1_50']:.4f}")
        system.choose(model, chosen)
        model.save(args.out / "model.keras")

    (scores,), maps = measure(model, system, read(args, split), [chosen])
    draw(maps, read(args, split), args.out)
    print(f"{split}, {chosen}" + "".join(f"{name:>9}" for name in REPORTED))
    for kind in ("object", "image"):
        print(f"{kind:16}" + "".join(f"{scores[f'{kind}_{name}']:9.4f}" for name in REPORTED))
    result |= {"choice": chosen, "scores": scores}
    name = "test" if args.test else "validation"
    (args.out / f"{name}.json").write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
