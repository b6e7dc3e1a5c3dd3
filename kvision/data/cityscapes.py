"""Cityscapes: street scenes of fifty cities in two trees of folders, by pixel and by object.

M. Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", 2016; class table
of the authors' cityscapesscripts, ``helpers/labels.py``.
"""

import pathlib

import numpy as np

from kvision.data.images import read_label_pixels
from kvision.data.instance_dataset import instance_dataset
from kvision.data.label_code import LabelCode
from kvision.data.segmentation_dataset import labelled_images

# Name, id in `labelIds`, colour; the place is the trainId.
_CLASSES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)

CITYSCAPES_CLASS_NAMES = tuple(name for name, _, _ in _CLASSES)
"""The nineteen evaluated classes, in the order of the authors' trainIds."""

CITYSCAPES_COLORS = tuple(color for _, _, color in _CLASSES)
"""Red, green and blue of each class."""

CITYSCAPES_INSTANCE_CLASS_NAMES = CITYSCAPES_CLASS_NAMES[11:]
"""The eight classes whose objects are told apart, in the order of the authors' trainIds."""

_IDS = {name: label_id for name, label_id, _ in _CLASSES}
# Ids run to 33; the licence plate's is -1, 255 in eight bits.
_OTHER_IDS = sorted({*range(34), 255} - set(_IDS.values()))
_LABEL_FILES = ("labelIds", "labelTrainIds")


def read_cityscapes(
    root, split, *, annotations="gtFine", labels="labelIds", on_error="raise", apply_exif=True
):
    """Read Cityscapes with its nineteen evaluated classes.

    Image ``leftImg8bit/<split>/<city>/<frame>_leftImg8bit.png`` has the label map
    ``gtFine/<split>/<city>/<frame>_gtFine_labelIds.png``. What is not evaluated becomes the ignore
    label, 255. Images are in the order of their paths; an image's id is its place in it.

    Args:
        root: str or path of the folder with ``leftImg8bit`` and ``gtFine``.
        split: str, such as ``"train"``.
        annotations: str, the folder of the label maps: ``"gtFine"`` or ``"gtCoarse"``.
        labels: ``"labelIds"``, the files as they are published, whose 34 ids become the nineteen
            classes here; or ``"labelTrainIds"``, which cityscapesscripts makes of them.
        on_error: ``"raise"`` or ``"skip"``, as in `read_label_maps`.
        apply_exif: bool, whether EXIF orientation turns the pixels.

    Returns:
        `SegmentationDataset`.

    Raises:
        ValueError: the split has no folder, other ``labels``, or, under ``on_error="raise"``, the
            first problem, with file and reason.
    """
    if labels not in _LABEL_FILES:
        raise ValueError(
            f"read_cityscapes: `labels` must be one of {_LABEL_FILES}. Received: {labels!r}."
        )
    code = LabelCode(
        CITYSCAPES_CLASS_NAMES,
        values=_IDS if labels == "labelIds" else None,
        ignore=_OTHER_IDS if labels == "labelIds" else None,
        reader="read_cityscapes",
    )
    files = _files(root, split, annotations, labels, "read_cityscapes")
    return labelled_images(
        files, CITYSCAPES_CLASS_NAMES, code, "read_cityscapes", on_error, apply_exif
    )


def read_cityscapes_instances(
    root, split, *, annotations="gtFine", on_error="raise", apply_exif=True
):
    """Read the objects of Cityscapes' eight classes of persons and vehicles.

    Image ``leftImg8bit/<split>/<city>/<frame>_leftImg8bit.png`` has the label map
    ``gtFine/<split>/<city>/<frame>_gtFine_instanceIds.png``, in which 1000 * c + k is object k of
    the class with the id c, and c alone a group of them that was not taken apart: a crowd here.
    Whatever else there is, is background. Images are in the order of their paths; an image's id is
    its place in it. Maps are read twice, as in `read_instance_maps`.

    Args:
        root: str or path of the folder with ``leftImg8bit`` and ``gtFine``.
        split: str, such as ``"train"``.
        annotations: str, the folder of the label maps: ``"gtFine"`` or ``"gtCoarse"``.
        on_error: ``"raise"`` or ``"skip"``, as in `read_instance_maps`.
        apply_exif: bool, whether EXIF orientation turns the pixels.

    Returns:
        `InstanceDataset` with ``is_crowd`` and ``area``, whose batches have ``instance_ids``.

    Raises:
        ValueError: the split has no folder, or, under ``on_error="raise"``, the first problem, with
            file and reason.
    """
    reader = "read_cityscapes_instances"
    names = CITYSCAPES_INSTANCE_CLASS_NAMES
    labels = {_IDS[name]: label for label, name in enumerate(names)}

    def read(path):
        values = read_label_pixels(path, apply_exif=apply_exif)
        return np.where(np.isin(_class_ids(values), list(labels)), values, 0)

    def describe(values):
        return {
            "labels": [labels[class_id] for class_id in _class_ids(values).tolist()],
            "is_crowd": values < 1000,
        }

    files = _files(root, split, annotations, "instanceIds", reader)
    return instance_dataset(files, names, read, describe, reader, on_error, apply_exif)


def _class_ids(values):
    """The ids of the classes of the values of `instanceIds`."""
    return np.where(values < 1000, values, values // 1000)


def _files(root, split, annotations, kind, reader):
    """Pairs of an image and its label map, in the order of the images' paths."""
    images = pathlib.Path(root) / "leftImg8bit" / split
    if not images.is_dir():
        raise ValueError(f"{reader}: `split`={split!r} has no folder of images: {images}.")
    files = []
    for path in sorted(images.glob("*/*_leftImg8bit.png")):
        city, frame = path.parent.name, path.name.removesuffix("_leftImg8bit.png")
        label_map = f"{frame}_{annotations}_{kind}.png"
        files.append((path, pathlib.Path(root) / annotations / split / city / label_map))
    return files
