"""What is drawn, read back from the figure and from its pixels."""

import builtins

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from kvision.visualization import draw_detections

IMAGES = np.full((2, 40, 60, 3), 128, "uint8")
DETECTIONS = {
    "boxes": np.array([[(10, 5, 30, 25), (0, 0, 60, 40)], [(1, 1, 9, 9), (0, 0, 0, 0)]], "float32"),
    "scores": np.array([[0.9, 0.4], [0.75, 0.0]], "float32"),
    "labels": np.array([[1, 0], [0, -1]], "int32"),
    "num_detections": np.array([2, 1], "int32"),
}
TARGETS = {
    "boxes": np.array([[(11, 6, 31, 26)], [(0, 0, 0, 0)]], "float32"),
    "labels": np.array([[1], [-1]], "int32"),
}


def drawn(axes):
    """`(corners in pixel coordinates, line style)` of the boxes of a panel."""
    return [
        (tuple(np.array(patch.get_bbox().extents) + 0.5), patch.get_linestyle())
        for patch in axes.patches
        if isinstance(patch, Rectangle)
    ]


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_solid_detections_and_dashed_truth():
    figure = draw_detections(IMAGES, DETECTIONS, TARGETS, class_names=["cat", "dog"])
    first, second = figure.axes
    (box, solid), (truth, dashed) = drawn(first)
    assert (box, solid) == ((10, 5, 30, 25), "solid")
    assert truth == (11, 6, 31, 26)
    assert dashed != "solid"
    assert words(first) == ["dog 0.90", "dog"]
    assert words(second) == ["cat 0.75"]


def test_threshold_and_numbers_for_names():
    figure = draw_detections(IMAGES, DETECTIONS, score_threshold=0.3)
    assert words(figure.axes[0]) == ["0 0.40", "1 0.90"]  # the best scored is on top


def test_boxes_lie_on_their_pixels(tmp_path):
    from matplotlib.image import imread

    path = tmp_path / "detections.png"
    figure = draw_detections(IMAGES[:1], {k: v[:1] for k, v in DETECTIONS.items()}, path=path)
    pixels = imread(path)[..., :3]
    to_display = figure.axes[0].transData
    for x, y in ((9.5, 15), (29.5, 15), (20, 4.5), (20, 24.5)):  # the middles of the four sides
        column, row = to_display.transform((x, y)) * 120 / figure.dpi
        color = pixels[pixels.shape[0] - 1 - int(row), int(column)]
        assert np.ptp(color) > 0.5  # coloured, where the image is grey
    column, row = to_display.transform((20, 15)) * 120 / figure.dpi
    inside = pixels[pixels.shape[0] - 1 - int(row), int(column)]
    np.testing.assert_allclose(inside, 128 / 255, atol=0.01)


def test_images_of_many_sizes():
    images = [np.zeros((20, 30, 3)), np.zeros((50, 20, 3)), np.zeros((5, 5, 3))]
    figure = draw_detections(images, columns=2)
    assert [axes.get_images()[0].get_size() for axes in figure.axes if axes.get_images()] == [
        (20, 30),
        (50, 20),
        (5, 5),
    ]


def test_no_images():
    assert draw_detections(np.zeros((0, 8, 8, 3)), columns=3).axes


@pytest.mark.parametrize(
    ("images", "detections", "message"),
    [
        (np.zeros((1, 8, 8, 1)), None, "height, width, 3"),
        (np.zeros((8, 8, 3)), None, "height, width, 3"),
        (IMAGES[:1], DETECTIONS, "as many images"),
    ],
)
def test_bad_arguments(images, detections, message):
    with pytest.raises(ValueError, match=f"draw_detections: .*{message}"):
        draw_detections(images, detections)


def test_missing_package_is_named(monkeypatch):
    real_import = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        draw_detections(IMAGES)
