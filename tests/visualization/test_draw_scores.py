"""Bars, matrices and curves, read back from the figures."""

import types

import numpy as np
import pytest

from kvision.visualization import draw_class_bars, draw_confusion_matrix, draw_history

NAMES = ["sky", "road", "car"]


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_a_bar_for_each_class_and_its_mean(tmp_path):
    path = tmp_path / "bars.png"
    figure = draw_class_bars([0.25, np.nan, 0.75], NAMES, title="IoU", path=path)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.25, 0, 0.75]
    assert words(axes) == ["0.250", "does not occur", "0.750"]
    (line,) = axes.get_lines()
    assert set(line.get_xdata()) == {0.5}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mean 0.500"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == NAMES
    assert axes.yaxis_inverted()  # the first class is on top
    assert path.stat().st_size > 1000


def test_bars_of_several_runs_stand_beside_each_other():
    figure = draw_class_bars({"one": [0.1, 0.2, 0.3], "other": [0.4, 0.5, 0.6]}, NAMES)
    bars = sorted(figure.axes[0].patches, key=lambda bar: bar.get_y())
    assert [round(bar.get_width(), 1) for bar in bars] == [0.1, 0.4, 0.2, 0.5, 0.3, 0.6]
    ends = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in bars]
    assert all(end <= start for (_, end), (start, _) in zip(ends, ends[1:], strict=False))
    with pytest.raises(ValueError, match=r"draw_class_bars: .* 3 classes.*shape \(2,\) for 'one'"):
        draw_class_bars({"one": [0.1, 0.2]}, NAMES)


def test_a_matrix_in_per_cent_of_its_rows(tmp_path):
    matrix = np.array([[3, 1, 0], [0, 0, 0], [1, 999, 0]])
    figure = draw_confusion_matrix(matrix, NAMES, path=tmp_path / "matrix.png")
    axes = figure.axes[0]
    shown = axes.get_images()[0].get_array()
    np.testing.assert_allclose(shown[[0, 2]], [[75, 25, 0], [0.1, 99.9, 0]])
    assert shown.mask[1].all()  # there is no true road
    assert words(axes) == ["75", "25", "0", "<1", "100", "0"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "found")


def test_a_matrix_of_counts():
    figure = draw_confusion_matrix([[1234, 0], [5, 6]], NAMES[:2], normalize=False)
    assert words(figure.axes[0]) == ["1,234", "0", "5", "6"]
    assert not words(draw_confusion_matrix(np.eye(31), [str(k) for k in range(31)]).axes[0])
    draw_confusion_matrix(np.zeros((2, 2)), NAMES[:2], normalize=False)
    with pytest.raises(ValueError, match=r"draw_confusion_matrix: .*\(3, 3\).*Received: \(2, 2\)"):
        draw_confusion_matrix(np.eye(2), NAMES)


HISTORY = {
    "loss": [3.0, 2.0, 1.5, 1.0],
    "mean_iou": [0.1, 0.2, 0.3, 0.4],
    "iou/sky": [0.5, 0.5, 0.5, 0.5],
    "val_loss": [2.5, 1.5],
    "val_mean_iou": [0.1, 0.2],
    "val_iou/sky": [0.4, 0.4],
}


def test_training_and_validation_share_a_panel(tmp_path):
    fitted = types.SimpleNamespace(history=HISTORY)
    figure = draw_history(fitted, path=tmp_path / "history.png")
    assert [axes.get_title() for axes in figure.axes] == ["loss", "mean_iou"]
    training, validation = figure.axes[0].get_lines()
    np.testing.assert_array_equal(training.get_xydata(), [(1, 3), (2, 2), (3, 1.5), (4, 1)])
    # Validated after every second epoch.
    np.testing.assert_array_equal(validation.get_xydata(), [(2, 2.5), (4, 1.5)])


def test_curves_are_chosen_by_name():
    figure = draw_history(HISTORY, names=["iou/sky"])
    assert [axes.get_title() for axes in figure.axes] == ["iou/sky"]
    with pytest.raises(ValueError, match=r"draw_history: `names` .*Received: \['depth'\]"):
        draw_history(HISTORY, names=["loss", "depth"])
    with pytest.raises(ValueError, match="draw_history: `names`"):
        draw_history({})


def test_epochs_without_a_validation_leave_no_gap():
    nan = float("nan")
    figure = draw_history({"loss": [4.0, 3.0, 2.0, 1.0], "val_loss": [nan, 3.5, nan, 1.5]})
    _, validation = figure.axes[0].lines
    np.testing.assert_array_equal(validation.get_xdata(), [2, 4])
    np.testing.assert_array_equal(validation.get_ydata(), [3.5, 1.5])
