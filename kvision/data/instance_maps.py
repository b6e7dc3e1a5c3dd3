"""Instances as images: label maps of ids, folders of one mask an object, and their readers."""

import os
import pathlib

import numpy as np

from kvision.data.images import pair_files, read_label_pixels, read_names
from kvision.data.instance_dataset import instance_dataset

_PLACES = (1, 256, 65536)


def read_instance_maps(
    images_dir,
    maps_dir,
    *,
    class_name="object",
    names=None,
    map_suffix="",
    colors=False,
    on_error="raise",
    apply_exif=True,
):
    """Read a folder of images and a folder of label maps in which each object has a value.

    The map of image ``name.jpg`` (or ``.jpeg``, ``.png``) is ``name.png``, or ``name_ids.png`` with
    ``map_suffix="_ids"``. Maps are grey images of up to 16 bits, or colours that stand for numbers;
    0 is background. Objects are numbered in the order of their values, and all are of one class. An
    image's id is its place in the order of the names, counted from 0.

    Maps are read twice: now, for boxes are made of them, and when a pass comes to them.

    Args:
        images_dir: str or path of the folder with the images.
        maps_dir: str or path of the folder with the label maps; images without one are a problem,
            maps without an image are not.
        class_name: str, what the objects are.
        names: str or path of a text file whose lines start with the name of an image, or a sequence
            of names, with or without their suffix; None takes all images in the order of their
            names.
        map_suffix: str between the name of an image and ``.png``.
        colors: bool, whether maps hold ids as COCO's panoptic images do, red + 256 green + 65536
            blue.
        on_error: ``"raise"`` or ``"skip"``, which leaves out images when they or their maps are
            missing or damaged or differ in size; see `InstanceDataset.report`.
        apply_exif: bool, whether EXIF orientation turns the pixels.

    Returns:
        `InstanceDataset`, whose batches have ``instance_ids``.

    Raises:
        ValueError: a folder is missing, or, under ``on_error="raise"``, the first problem, with
            file and reason.
    """
    reader = "read_instance_maps"
    files = pair_files(images_dir, maps_dir, names, map_suffix, reader)

    def read(path):
        return read_instance_map(path, colors=colors, apply_exif=apply_exif)

    return instance_dataset(files, [class_name], read, _one_class, reader, on_error, apply_exif)


def read_mask_folders(root, *, class_name="object", names=None, on_error="raise", apply_exif=True):
    """Read a folder in which each image has a folder of its own, with one mask an object.

    The image is the only file of ``<root>/<name>/images``, the masks are all files of
    ``<root>/<name>/masks``, as in the Data Science Bowl of 2018 (BBBC038). A mask is a grey image
    that is not 0 where its object is. Objects are numbered in the order of their files; where they
    overlap, the later one is on top, and one that is covered entirely is left out. An image's id is
    its place in the order of the names, counted from 0.

    Args:
        root: str or path.
        class_name: str, what the objects are.
        names: See `read_instance_maps`; None takes all folders.
        on_error: See `read_instance_maps`.
        apply_exif: bool, whether EXIF orientation turns the pixels.

    Returns:
        `InstanceDataset`, whose batches have ``instance_ids``.

    Raises:
        ValueError: the folder is missing, or, under ``on_error="raise"``, the first problem, with
            file and reason.
    """
    reader = "read_mask_folders"
    root = pathlib.Path(root)
    if not root.is_dir():
        raise ValueError(f"{reader}: the folder {root} is missing.")
    if names is None:
        names = sorted(path.name for path in root.iterdir() if (path / "images").is_dir())
    elif isinstance(names, str | os.PathLike):
        names = read_names(names, reader, f"`names`={os.fspath(names)!r}")
    files = []
    for name in names:
        found = sorted((root / name / "images").glob("*"))
        # A folder of no image, or of several, is no file, and is reported as such.
        files.append(
            (found[0] if len(found) == 1 else root / name / "images", root / name / "masks")
        )

    def read(folder):
        return _read_masks(folder, apply_exif)

    return instance_dataset(files, [class_name], read, _one_class, reader, on_error, apply_exif)


def read_instance_map(path, *, colors=False, apply_exif=True):
    """Read a label map of objects.

    Args:
        path: str or path of a PNG file, or of another lossless one that Pillow reads.
        colors: bool, whether ids are written as red + 256 green + 65536 blue, as COCO's panoptic
            images do; else as grey values of up to 16 bits.
        apply_exif: bool, whether an orientation in the file's EXIF data turns the pixels.

    Returns:
        int32 ``(h, w)``, the numbers as they are written; 0 is background.

    Raises:
        ValueError: the file is missing, damaged, lossy, or holds something else; the message is the
            reason without the file's name.
    """
    pixels = read_label_pixels(path, colors=colors, apply_exif=apply_exif)
    return (pixels * np.array(_PLACES, "int32")).sum(-1, dtype="int32") if colors else pixels


def write_instance_map(path, instance_ids, *, colors=False):
    """Write a label map of objects as a PNG file.

    Args:
        path: str or path.
        instance_ids: ints ``(h, w)`` or ``(h, w, 1)``; 0 is background.
        colors: bool, as in `read_instance_map`: ids up to 16,777,215, else up to 65,535.

    Raises:
        ValueError: an id that cannot be written.
    """
    from PIL import Image

    ids = np.asarray(instance_ids)
    ids = ids.reshape(ids.shape[:2])
    most = 2**24 - 1 if colors else 2**16 - 1
    if ids.min(initial=0) < 0 or ids.max(initial=0) > most:
        raise ValueError(
            f"write_instance_map: ids must be in 0..{most}. Received: {ids.min()}..{ids.max()}."
        )
    if colors:
        ids = (ids[..., None] // _PLACES % 256).astype("uint8")
    Image.fromarray(ids.astype("uint8" if colors else "uint16")).save(path, "PNG")


def _read_masks(folder, apply_exif):
    """The label map that a folder of masks makes."""
    ids = None
    for number, path in enumerate(sorted(pathlib.Path(folder).glob("*")), 1):
        try:
            mask = read_label_pixels(path, apply_exif=apply_exif) > 0
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None
        if ids is None:
            ids = np.zeros(mask.shape, "int32")
        if mask.shape != ids.shape:
            raise ValueError(f"{path.name}: it is of the size {mask.shape}, others {ids.shape}")
        ids[mask] = number
    if ids is None:
        raise ValueError("there are no masks")
    return ids


def _one_class(values):
    return {"labels": [0] * len(values)}
