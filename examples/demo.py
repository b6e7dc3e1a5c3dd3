"""Train, evaluate, draw, export and serve a detector: `make demo`.

Trains a small Faster R-CNN on scenes of real handwritten digits, measures it on scenes written by
other hands, draws what it sees, exports it with native ops and with core TensorFlow ops, has a C
program serve an image from either, and compares all the answers.

Time: about three minutes on two cores, set-up apart. Expected: AP50 of at least 0.85 on 200 unseen
scenes; docs/benchmarks.md has the figure of the last run.
"""

import argparse
import pathlib
import subprocess
import sys
import time

import keras
import numpy as np

import kvision

ROOT = pathlib.Path(__file__).parents[1]
BOX_TOLERANCE = 1e-3
SCORE_TOLERANCE = 1e-5


def build_model(seed):
    """A Faster R-CNN small enough to train on a CPU in minutes."""
    return kvision.models.detection.FasterRCNN(
        kvision.backbones.ResNetTiny(normalization="batch"),
        num_classes=10,
        class_names=kvision.data.DIGIT_CLASS_NAMES,
        image_size=(128, 128),
        fpn_filters=64,
        anchor_sizes=(16, 32, 64, 128, 256),
        aspect_ratios=(1.0, 2.0),
        rpn_pre_nms_top_n=200,
        rpn_pre_nms_top_n_train=400,
        rpn_post_nms_top_n=60,
        rpn_post_nms_top_n_train=200,
        anchors_per_image=64,
        rois_per_image=64,
        roi_aligned=True,
        box_head_units=256,
        max_detections=30,
        seed=seed,
    )


def scenes(split, count, seed):
    """Scenes by the generator's defaults: 128 x 128, 3 to 8 digits, overlaps, clutter."""
    return kvision.data.digit_scenes(count, split=split, seed=seed, masks=False)


class Progress(keras.callbacks.Callback):
    """A bar while an epoch goes on; then one line with the parts of the loss and the AP."""

    def on_epoch_begin(self, epoch, logs=None):
        self.head = f"epoch {epoch + 1}/{self.params['epochs']}"

    def on_train_batch_end(self, batch, logs=None):
        done = 30 * (batch + 1) // self.params["steps"]
        bar = "#" * done + "." * (30 - done)
        print(f"\r{self.head} [{bar}] loss {logs['loss']:.3f}", end="", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        parts = ", ".join(f"{name} {logs[name]:.3f}" for name in self.model.loss_names)
        print(f"\r{self.head}: loss {logs['loss']:.3f} ({parts});", end=" ")
        print(f"validation loss {logs['val_loss']:.3f}, AP50 {logs['val_AP50']:.3f}")


def train(model, training, validation, epochs, batch_size=8):
    """Fits the model, saying how it goes."""
    dataset = kvision.data.as_dataset(training, batch_size, shuffle=True, seed=0)
    steps = epochs * -(-len(training["images"]) // batch_size)
    warm_up = steps // 20
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-5, steps - warm_up, warmup_target=2e-3, warmup_steps=warm_up
    )
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-3, clipnorm=10.0))
    model.fit(
        dataset.map(kvision.data.to_fit),
        validation_data=kvision.data.as_dataset(validation, 50).map(kvision.data.to_fit),
        epochs=epochs,
        shuffle=False,  # the data set shuffles
        verbose=0,
        callbacks=[Progress()],
    )


def print_table(metrics):
    """The metrics of the test scenes, one a line."""
    for name, value in metrics.items():
        print(f"  {name:24} {value:8.4f}")


def served_in_python(folder, images):
    """What a SavedModel answers to uint8 images, in this process."""
    import tensorflow as tf

    answer = tf.saved_model.load(str(folder)).signatures["serving_default"](
        images=tf.constant(images)
    )
    return {name: value.numpy() for name, value in answer.items()}


def served_in_c(program, folder, image_file, library=None):
    """What the C program prints for an image file, as arrays of one image."""
    command = [program, folder, image_file, *([library] if library else [])]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [line.split("\t") for line in lines]
    return {
        "labels": np.array([[int(row[0]) for row in rows]]),
        "scores": np.array([[float(row[2]) for row in rows]]),
        "boxes": np.array([[[float(side) for side in row[3:7]] for row in rows]]).reshape(1, -1, 4),
        "num_detections": np.array([len(rows)]),
    }


def compare(name, answer, live):
    """Prints how far an answer is from the live model's; ends the demo if too far."""
    count = len(answer["num_detections"])
    equal = np.array_equal(answer["num_detections"], live["num_detections"][:count])
    boxes = scores = 0.0
    for i, n in enumerate(answer["num_detections"] if equal else []):
        equal &= np.array_equal(answer["labels"][i, :n], live["labels"][i, :n])
        boxes = max(boxes, np.abs(answer["boxes"][i, :n] - live["boxes"][i, :n]).max(initial=0))
        scores = max(scores, np.abs(answer["scores"][i, :n] - live["scores"][i, :n]).max(initial=0))
    total = int(answer["num_detections"].sum())
    print(
        f"  {name:28} {total:4} detections, labels {'equal' if equal else 'DIFFER'}, "
        f"boxes within {boxes:.1e} px, scores within {scores:.1e}"
    )
    if not equal or boxes > BOX_TOLERANCE or scores > SCORE_TOLERANCE:
        sys.exit(f"demo: {name} does not give the live model's detections")


def export_and_serve(model, images, out):
    """Exports both ways, serves from Python and C, and compares with the live model."""
    from PIL import Image

    live = model.predict(images, verbose=0)
    image_file = out / "scene.png"
    Image.fromarray(images[0]).save(image_file)
    subprocess.run(
        ["make", "-s", "-C", ROOT / "examples" / "serve_c", f"PYTHON={sys.executable}"], check=True
    )
    program = ROOT / "examples" / "serve_c" / "serve"
    kvision.load_ops()
    print("\nAnswers compared with the live model's")
    for ops in ("native", "portable"):
        folder = out / ops
        model.export(folder, ops=ops, overwrite=True, check_images=list(images[:3]), verbose=False)
        compare(f"{ops} SavedModel", served_in_python(folder, images), live)
        library = kvision.ops.native.library_path() if ops == "native" else None
        from_c = served_in_c(program, folder, image_file, library)
        compare(f"{ops} SavedModel, from C", from_c, live)


def main():
    """Runs the whole demonstration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--scenes", type=int, default=2000, help="training scenes")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "out")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    keras.utils.set_random_seed(args.seed)

    print(f"Composing {args.scenes} training scenes")
    training = scenes("train", args.scenes, args.seed)
    validation = scenes("train", 100, args.seed + 1000)
    model = build_model(args.seed)
    train(model, training, validation, args.epochs)

    test = scenes("test", 200, args.seed + 2000)
    images, targets = kvision.data.to_fit(test)
    metrics = model.evaluate(images, targets, batch_size=50, return_dict=True, verbose=0)
    print("\n200 unseen scenes, digits written by other hands (nan: no digit is that large)")
    print_table(metrics)

    first = {name: value[:8] for name, value in targets.items()}
    kvision.visualization.draw_detections(
        images[:8],
        model.predict(images[:8], verbose=0),
        first,
        class_names=model.class_names,
        path=args.out / "detections.png",
    )
    model.save(args.out / "detector.keras")
    export_and_serve(model, images[:8], args.out)
    print(
        f"\nAP50 {metrics['AP50']:.4f}; {(time.perf_counter() - start) / 60:.1f} min; picture, "
        f"found boxes solid, true ones dashed: {args.out / 'detections.png'}"
    )


if __name__ == "__main__":
    main()
