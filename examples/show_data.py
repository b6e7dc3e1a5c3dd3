"""Draw images of a data set with their boxes, label maps or instances, as a model will see them.

    .venv/bin/python examples/show_data.py digits
    .venv/bin/python examples/show_data.py voc ../shared/data/bccd train RBC WBC Platelets --augment
    .venv/bin/python examples/show_data.py coco instances_val.json images/
    .venv/bin/python examples/show_data.py camvid ../shared/data/camvid train --augment
    .venv/bin/python examples/show_data.py labels images/ labels/ road car sky
    .venv/bin/python examples/show_data.py instances images/ maps/
    .venv/bin/python examples/show_data.py coco_instances instances_val.json images/ --augment

Time: seconds. Result: out/data.png, eight images at the size a model gets them. Damaged images and
boxes are left out and told.
"""

import argparse
import pathlib

import keras

import kvision
from kvision import data

IMAGES = 8


def read_voc(root, split, *class_names):
    """Boxes in VOC's layout, of its own classes or of others."""
    return data.read_voc(
        root, split, class_names=class_names or data.VOC_CLASS_NAMES, on_error="skip"
    )


READERS = {
    "voc": read_voc,
    "coco": lambda *where: data.read_coco(*where, on_error="skip"),
    "labels": lambda images, labels, *class_names: data.read_label_maps(
        images, labels, class_names, on_error="skip"
    ),
    "instances": lambda *where: data.read_instance_maps(*where, on_error="skip"),
    "mask_folders": lambda root: data.read_mask_folders(root, on_error="skip"),
    "coco_instances": lambda *where: data.read_coco(*where, masks=True, on_error="skip"),
    "camvid": lambda *where: data.read_camvid(*where, on_error="skip"),
    "cityscapes": lambda *where: data.read_cityscapes(*where, on_error="skip"),
    "voc_segmentation": lambda *where: data.read_voc_segmentation(*where, on_error="skip"),
}
COLORS = {
    "camvid": data.CAMVID_COLORS,
    "cityscapes": data.CITYSCAPES_COLORS,
    "voc_segmentation": data.VOC_COLORS,
}


def read(arguments):
    """The first batch of the data set that the arguments name, and its class names."""
    if arguments.kind == "digits":
        scenes = data.digit_scenes(IMAGES, masks=False)
        return next(iter(data.as_dataset(scenes, IMAGES))), data.DIGIT_CLASS_NAMES
    found = READERS[arguments.kind](*arguments.where)
    print(f"{len(found)} images, {found.num_classes} classes; {found.report}")
    size = (arguments.size, arguments.size)
    batch = next(iter(found.dataset(IMAGES, size, shuffle=True)))
    return data.paint_instances(batch) if "mask_runs" in batch else batch, found.class_names


def draw(batch, class_names, arguments):
    """The picture of a batch: its instances, its boxes, or its label maps."""
    images, targets = data.to_fit(batch, "instances" if "instance_ids" in batch else None)
    options = {"class_names": class_names, "path": arguments.out}
    if "instance_ids" in batch:
        kvision.visualization.draw_instances(images, targets=targets, boxes=True, **options)
    elif "bounding_boxes" in batch:
        kvision.visualization.draw_detections(images, targets=targets, **options)
    else:
        colors = COLORS.get(arguments.kind)
        kvision.visualization.draw_segmentation(images, targets=targets, colors=colors, **options)


def main():
    """Read, augment, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["digits", *READERS])
    parser.add_argument(
        "where",
        nargs="*",
        help="coco, coco_instances: JSON IMAGES; labels: IMAGES LABELS CLASS ...; instances: "
        "IMAGES MAPS; mask_folders: ROOT; all others: ROOT SPLIT, and for voc [CLASS ...]",
    )
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
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    draw(batch, class_names, arguments)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
