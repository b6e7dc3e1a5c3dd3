"""VOC's label maps and their palette."""

import numpy as np
import pytest

from kvision.data import VOC_COLORS, VOC_SEMANTIC_CLASS_NAMES, read_voc_segmentation

Image = pytest.importorskip("PIL.Image")

# The first colours of the development kit's colour map, and that of the border.
PUBLISHED = """
0 0 0, 128 0 0, 0 128 0, 128 128 0, 0 0 128, 128 0 128, 0 128 128, 128 128 128, 64 0 0, 192 0 0,
64 128 0, 192 128 0, 64 0 128, 192 0 128, 64 128 128, 192 128 128, 0 64 0, 128 64 0, 0 192 0,
128 192 0, 0 64 128
"""


def test_the_palette_is_the_development_kits():
    published = [tuple(map(int, entry.split())) for entry in PUBLISHED.split(",")]
    assert list(VOC_COLORS[:21]) == published
    assert VOC_COLORS[255] == (224, 224, 192)
    assert len(set(VOC_COLORS)) == len(VOC_COLORS) == 256
    assert len(VOC_SEMANTIC_CLASS_NAMES) == 21


@pytest.fixture
def voc(tmp_path):
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")
    Image.new("RGB", (22, 1)).save(tmp_path / "JPEGImages" / "a.jpg")
    write_labels(tmp_path, [*range(21), 255])
    return tmp_path


def write_labels(root, values):
    image = Image.fromarray(np.array([values], "uint8"))
    image.putpalette([part for color in VOC_COLORS for part in color])
    image.save(root / "SegmentationClass" / "a.png")


def test_labels_are_the_indices_not_the_colours(voc):
    dataset = read_voc_segmentation(voc, "val")
    assert dataset.class_names[15] == "person"
    (batch,) = dataset.batches(1, None)
    assert batch["segmentation_masks"].ravel().tolist() == [*range(21), 255]


def test_what_is_wrong_is_named(voc):
    with pytest.raises(ValueError, match="`split`='train' has no list of images: .*Segmentation"):
        read_voc_segmentation(voc, "train")
    write_labels(voc, [21] * 22)
    with pytest.raises(ValueError, match=r"read_voc_segmentation: .*a\.png: .*the index 21 \(22"):
        list(read_voc_segmentation(voc, "val").batches(1, None))
