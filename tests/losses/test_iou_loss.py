"""Losses by overlap: torchvision's numbers of a worked pair, and training with them."""

import keras
import numpy as np
import pytest
from keras import ops

from kvision.losses import IoULoss, iou_loss

# torchvision's losses of these boxes, and of the pair (0, 0, 4, 2), (1, 0, 3, 3).
TARGETS = np.array([(0, 0, 4, 2), (0, 0, 2, 2)], "float32")
PREDICTIONS = np.array([(1, 0, 3, 3), (0, 0, 2, 2)], "float32")
EXPECTED = {"iou": 0.6, "giou": 0.766667, "diou": 0.61, "ciou": 0.626823}


@pytest.mark.parametrize("kind", EXPECTED)
def test_worked_pairs(kind):
    found = ops.convert_to_numpy(iou_loss(TARGETS, PREDICTIONS, kind))
    np.testing.assert_allclose(found, [EXPECTED[kind], 0], 0, 1e-6)
    assert float(IoULoss(kind)(TARGETS, PREDICTIONS)) == pytest.approx(EXPECTED[kind] / 2, abs=1e-6)
    assert float(IoULoss(kind, reduction="sum")(TARGETS, PREDICTIONS)) == pytest.approx(
        EXPECTED[kind], abs=1e-6
    )


def test_boxes_are_learnt_by_it():
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(4, bias_initializer="ones")(inputs))
    model.compile(keras.optimizers.Adam(0.05), loss=IoULoss("ciou"))
    targets = np.array([(2, 1, 5, 3)] * 16, "float32")
    model.layers[1].bias.assign([0.0, 0.0, 2.0, 2.0])
    model.fit(np.zeros((16, 1)), targets, epochs=200, verbose=0, shuffle=False)
    assert model.evaluate(np.zeros((16, 1)), targets, verbose=0) < 0.1


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="IoULoss: `kind` must be one of"):
        IoULoss("piou")
    with pytest.raises(ValueError, match=r"iou_loss: `predictions` must have shape \(..., 4\)"):
        iou_loss(TARGETS, PREDICTIONS[:, :3])
    with pytest.raises(TypeError, match="must be floating point"):
        iou_loss(TARGETS.astype("int32"), PREDICTIONS)
