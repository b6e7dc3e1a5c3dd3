import keras
import pytest
from keras import layers

import kvision
from kvision.visualization import draw_receptive_fields

pytest.importorskip("matplotlib")


def test_draws_a_bar_for_every_change(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((32, 48, 3)),
            layers.Conv2D(2, 3, strides=2, name="a"),
            layers.ReLU(name="b"),
            layers.MaxPooling2D(2, name="c"),
            layers.GlobalAveragePooling2D(name="d"),
        ]
    )
    path = tmp_path / "fields.png"
    figure = draw_receptive_fields(kvision.receptive_field(model), path=path)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "c"]
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches if bar.get_height() == 0.8]
    # The middle of 23 positions of stride 2, then of 11 of stride 4.
    assert bars == [(22, 3), (20, 5)]
    top, bottom = (axes.transData.transform((0, place))[1] for place in (0, 1))
    assert top > bottom  # the rows go down the net
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["2", "4"]
    assert path.stat().st_size > 0
