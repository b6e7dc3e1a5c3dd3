"""The mask loss against torchvision's, and the prefix of regions that it is computed of."""

import numpy as np
import pytest
from keras import ops

from kvision.models.instances.mask_losses import mask_loss, of_the_first
from kvision.ops import crop_masks
from kvision.testing.vjp import vjp


def wave(shape, amplitude):
    """Deterministic filler: `amplitude * sin(0.37 * i + 0.2)` over the flat index i."""
    i = np.arange(np.prod(shape))
    return (amplitude * np.sin(0.37 * i + 0.2)).astype("float32").reshape(shape)


def test_worked_example():
    logits = np.array([[[[2, -1], [0, 3]]]], "float32")
    targets = np.array([[[[1, 0], [0, 1]]]], "float32")
    loss = mask_loss(logits, targets, np.array([1], "int32"))
    assert float(loss) == pytest.approx(0.295481, abs=1e-6)


BOXES = np.array([[(1, 1, 7, 7), (0, 0, 8, 8), (2, 3, 6, 7)]], "float32")
ROWS, CLASSES = np.array([[0, 1, 0]], "int32"), np.array([1, 2, 1])
# Of torchvision 0.28.0: the sums of the gradient's magnitudes, by region and class.
SLOPES = [[0, 0.091967, 0], [0, 0, 0.185991], [0, 0.192622, 0]]


def object_runs():
    """Rows 2 to 5 of columns 3 to 6, and rows 0 to 3 of columns 0 to 3, of 8 x 8 pixels.

    They have pixels in common, so that no label map holds both.
    """
    columns = [[26, 4, 4, 4, 4, 4, 4, 4], [0, 4, 4, 4, 4, 4, 4, 4]]
    rests = [64 - sum(runs) for runs in columns]
    return np.array([[[*runs, rest] for runs, rest in zip(columns, rests, strict=True)]], "int32")


def test_against_torchvision():
    targets = crop_masks(object_runs(), BOXES, ROWS, output_size=4, image_size=8)
    expected = [
        *[0.04297, 0.64453, 0.6875, 0.47266, 0.0625, 0.9375, 1, 0.6875],
        *[0.05859, 0.87891, 0.9375, 0.64453, 0.00391, 0.05859, 0.0625, 0.04297],
    ]
    np.testing.assert_allclose(ops.convert_to_numpy(targets)[0, 0].ravel(), expected, atol=1e-5)

    def loss(logits):
        own = ops.stack([logits[i, label] for i, label in enumerate(CLASSES)])
        return mask_loss(own[None], targets, ops.convert_to_tensor([3], "int32"))

    value, slopes = vjp(loss, wave((3, 3, 4, 4), 2.0), np.float32(1.0))
    assert float(value) == pytest.approx(1.033703, abs=1e-6)
    np.testing.assert_allclose(np.abs(slopes).sum(axis=(2, 3)), SLOPES, atol=1e-6)


def test_images_weigh_the_same_and_the_rest_of_the_slots_nothing():
    logits, targets = wave((3, 4, 2, 2), 3.0), np.zeros((3, 4, 2, 2), "float32")
    counts = np.array([1, 0, 3], "int32")
    losses = np.log1p(np.exp(logits)).mean(axis=(2, 3))
    expected = (losses[0, 0] + losses[2, :3].mean()) / 3
    assert float(mask_loss(logits, targets, counts)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(0, 128, 16), (16, 128, 16), (17, 128, 32), (128, 128, 128), (3, 5, 3), (5, 5, 5), (1, 1, 1)],
)
def test_of_the_first(count, size, expected):
    count = ops.convert_to_tensor(count, "int32")
    length = of_the_first(count, size, lambda n: ops.convert_to_tensor(n, "int32"))
    assert int(length) == expected
