"""Train a Faster R-CNN from scratch on a data set in PASCAL VOC's layout.

    .venv/bin/python examples/detect_voc.py --data ../shared/data/bccd

Trains ResNet-18-FPN on the train split, keeps the weights of the epoch with the best AP50 on the
validation split, and measures those once on the test split. Writes the model, the curve
(`curve.png`), a picture of test images (`detections.png`) and `result.json` to `--out`.

Time: 17 minutes on two cores for BCCD (205 blood smears). Expected there: AP50 of about 0.9 on the
test split; docs/benchmarks.md has the figures of the run made.
"""

import argparse
import json
import pathlib
import time

import keras

import kvision

SKIP = {"on_error": "skip"}  # BCCD has a box without area in each of two splits: counted, left out


def build_model(class_names, image_size, seed):
    """ResNet-18-FPN, with fewer regions an image than the defaults: there are few objects."""
    return kvision.models.detection.FasterRCNN(
        kvision.backbones.ResNet18(normalization="batch"),
        num_classes=len(class_names),
        class_names=class_names,
        image_size=image_size,
        fpn_filters=128,
        anchor_sizes=(16, 32, 64, 128, 256),
        rpn_pre_nms_top_n=500,
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n=300,
        rpn_post_nms_top_n_train=500,
        rois_per_image=128,
        roi_aligned=True,
        box_head_units=512,
        seed=seed,
    )


def read(args, split, class_names):
    """The data set of a split; damaged boxes are left out, counted and said."""
    return kvision.data.read_voc(args.data, split, class_names=class_names, **SKIP)


def batches(data, args, **kwargs):
    """Batches of a split, resized, in the batch dictionary."""
    return data.dataset(args.batch_size, args.image_size, **kwargs)


def train(model, args, train_data, validation_data):
    """Fits the model, leaves it with its best weights, and returns the history."""
    layers = [
        keras.layers.RandomFlip("horizontal_and_vertical", seed=args.seed),
        keras.layers.RandomBrightness(0.15, value_range=(0, 255), seed=args.seed),
        keras.layers.RandomContrast(0.2, value_range=(0, 255), seed=args.seed),
    ]
    training = (
        batches(train_data, args, shuffle=True, seed=args.seed)
        .map(kvision.data.augment(layers))
        .map(kvision.data.to_fit)
    )
    validation = batches(validation_data, args).map(kvision.data.to_fit)
    steps = args.epochs * -(-len(train_data) // args.batch_size)
    warm_up = steps // 20
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-5, steps - warm_up, warmup_target=args.learning_rate, warmup_steps=warm_up
    )
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-3, clipnorm=10.0))
    best = keras.callbacks.ModelCheckpoint(
        args.out / "best.weights.h5",
        monitor="val_AP50",
        mode="max",
        save_best_only=True,
        save_weights_only=True,
    )
    history = model.fit(
        training,
        validation_data=validation,
        epochs=args.epochs,
        callbacks=[best],
        shuffle=False,  # the data set shuffles
        verbose=2,
    )
    model.load_weights(args.out / "best.weights.h5")
    return history.history


def draw_curve(history, path):
    """Training and validation loss, and the validation AP, over the epochs."""
    from matplotlib.figure import Figure

    epochs = range(1, len(history["loss"]) + 1)
    figure = Figure(figsize=(9, 4), layout="constrained")
    loss, precision = figure.subplots(1, 2)
    loss.plot(epochs, history["loss"], label="train")
    loss.plot(epochs, history["val_loss"], label="validation")
    loss.set(title="Loss", xlabel="epoch")
    loss.legend()
    for name in ("AP50", "AP"):
        precision.plot(epochs, history[f"val_{name}"], label=name)
    precision.set(title="Validation", xlabel="epoch", ylim=(0, 1))
    precision.legend()
    figure.savefig(path)


def main():
    """Trains, evaluates once on the test split, draws and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/detect_voc"))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--image-size", type=int, nargs=2, default=(240, 320))
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-test", action="store_true", help="leave the test split alone")
    args = parser.parse_args()
    args.image_size = tuple(args.image_size)
    args.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(args.seed)

    class_names = json.loads((args.data / "classes.json").read_text())
    train_data, validation_data = (read(args, split, class_names) for split in ("train", "val"))
    model = build_model(class_names, args.image_size, args.seed)
    start = time.perf_counter()
    history = train(model, args, train_data, validation_data)
    minutes = (time.perf_counter() - start) / 60
    model.save(args.out / "model.keras")
    draw_curve(history, args.out / "curve.png")
    best = max(history["val_AP50"])
    epoch = history["val_AP50"].index(best) + 1
    print(f"trained {minutes:.1f} min; best epoch {epoch}: AP50 {best:.3f} (val)")
    if args.no_test:
        return

    test = batches(read(args, "test", class_names), args)
    metrics = model.evaluate(test.map(kvision.data.to_fit), return_dict=True, verbose=0)
    print(f"test: AP50 {metrics['AP50']:.3f}, AP {metrics['AP']:.3f}")
    images, targets = kvision.data.to_fit(next(iter(test)))
    detections = model.predict_on_batch(images)
    kvision.visualization.draw_detections(
        images, detections, targets, class_names=class_names, path=args.out / "detections.png"
    )
    result = {"minutes": minutes, "validation_AP50": best, "test": metrics, "seed": args.seed}
    (args.out / "result.json").write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
