"""Draw images of a data set with their boxes, as a model will see them.

    .venv/bin/python examples/show_data.py digits
    .venv/bin/python examples/show_data.py voc ../shared/data/bccd train RBC WBC Platelets --augment
    .venv/bin/python examples/show_data.py coco instances_val.json images/

Time: seconds. Result: out/data.png, eight images at the size a model gets them. Damaged images and
boxes are left out and told.
"""

import argparse
import pathlib

import keras

import kvision
from kvision import data

IMAGES = 8


def read(arguments):
    """The first batch of the data set that the arguments name, and its class names."""
    if arguments.kind == "digits":
        scenes = data.digit_scenes(IMAGES, masks=False)
        return next(iter(data.as_dataset(scenes, IMAGES))), data.DIGIT_CLASS_NAMES
    if arguments.kind == "voc":
        root, split, *names = arguments.where
        names = names or data.VOC_CLASS_NAMES
        found = data.read_voc(root, split, class_names=names, on_error="skip")
    else:
        found = data.read_coco(*arguments.where, on_error="skip")
    print(f"{len(found)} images, {found.num_classes} classes; {found.report}")
    size = (arguments.size, arguments.size)
    return next(iter(found.dataset(IMAGES, size, shuffle=True))), found.class_names


def main():
    """Read, augment, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["digits", "voc", "coco"])
    parser.add_argument("where", nargs="*", help="voc: ROOT SPLIT [CLASS ...]; coco: JSON IMAGES")
    parser.add_argument("--size", type=int, default=320, help="height and width of the images")
    parser.add_argument("--augment", action="store_true", help="flip, zoom and rotate")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/data.png"))
    arguments = parser.parse_args()

    batch, class_names = read(arguments)
    if arguments.augment:
        layers = [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomZoom(0.3, fill_mode="constant"),
            keras.layers.RandomRotation(0.05, fill_mode="constant"),
        ]
        batch = data.augment(layers)(batch)
    images, targets = data.to_fit(batch)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    kvision.visualization.draw_detections(
        images, targets=targets, class_names=class_names, path=arguments.out
    )
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
