"""Train a classifier on single digits, then let it classify every part of scenes with many.

A small net learns to tell what stands in the middle of 32 x 32 pixels: one of ten handwritten
digits, or none. Its weights then become a dense net, which gives a class map for scenes of any
size: what the classifier would say of every crop, at a fraction of the work. Two nets show the two
kinds of heads: "vgg", convolutions and pooling under a flattening head ("atrous VGG"), and
"xception", separable convolutions under global pooling ("atrous-ception").

Time: about three minutes a net on two cores. Written: a picture with a row a scene: the scene, the
class map of the net as it is, at its stride of 8 pixels, and that of the dense net, at `--stride`.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
from keras import layers

import kvision

ROOT = pathlib.Path(__file__).parents[1]
SIDE = 32  # of a crop
NOTHING = 10
NAMES = [*kvision.data.DIGIT_CLASS_NAMES, "nothing"]


def build(name):
    """A classifier of 32 x 32 pixels with a last map of 4 x 4 positions."""
    x = images = keras.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 127.5, -1.0)(x)
    if name == "vgg":
        for filters in (24, 48, 96):
            for _ in range(2):
                x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
                x = layers.ReLU()(layers.BatchNormalization()(x))
            x = layers.MaxPooling2D(2)(x)
        x = layers.Dropout(0.3)(layers.Flatten()(x))
        x = layers.Dense(128, activation="relu")(x)
    else:
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(24, 3, padding="same")(x)))
        for filters in (48, 96, 128):
            shortcut = layers.Conv2D(filters, 1, strides=2, padding="same")(x)
            for _ in range(2):
                x = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x)
                x = layers.ReLU()(layers.BatchNormalization()(x))
            x = layers.add([layers.MaxPooling2D(3, 2, padding="same")(x), shortcut])
        x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, layers.Dense(len(NAMES), activation="softmax")(x), name=name)


def scenes(split, count, seed, num_digits=(3, 6)):
    """Scenes of small digits that do not overlap."""
    return kvision.data.digit_scenes(
        count,
        image_size=(96, 96),
        split=split,
        num_digits=num_digits,
        scale=(1.0, 1.6),
        max_overlap=0.0,
        masks=False,
        seed=seed,
    )


def crops(batch, rng):
    """Crops of scenes, their middles on digits (a few pixels off) or far from all; and labels."""
    half = SIDE // 2
    cut, labels = [], []
    for image, boxes, digits in zip(
        batch["images"],
        batch["bounding_boxes"]["boxes"],
        batch["bounding_boxes"]["labels"],
        strict=True,
    ):
        padded = np.pad(image, ((half, half), (half, half), (0, 0)), mode="reflect")
        centres = (boxes[digits >= 0, :2] + boxes[digits >= 0, 2:]) / 2  # x, y
        places = [(x, y, d) for (x, y), d in zip(centres, digits[digits >= 0], strict=True)]
        for x, y in rng.uniform(0, 96, (8, 2)):
            if np.abs(centres - (x, y)).max(axis=1).min() > 9:
                places.append((x, y, NOTHING))
        for x, y, label in places:
            shift = rng.uniform(-4, 4, 2) if label != NOTHING else (0, 0)
            left, top = (int(np.clip(c + s, 0, 95)) for c, s in zip((x, y), shift, strict=True))
            cut.append(padded[top : top + SIDE, left : left + SIDE])
            labels.append(label)
    return np.stack(cut), np.array(labels)


def class_map(model, images, stride):
    """Class probabilities over padded images, and the pixel in the middle of each position."""
    half = SIDE // 2
    dense = kvision.backbones.to_dense_classifier(model, stride)
    padded = np.pad(images, ((0, 0), (half, half), (half, half), (0, 0)), mode="reflect")
    scores = dense.predict(padded.astype("float32"), batch_size=8, verbose=0)
    last = kvision.receptive_field(dense, padded.shape[1:3]).rows[-1]
    middle = last.start[0] + (last.size[0] - 1) / 2 - half
    return scores, middle + stride * np.arange(scores.shape[1])


def digits_found(scores, middles, batch):
    """Share of the digits whose position in the class map says what they are."""
    right = []
    for one, boxes, labels in zip(
        scores, batch["bounding_boxes"]["boxes"], batch["bounding_boxes"]["labels"], strict=True
    ):
        for box, label in zip(boxes[labels >= 0], labels[labels >= 0], strict=True):
            x, y = (np.abs(middles - (box[side] + box[side + 2]) / 2).argmin() for side in (0, 1))
            right.append(one[y, x].argmax() == label)
    return np.mean(right)


def draw(images, maps, path):
    """A row a scene: the scene and its class maps, coloured by class where a digit is likely."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colors = colormaps["tab10"](np.arange(10))[:, :3]
    figure = Figure(figsize=(3 * (1 + len(maps)), 3 * len(images) + 0.6), layout="constrained")
    panels = figure.subplots(len(images), 1 + len(maps), squeeze=False)
    for row, image in zip(range(len(images)), images, strict=True):
        panels[row, 0].imshow(image)
        for axes, (title, scores, middles) in zip(panels[row, 1:], maps, strict=True):
            digit = scores[row, ..., :NOTHING]
            shown = colors[digit.argmax(-1)] * digit.sum(-1, keepdims=True).clip(0, 1)
            step = middles[1] - middles[0]
            edges = (middles[0] - step / 2, middles[-1] + step / 2)
            axes.imshow(image.mean(-1), cmap="gray", alpha=0.35)
            axes.imshow(shown, extent=(*edges, *edges[::-1]), alpha=0.75, interpolation="nearest")
            axes.set_title(title if row == 0 else "")
    for axes in panels.flat:
        axes.set_axis_off()
        axes.set_xlim(-0.5, images.shape[2] - 0.5)
        axes.set_ylim(images.shape[1] - 0.5, -0.5)
    handles = [Patch(color=color, label=name) for color, name in zip(colors, NAMES, strict=False)]
    figure.legend(handles=handles, ncols=10, loc="outside lower center")
    figure.savefig(path, dpi=100)


def main():
    """Trains, classifies densely and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=("vgg", "xception"), default="vgg")
    parser.add_argument("--stride", type=int, default=2, help="of the dense class map")
    parser.add_argument("--scenes", type=int, default=1500, help="training scenes")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "out")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)

    images, labels = crops(scenes("train", args.scenes, args.seed), rng)
    test_images, test_labels = crops(scenes("test", 200, args.seed + 1), rng)
    print(f"{len(images)} training crops, {len(test_images)} of digits by other hands")
    model = build(args.net)
    steps = args.epochs * -(-len(images) // 64)
    model.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(images, labels, batch_size=64, epochs=args.epochs, verbose=2)
    _, accuracy = model.evaluate(test_images, test_labels, verbose=0)
    print(f"accuracy on single crops: {accuracy:.3f}")

    test = scenes("test", 100, args.seed + 2)
    maps = []
    for stride in (8, args.stride):
        scores, middles = class_map(model, test["images"], stride)
        share = digits_found(scores, middles, test)
        print(
            f"class map of stride {stride}, {scores.shape[1]} x {scores.shape[2]}: "
            f"{share:.3f} of the digits found"
        )
        maps.append((f"stride {stride}", scores, middles))
    path = args.out / f"classify_densely_{args.net}.png"
    draw(test["images"][:4], maps, path)
    print(f"{(time.perf_counter() - start) / 60:.1f} min; picture: {path}")


if __name__ == "__main__":
    main()
