"""Images with label maps on disk and their batches, and the reader of folders of such files."""

import dataclasses

from kvision.boxes.resize import resize_images
from kvision.data.image_dataset import ImageDataset
from kvision.data.images import pair_files, read_size
from kvision.data.label_code import IGNORE_LABEL, LabelCode
from kvision.data.problems import ProblemReport


@dataclasses.dataclass(frozen=True)
class LabelledImage:
    """One image file and the file of its label map.

    Args:
        path: str, the image file.
        label_path: str, the label map.
        image_id: int.
        original_size: ``(height, width)``, of both.
    """

    path: str
    label_path: str
    image_id: int
    original_size: tuple


class SegmentationDataset(ImageDataset):
    """Images of one split with their label maps, made by `read_label_maps` and the like.

    ``len()`` is their number, indexing gives a `LabelledImage`. Batches hold ``images`` uint8
    ``(B, H, W, 3)``; ``segmentation_masks`` int32 ``(B, H, W, 1)``, of 0..num_classes - 1 and the
    ignore label 255; ``image_id`` int32 ``(B,)``; ``original_size`` int32 ``(B, 2)``, height and
    width. Label maps are resized to nearest, with pixel centres where those of the image are; the
    padding of a letterbox has the ignore label.

    Args:
        examples: sequence of `LabelledImage`.
        class_names: sequence of str, in the order of the labels.
        report: `ProblemReport`; unreadable files are added to it when a pass meets them.
        label_code: `LabelCode`, what the pixels of the label maps mean.
        apply_exif: bool, whether EXIF orientation turns the pixels.
    """

    _PIXELS = {"images": ("uint8", 3), "segmentation_masks": ("int32", 1)}

    def __init__(self, examples, class_names, report, label_code, *, apply_exif=True):
        super().__init__(examples, class_names, report, apply_exif=apply_exif)
        self.label_code = label_code

    @property
    def ignore_label(self):
        """The label of pixels that do not count, 255."""
        return IGNORE_LABEL

    def _files(self, example):
        return {"images": example.path, "segmentation_masks": example.label_path}

    def _read(self, key, path):
        if key == "images":
            return super()._read(key, path)
        return self.label_code.read(path, apply_exif=self.apply_exif)

    def _resize(self, example, image_size, policy):
        masks = resize_images(
            example["segmentation_masks"],
            image_size,
            policy,
            interpolation="nearest",
            padding=IGNORE_LABEL,
        )
        return super()._resize(example, image_size, policy) | {"segmentation_masks": masks}


def read_label_maps(
    images_dir,
    labels_dir,
    class_names,
    *,
    names=None,
    label_suffix="",
    values=None,
    colors=None,
    ignore=None,
    on_error="raise",
    apply_exif=True,
):
    """Read a folder of images and a folder of label maps.

    The label map of image ``name.jpg`` (or ``.jpeg``, ``.png``) is ``name.png``, or ``name_L.png``
    with ``label_suffix="_L"``. Label maps hold indices, as the values of grey images of up to 16
    bits or as the indices of palette images, whose colours do not count; or, with ``colors``, they
    hold colours. An image's id is its place in the order of the names, counted from 0.

    Sizes are compared now, pixels read when a pass over `SegmentationDataset.dataset` comes to
    them. Under ``on_error="skip"`` an image is left out when it or its label map is missing or
    damaged, their sizes differ, or the label map has a pixel that is neither a class nor ignored.

    Args:
        images_dir: str or path of the folder with the images.
        labels_dir: str or path of the folder with the label maps; images without one are a problem,
            label maps without an image are not.
        class_names: sequence of at most 255 str; a label is a place in it.
        names: str or path of a text file whose lines start with the name of an image, or a sequence
            of names, with or without their suffix; None takes all images in the order of their
            names.
        label_suffix: str between the name of an image and ``.png``.
        values: dictionary from class name to the index, or the list of indices, that label maps
            hold for it; None where index k is class k.
        colors: dictionary from class name to the colour ``(r, g, b)``, or the list of colours, that
            label maps hold for it; None where they hold indices.
        ignore: list of indices or colours that become the ignore label, 255; ``"others"``: all that
            are no class's; None: the index 255, and no colour.
        on_error: ``"raise"`` or ``"skip"``; see `SegmentationDataset.report` for what was skipped.
        apply_exif: bool, whether EXIF orientation turns the pixels.

    Returns:
        `SegmentationDataset`.

    Raises:
        ValueError: a bad argument, or, under ``on_error="raise"``, the first problem, with file and
            reason.
    """
    reader = "read_label_maps"
    code = LabelCode(class_names, values=values, colors=colors, ignore=ignore, reader=reader)
    files = pair_files(images_dir, labels_dir, names, label_suffix, reader)
    return labelled_images(files, class_names, code, reader, on_error, apply_exif)


def labelled_images(files, class_names, label_code, reader, on_error, apply_exif):
    """Make the data set of pairs of files, after a look at their sizes.

    Args:
        files: sequence of (path of the image, path of its label map).
        class_names: sequence of str.
        label_code: `LabelCode`.
        reader: str, the function that reads.
        on_error: ``"raise"`` or ``"skip"``.
        apply_exif: bool.

    Returns:
        `SegmentationDataset`.

    Raises:
        ValueError: a bad ``on_error``, or, under ``"raise"``, the first problem.
    """
    report = ProblemReport(reader, on_error)
    examples = []
    for image_id, (path, label_path) in enumerate(files):
        at_fault = path
        try:
            size = read_size(path, apply_exif=apply_exif)
            at_fault = label_path
            label_size = read_size(label_path, apply_exif=apply_exif)
            if label_size != size:
                raise ValueError(
                    f"the label map is {label_size[1]} x {label_size[0]} pixels, its image "
                    f"{size[1]} x {size[0]}"
                )
        except ValueError as error:
            report.add(at_fault, "image", str(error))
        else:
            examples.append(LabelledImage(str(path), str(label_path), image_id, size))
    report.warn()
    return SegmentationDataset(examples, class_names, report, label_code, apply_exif=apply_exif)
