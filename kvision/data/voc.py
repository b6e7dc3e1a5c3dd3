"""PASCAL VOC: one XML file or palette image an image, and lists of the images of a split.

Format: M. Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", 2010.
"""

import pathlib
from xml.etree import ElementTree

from kvision.data.annotated_image import AnnotatedImage, box_problem, pack_boxes
from kvision.data.detection_dataset import DetectionDataset
from kvision.data.images import find_image, read_image, read_names
from kvision.data.label_code import LabelCode
from kvision.data.problems import ProblemReport
from kvision.data.segmentation_dataset import labelled_images

VOC_CLASS_NAMES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor".split()
)
"""The twenty classes of VOC 2007 to 2012."""

VOC_SEMANTIC_CLASS_NAMES = ("background", *VOC_CLASS_NAMES)
"""Class names of VOC's label maps, in the order of their indices."""

VOC_COLORS = tuple(
    tuple(
        sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3))
        for channel in range(3)
    )
    for index in range(256)
)
"""Red, green and blue of the 256 indices of VOC's palette; 255, objects' border, is ignored."""


def read_voc(
    root, split, *, class_names=VOC_CLASS_NAMES, one_based=True, on_error="raise", apply_exif=True
):
    """Read a detection data set in PASCAL VOC's layout.

    The images of a split are the first words of the lines of ``ImageSets/Main/<split>.txt``; image
    ``name`` has ``Annotations/<name>.xml`` and ``JPEGImages/<name>.jpg`` (or ``.jpeg``, ``.png``).
    An image's id is its place in that list, counted from 0.

    Annotations are read and checked now, pixels when a pass over `DetectionDataset.dataset` comes
    to them. Under ``on_error="skip"`` an image is left out when its annotation or image file is
    missing or damaged or their sizes differ; a box alone is left out, and its image kept, when
    its class is unknown, its corners are not numbers, it has no area (``xmax <= xmin`` or ``ymax <=
    ymin``) or it reaches outside the image by more than one pixel. Nothing is repaired or clipped.

    Args:
        root: str or path of the folder with ``Annotations``, ``ImageSets`` and ``JPEGImages``.
        split: str, such as ``"train"``.
        class_names: sequence of str; a label is a place in it.
        one_based: bool. VOC counts pixels from 1 and includes the last: its box is ``(xmin - 1,
            ymin - 1, xmax, ymax)`` in corner coordinates, from 0. ``False`` takes the numbers as
            corner coordinates, for tools that wrote them so.
        on_error: ``"raise"`` or ``"skip"``; see `DetectionDataset.report` for what was skipped.
        apply_exif: bool, whether EXIF orientation turns the pixels before they are compared with
            the annotation.

    Returns:
        `DetectionDataset` with ``boxes``, ``labels`` and ``difficult``.

    Raises:
        ValueError: the split has no list, or, under ``on_error="raise"``, the first problem, with
            file and reason.
    """
    report = ProblemReport("read_voc", on_error)
    root = pathlib.Path(root)
    names = read_names(
        root / "ImageSets" / "Main" / f"{split}.txt", "read_voc", f"`split`={split!r}"
    )
    labels = {name: label for label, name in enumerate(class_names)}
    examples = []
    for image_id, name in enumerate(names):
        example = _read_example(root, name, image_id, labels, one_based, apply_exif, report)
        if example is not None:
            examples.append(example)
    report.warn()
    return DetectionDataset(examples, class_names, report, apply_exif=apply_exif)


def read_voc_segmentation(
    root, split, *, class_names=VOC_SEMANTIC_CLASS_NAMES, on_error="raise", apply_exif=True
):
    """Read a semantic segmentation data set in PASCAL VOC's layout.

    The images of a split are the first words in the lines of
    ``ImageSets/Segmentation/<split>.txt``; image ``name`` has ``JPEGImages/<name>.jpg`` (or
    ``.jpeg``, ``.png``) and ``SegmentationClass/<name>.png``, a palette image whose indices are the
    labels; 255, the border of the objects, is the ignore label. An image's id is its place in that
    list, counted from 0.

    Args:
        root: str or path of the folder with ``ImageSets``, ``JPEGImages`` and
            ``SegmentationClass``.
        split: str, such as ``"train"``.
        class_names: sequence of str; a label is a place in it.
        on_error: ``"raise"`` or ``"skip"``, as in `read_label_maps`.
        apply_exif: bool, whether EXIF orientation turns the pixels.

    Returns:
        `SegmentationDataset`.

    Raises:
        ValueError: the split has no list, or, under ``on_error="raise"``, the first problem, with
            file and reason.
    """
    reader = "read_voc_segmentation"
    root = pathlib.Path(root)
    names = read_names(
        root / "ImageSets" / "Segmentation" / f"{split}.txt", reader, f"`split`={split!r}"
    )
    files = [
        (find_image(root / "JPEGImages", name), root / "SegmentationClass" / f"{name}.png")
        for name in names
    ]
    code = LabelCode(class_names, reader=reader)
    return labelled_images(files, class_names, code, reader, on_error, apply_exif)


def _read_example(root, name, image_id, labels, one_based, apply_exif, report):
    annotation = root / "Annotations" / f"{name}.xml"
    path = find_image(root / "JPEGImages", name)
    if not path.is_file():
        return report.add(path, "image", "the image file is missing")
    try:
        tree = ElementTree.parse(annotation).getroot()
    except FileNotFoundError:
        return report.add(annotation, "image", "the annotation file is missing")
    except ElementTree.ParseError as error:
        return report.add(annotation, "image", f"the annotation is not well-formed XML ({error})")
    try:
        size = _stated_size(tree) or read_image(path, apply_exif=apply_exif).shape[:2]
    except ValueError as error:
        return report.add(path, "image", str(error))
    boxes, box_labels, difficult = [], [], []
    for item in tree.iter("object"):
        try:
            box_labels_item = labels[item.findtext("name", "").strip()]
            box = _corners(item, size, one_based)
        except KeyError as error:
            report.add(annotation, "box", f"the class {error} is unknown")
        except ValueError as error:
            report.add(annotation, "box", str(error))
        else:
            boxes.append(box)
            box_labels.append(box_labels_item)
            difficult.append(item.findtext("difficult", "0").strip() == "1")
    return AnnotatedImage(
        str(path), image_id, size, pack_boxes(boxes, box_labels, difficult=difficult)
    )


def _stated_size(tree):
    """Height and width by the annotation, None where it does not state them."""
    try:
        size = tuple(int(tree.findtext(f"size/{side}")) for side in ("height", "width"))
    except (TypeError, ValueError):
        return None
    return size if min(size) > 0 else None


def _corners(item, size, one_based):
    """The four corners of an object, counted from 0: checked as they stand and as they become."""
    texts = [item.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x1, y1, x2, y2 = stated = [float(text) for text in texts]
    except (TypeError, ValueError):
        raise ValueError(f"the box {texts} is not four numbers") from None
    box = [x1 - one_based, y1 - one_based, x2, y2]
    reason = box_problem(stated, size) or box_problem(box, size)
    if reason:
        raise ValueError(reason)
    return box
