"""Train a segmenter of street scenes from scratch on CamVid's eleven classes.

    .venv/bin/python examples/segment_camvid.py --data ../shared/data/camvid --model unet

Trains `unet`, `deeplab_v3plus` or `segnet_basic` on the train split at 240 x 180, keeps the weights
of the epoch with the best mean IoU on the validation split, and measures them there. Writes the
model, the curves (`curves.png`), the IoU of each class (`classes.png`), the confusion matrix
(`confusion.png`), a picture of images with labels and truth (`labels.png`) and `validation.json` to
`--out`. Once all is chosen,

    .venv/bin/python examples/segment_camvid.py --data ../shared/data/camvid --model unet --test

measures the model that stands there on the test split, and writes `test.json` and the pictures of
that split.

Classes are weighted by their median-frequency weights to the power of `--balance`. Time on two
cores and the figures of runs: docs/benchmarks.md.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np

import kvision
from kvision.backbones import ResNet
from kvision.data import CAMVID_CLASS_NAMES, CAMVID_COLORS, RandomScaledCrop
from kvision.losses import median_frequency_weights
from kvision.metrics import segmentation_scores

IMAGE_SIZE = (180, 240)
NUM_CLASSES = len(CAMVID_CLASS_NAMES)
SHARED = {
    "num_classes": NUM_CLASSES,
    "class_names": CAMVID_CLASS_NAMES,
    "image_size": IMAGE_SIZE,
    "resize_policy": "stretch",
}


def unet():
    """U-Net of a quarter of the published width, with batch normalisation."""
    return kvision.create("unet", filters=16, batch_normalization=True, **SHARED)


def deeplab_v3plus():
    """DeepLab v3+ on a residual network of two basic blocks a stage, of stride 16."""
    backbone = ResNet((2, 2, 2, 2), block="basic", widths=(32, 64, 128, 256), output_stride=16)
    return kvision.create(
        "deeplab_v3plus",
        backbone=backbone,
        dilation_rates=(2, 4, 6),  # of a map of 12 x 15 cells
        low_level_filters=32,
        filters=128,
        decoder_filters=128,
        **SHARED,
    )


def segnet_basic():
    """SegNet-Basic of half the published width."""
    return kvision.create("segnet_basic", filters=32, **SHARED)


MODELS = {"unet": unet, "deeplab_v3plus": deeplab_v3plus, "segnet_basic": segnet_basic}


def read(args, split):
    """All images and labels of a split, in memory."""
    data = kvision.data.read_camvid(args.data, split)
    return next(iter(data.batches(len(data), IMAGE_SIZE, resize_policy="stretch")))


def train(model, args, train_data, validation_data):
    """Fits the model, leaves it with its best weights, and returns the history."""
    layers = [
        RandomScaledCrop(*IMAGE_SIZE, scale=(0.5, 2.0), seed=args.seed),
        keras.layers.RandomFlip("horizontal", seed=args.seed),
        keras.layers.RandomBrightness(0.2, value_range=(0, 255), seed=args.seed),
        keras.layers.RandomContrast(0.3, value_range=(0, 255), seed=args.seed),
    ]
    training = (
        kvision.data.as_dataset(
            train_data, args.batch_size, shuffle=True, seed=args.seed, drop_remainder=True
        )
        .map(kvision.data.augment(layers))
        .map(kvision.data.to_fit)
    )
    validation = kvision.data.to_fit(kvision.data.as_dataset(validation_data, args.batch_size))
    steps = args.epochs * len(training)
    schedule = keras.optimizers.schedules.CosineDecay(
        args.learning_rate / 10,
        steps - steps // 20,
        warmup_target=args.learning_rate,
        warmup_steps=steps // 20,
    )
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=args.weight_decay, clipnorm=5.0))
    weights = median_frequency_weights(train_data["segmentation_masks"], NUM_CLASSES, 255)
    weights = weights**args.balance
    best = keras.callbacks.ModelCheckpoint(
        args.out / "best.weights.h5",
        monitor="val_mean_iou",
        mode="max",
        save_best_only=True,
        save_weights_only=True,
    )
    history = model.fit(
        training,
        validation_data=validation,
        shuffle=False,  # done by the data set
        epochs=args.epochs,
        class_weight=dict(enumerate(weights)),
        callbacks=[best],
        verbose=2,
    )
    model.load_weights(args.out / "best.weights.h5")
    return history.history


def measure(model, data, args):
    """Scores of a split and its confusion matrix."""
    metrics = kvision.metrics.SegmentationMetrics(NUM_CLASSES, ignore_class=255)
    labels = model.predict(data["images"], batch_size=args.batch_size, verbose=0)["labels"]
    metrics.update_state(data["segmentation_masks"], labels)
    matrix = np.asarray(metrics.confusion_matrix)
    return segmentation_scores(matrix), matrix, labels


def draw(scores, matrix, labels, data, out):
    """Bars, confusion matrix, and eight images with labels and truth."""
    pictures = kvision.visualization
    pictures.draw_class_bars(
        scores["iou"], CAMVID_CLASS_NAMES, title="IoU", path=out / "classes.png"
    )
    pictures.draw_confusion_matrix(matrix, CAMVID_CLASS_NAMES, path=out / "confusion.png")
    some = np.linspace(0, len(labels) - 1, 8).astype(int)
    pictures.draw_segmentation(
        data["images"][some],
        labels[some],
        data["segmentation_masks"][some],
        class_names=CAMVID_CLASS_NAMES,
        colors=CAMVID_COLORS,
        path=out / "labels.png",
    )


def main():
    """Trains, measures, draws and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--model", choices=MODELS, default="unet")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-3)
    parser.add_argument("--balance", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--test", action="store_true", help="measure the trained model on test")
    args = parser.parse_args()
    args.out = args.out or pathlib.Path("out", "segment_camvid", args.model)
    args.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(args.seed)

    result = {"arguments": {key: str(value) for key, value in vars(args).items()}}
    if args.test:
        split, data = "test", read(args, "test")
        model = keras.models.load_model(args.out / "model.keras")
    else:
        split, data = "validation", read(args, "val")
        model = MODELS[args.model]()
        print(f"{args.model}: {model.count_params():,} parameters")
        start = time.perf_counter()
        history = train(model, args, read(args, "train"), data)
        result["minutes"] = (time.perf_counter() - start) / 60
        print(f"trained {result['minutes']:.1f} min")
        model.save(args.out / "model.keras")
        kvision.visualization.draw_history(
            history, names=["loss", "mean_iou", "pixel_accuracy"], path=args.out / "curves.png"
        )
    scores, matrix, labels = measure(model, data, args)
    draw(scores, matrix, labels, data, args.out)
    print(
        f"{split}: mean IoU {scores['mean_iou']:.3f}, pixel accuracy {scores['pixel_accuracy']:.3f}"
    )
    result["scores"] = {key: np.asarray(value).tolist() for key, value in scores.items()}
    (args.out / f"{split}.json").write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
