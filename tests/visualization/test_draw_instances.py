"""Instances, energy maps and direction fields, read back from the pictures."""

import numpy as np
import pytest

from kvision.data import read_instance_maps, to_fit
from kvision.visualization import draw_directions, draw_energy, draw_instances

pytest.importorskip("matplotlib")

IMAGES = np.full((2, 20, 30, 3), 100, "uint8")
IDS = np.zeros((2, 20, 30, 1), "int32")
IDS[0, 5:10, 5:15] = 1
IDS[0, 5:10, 15:20] = 2
FOUND = {"instance_ids": np.roll(IDS[..., 0], 1, 2)}
TRUTH = {
    "instance_ids": IDS,
    "boxes": np.array([[[5, 5, 15, 10], [15, 5, 20, 10], [0, 0, 0, 0]]] * 2, "float32"),
    "labels": np.array([[1, 0, -1], [-1, -1, -1]]),
    "scores": np.array([[0.5, 0.75, 0.0]] * 2),
}


def shown(axes):
    return np.asarray(axes.get_images()[0].get_array())


def border_length(axes, color):
    from matplotlib.colors import to_rgb

    lines = [c for c in axes.collections if tuple(c.get_colors()[0][:3]) == to_rgb(color)]
    segments = np.concatenate([line.get_segments() for line in lines])
    assert (np.abs(np.diff(segments, axis=1)).sum((1, 2)) == 1).all()  # along edges of pixels
    return len(segments), segments.reshape(-1, 2).min(0), segments.reshape(-1, 2).max(0)


def test_each_instance_has_a_colour_of_its_own():
    first, second = draw_instances(IMAGES, FOUND, opacity=1.0).axes
    picture = shown(first)
    one, two = picture[7, 10], picture[7, 18]
    assert (picture[5:10, 6:16] == one).all()
    assert (picture[5:10, 16:21] == two).all()
    assert (one != two).any()
    assert (one != 100).any()
    assert (picture[FOUND["instance_ids"][0] == 0] == 100).all()
    np.testing.assert_array_equal(shown(second), IMAGES[1])


def test_borders_run_between_pixels_and_instances():
    figure = draw_instances(IMAGES, targets=TRUTH)
    length, least, most = border_length(figure.axes[0], "white")
    assert length == 2 * (15 + 5) + 5  # around both, and the line that they share
    # Pixel i spans i - 0.5 to i + 0.5.
    np.testing.assert_array_equal(least, [4.5, 4.5])
    np.testing.assert_array_equal(most, [19.5, 9.5])


def test_found_and_true_borders_lie_over_each_other():
    figure = draw_instances(IMAGES, FOUND, TRUTH, columns=1)
    assert len(figure.axes) == 6
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert titles == ["found", "truth", "borders: found orange, true blue"]
    borders = figure.axes[2]
    (_, found, _), (_, true, _) = (border_length(borders, c) for c in ("#ff7f0e", "#00e5ff"))
    np.testing.assert_array_equal(found - true, [1, 0])
    np.testing.assert_array_equal(shown(borders), IMAGES[0])


def test_boxes_have_their_classes_and_scores():
    first, second = draw_instances(IMAGES, targets=TRUTH, boxes=True, class_names="ab").axes
    assert [text.get_text() for text in first.texts] == ["b 0.50", "a 0.75"]
    assert [patch.get_bbox().bounds for patch in first.patches] == [
        (4.5, 4.5, 10, 5),
        (14.5, 4.5, 5, 5),
    ]
    assert not second.patches
    assert not draw_instances(IMAGES, targets=TRUTH).axes[0].patches


def test_energy_has_a_scale_and_a_line_at_the_cut():
    energy = IDS[..., 0] * 3
    figure = draw_energy(IMAGES, energy, energy[..., None], num_levels=8, cut=3, columns=1)
    assert [axes.get_title() for axes in figure.axes[:6]] == ["", "found", "truth"] * 2
    np.testing.assert_array_equal(shown(figure.axes[1]), energy[0])
    assert figure.axes[1].get_images()[0].get_clim() == (-0.5, 7.5)
    (line,) = figure.axes[1].collections
    corners = line.get_paths()[0].vertices
    np.testing.assert_array_equal(corners.min(0), [14.5, 4.5])  # half-way to the pixels before
    assert not figure.axes[4].collections  # nothing is above the cut
    assert figure.axes[6].get_ylabel() == "level"


def test_directions_have_the_colours_of_the_wheel():
    field = np.zeros((2, 20, 30, 2))
    field[0, :, 10:] = [1, 0]
    field[0, :10, :10] = [0, 1]
    field[0, 10:, 20:] = [-0.5, 0]
    figure = draw_directions(IMAGES, field)
    colors = shown(figure.axes[1])
    np.testing.assert_allclose(colors[0, 15], [1, 0, 0])  # to the right
    np.testing.assert_allclose(colors[0, 0], [0.5, 1, 0])  # down
    np.testing.assert_allclose(colors[19, 29], [0, 0.5, 0.5])  # to the left, half as long
    np.testing.assert_allclose(colors[19, 0], [0, 0, 0])
    wheel = shown(figure.axes[-1])
    np.testing.assert_allclose(wheel[100, 200], [1, 0, 0, 1])
    np.testing.assert_allclose(wheel[200, 100], [0.5, 1, 0, 1])
    assert wheel[0, 0, 3] == 0
    titles = [axes.get_title() for axes in draw_directions(IMAGES, field, field).axes[:3]]
    assert titles == ["", "found", "truth"]


def test_logits_are_drawn_as_their_levels():
    levels = np.random.default_rng(0).integers(0, 5, IMAGES.shape[:3])
    logits = np.eye(5)[levels]
    of_logits, of_levels = (
        draw_energy(IMAGES, energy, num_levels=number)
        for energy, number in ((logits, None), (levels, 5))
    )
    for one, other in zip(of_logits.axes, of_levels.axes, strict=True):
        if one.images:
            np.testing.assert_array_equal(shown(one), shown(other))
            assert one.images[0].get_clim() == other.images[0].get_clim()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_instances(IMAGES, {"instance_ids": IDS[:1]}), "draw_instances: `instances`"),
        (lambda: draw_instances(IMAGES, FOUND, {"instance_ids": IDS[:, 1:]}), "`targets` must be"),
        (
            lambda: draw_instances(IMAGES, IDS),
            "`instances` must be a dictionary with `instance_ids`",
        ),
        (lambda: draw_instances(IMAGES, FOUND, {"masks": IDS}), r"`targets` must .*: \['masks'\]"),
        (lambda: draw_energy(IMAGES, IDS[:1]), "draw_energy: `energy` must be of the number"),
        (lambda: draw_directions(IMAGES, IDS), "draw_directions: `directions` must have the shap"),
        (lambda: draw_energy(IMAGES[..., :1], IDS), "draw_energy: each of `images` must have"),
    ],
)
def test_what_does_not_fit_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_real_nuclei_become_a_file(shared_data, tmp_path):
    root = shared_data / "dsb2018"
    dataset = read_instance_maps(root / "images", root / "labels", names=root / "val.txt")
    images, targets = to_fit(dataset.batches(2, (256, 256))[0], "instances")
    path = tmp_path / "nuclei.png"
    draw_instances(images, targets, targets, boxes=True, path=path)
    assert path.read_bytes()[:4] == b"\x89PNG"
