"""Label maps over images, read back from the pictures."""

import builtins

import numpy as np
import pytest

from kvision.data import CAMVID_CLASS_NAMES, CAMVID_COLORS, read_camvid, to_fit
from kvision.visualization import draw_segmentation

IMAGES = np.full((2, 20, 30, 3), 100, "uint8")
LABELS = np.zeros((2, 20, 30), "int32")
LABELS[0, :, 15:] = 2
TRUTH = LABELS[..., None].copy()
TRUTH[:, :5] = 255
COLORS = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
NAMES = ["a", "b", "c"]


def shown(axes):
    (image,) = axes.get_images()
    return np.asarray(image.get_array())


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def test_colours_lie_over_the_image():
    figure = draw_segmentation(IMAGES, LABELS, class_names=NAMES, colors=COLORS, opacity=0.25)
    first, second = figure.axes
    left, right = (0.75 * 100 + 0.25 * np.array(COLORS[k]) for k in (0, 2))
    np.testing.assert_array_equal(shown(first)[:, :15], np.broadcast_to(left, (20, 15, 3)))
    np.testing.assert_array_equal(shown(first)[:, 15:], np.broadcast_to(right, (20, 15, 3)))
    np.testing.assert_array_equal(shown(second), np.broadcast_to(left, (20, 30, 3)))
    assert legend(figure) == ["a", "c"]  # what is to be seen


def test_truth_stands_beside_what_was_found():
    figure = draw_segmentation(IMAGES, LABELS, TRUTH, class_names=NAMES, colors=COLORS, columns=1)
    assert [axes.get_title() for axes in figure.axes] == ["found", "truth"] * 2
    found, truth = map(shown, figure.axes[:2])
    np.testing.assert_array_equal(found[5:], truth[5:])
    assert legend(figure) == ["a", "c", "ignored"]
    # What is ignored is grey in two shades, and no class's colour.
    ignored = truth[:5].reshape(-1, 3)
    assert (ignored == ignored[:, :1]).all()
    assert len(np.unique(ignored[:, 0])) == 2


def test_truth_alone_and_images_alone():
    figure = draw_segmentation(IMAGES, targets=TRUTH)
    assert len(figure.axes) == 2
    assert legend(figure) == ["0", "2", "ignored"]
    plain = draw_segmentation(IMAGES)
    np.testing.assert_array_equal(shown(plain.axes[0]), IMAGES[0])
    assert not legend(plain)


def test_twenty_classes_have_twenty_colours():
    labels = np.arange(20).reshape(1, 4, 5)
    figure = draw_segmentation(np.zeros((1, 4, 5, 3)), labels, opacity=1.0)
    colors = shown(figure.axes[0]).reshape(-1, 3)
    assert len(np.unique(colors, axis=0)) == 20


def test_images_of_many_sizes():
    images = [np.zeros((4, 6, 3)), np.zeros((9, 5, 3))]
    figure = draw_segmentation(images, [np.ones((4, 6), int), np.ones((9, 5, 1), int)])
    assert [shown(axes).shape for axes in figure.axes] == [(4, 6, 3), (9, 5, 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": LABELS[:1]}, "`labels` must be of the number and the sizes"),
        ({"targets": TRUTH[:, 1:]}, r"`targets` must be of .*Received: \[\(19, 30\)"),
        ({"labels": LABELS, "colors": COLORS[:2]}, "`colors` must have an entry .*labels 0 to 2"),
        ({"labels": LABELS - 1, "class_names": NAMES}, "`class_names` must .*labels -1 to 1"),
        ({"images": IMAGES[..., :2]}, "each of `images` must have shape"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"draw_segmentation: {message}"):
        draw_segmentation(**{"images": IMAGES} | arguments)


def test_a_missing_matplotlib_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="draw_segmentation: the package `matplotlib` is needed"):
        draw_segmentation(IMAGES)


def test_real_frames_fill_the_picture(shared_data, tmp_path):
    from matplotlib.image import imread

    dataset = read_camvid(shared_data / "camvid", "val")
    images, masks = to_fit(dataset.batches(2, None)[0])
    path = tmp_path / "camvid.png"
    figure = draw_segmentation(
        images, masks, masks, class_names=CAMVID_CLASS_NAMES, colors=CAMVID_COLORS, path=path
    )
    pixels = imread(path)
    white = (pixels[..., :3] == 1).all(-1).mean()
    assert white < 0.25  # the panels, not their surroundings, fill it
    assert set(legend(figure)) >= {"Sky", "Road", "Building", "ignored"}
