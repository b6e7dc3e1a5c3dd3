"""Overlaps of boxes against worked tables and a scalar evaluation of the definitions."""

import math

import numpy as np
import pytest
from keras import ops

from kvision.ops import IOU_KINDS, elementwise_iou, pairwise_iou
from tests.ops.vjp import vjp

BOXES = np.array(
    [
        (0, 0, 10, 10),
        (1, 1, 11, 11),
        (0, 0, 10, 5),
        (20, 20, 30, 30),
        (21, 21, 31, 31),
        (0, 0, 5, 10),
    ],
    "float32",
)


def test_iou_of_a_worked_table(implementation):
    expected = np.eye(6)
    for i, j, value in [
        (0, 1, 0.680672),
        (0, 2, 0.5),
        (0, 5, 0.5),
        (1, 2, 0.315789),
        (1, 5, 0.315789),
        (2, 5, 0.333333),
        (3, 4, 0.680672),
    ]:
        expected[i, j] = expected[j, i] = value
    actual = ops.convert_to_numpy(pairwise_iou(BOXES, BOXES))
    np.testing.assert_allclose(actual, expected, atol=5e-7)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 2, 2), (1, 1, 3, 3), (0.142857, -0.079365, 0.031746, 0.031746)),
        ((0, 0, 4, 2), (5, 1, 6, 4), (0, -0.541667, -0.278846, -0.328846)),
    ],
)
def test_every_kind_of_worked_pairs(implementation, first, second, expected):
    first, second = np.array([first], "float32"), np.array([second], "float32")
    for kind, value in zip(IOU_KINDS, expected, strict=True):
        pairwise = ops.convert_to_numpy(pairwise_iou(first, second, kind=kind))
        np.testing.assert_allclose(pairwise, [[value]], 0, 1e-6)
        elementwise = ops.convert_to_numpy(elementwise_iou(first, second, kind=kind))
        np.testing.assert_allclose(elementwise, [value], 0, 1e-6)


@pytest.mark.parametrize(
    ("kind", "loss", "expected"),
    [
        ("giou", 0.766667, (-0.121667, 0.091111, 0.121667, -0.286667)),
        ("diou", 0.61, (-0.0768, -0.0388, 0.0768, -0.14)),
        ("ciou", 0.626823, (-0.083281, -0.025838, 0.083281, -0.152962)),
    ],
)
def test_loss_and_gradient_of_a_worked_pair(implementation, kind, loss, expected):
    """torchvision's numbers for A = (0, 0, 4, 2), B = (1, 0, 3, 3)."""
    first, second = np.array([(0, 0, 4, 2)], "float32"), np.array([(1, 0, 3, 3)], "float32")
    output, gradient = vjp(
        lambda boxes: 1.0 - elementwise_iou(boxes, second, kind=kind), first, np.ones(1)
    )
    np.testing.assert_allclose(output, [loss], 0, 1e-6)
    # The upper edges coincide: torchvision gives half of the gradient to each.
    np.testing.assert_allclose(gradient, [expected], 0, 1e-6)


def scalar(a, b, kind):
    """The definitions, written out for one pair in Python numbers."""
    if not np.isfinite([*a, *b]).all():
        return math.nan
    side = lambda low, high: max(high - low, 0.0)  # noqa: E731
    area_a, area_b = side(a[0], a[2]) * side(a[1], a[3]), side(b[0], b[2]) * side(b[1], b[3])
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = width * height if width > 0 and height > 0 else 0.0
    union = area_a + area_b - inter
    result = iou = inter / union if union > 0 else 0.0
    around = (
        side(min(a[0], b[0]), max(a[2], b[2])),
        side(min(a[1], b[1]), max(a[3], b[3])),
    )
    if kind == "giou":
        area = around[0] * around[1]
        result -= (area - union) / area if area > 0 else 0.0
    elif kind in ("diou", "ciou"):
        distance = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
        diagonal = around[0] ** 2 + around[1] ** 2
        result -= distance / diagonal if diagonal > 0 else 0.0
    if kind == "ciou":
        angles = [math.atan2(side(c[0], c[2]), side(c[1], c[3])) for c in (a, b)]
        v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
        result -= v * v / (1 - iou + v) if 1 - iou + v > 0 else 0.0
    return result


def many_boxes(seed, *shape):
    """Boxes that overlap, coincide, touch, are empty, reversed, far off, NaN or infinite."""
    rng = np.random.default_rng(seed)
    boxes = rng.integers(0, 8, (*shape, 4)).astype("float64")
    boxes[..., 2:] += rng.choice([0, 0.5, 4, 100], (*shape, 2))
    flat = boxes.reshape(-1, 4)
    flat[1::17, 0] = np.nan
    flat[2::19, 3] = np.inf
    flat[3::23] *= 1e6
    return boxes


# Fewer boxes than a vector, whole blocks of 256, and what is left over.
@pytest.mark.parametrize(("num1", "num2"), [(3, 5), (40, 300), (300, 7), (257, 33)])
@pytest.mark.parametrize("kind", IOU_KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-6), ("float64", 1e-13)])
def test_every_pair_against_scalar_arithmetic(implementation, num1, num2, kind, dtype, tolerance):
    first, second = many_boxes(0, 2, num1), many_boxes(1, 2, num2)
    expected = [[[scalar(a, b, kind) for b in second[i]] for a in first[i]] for i in range(2)]
    actual = pairwise_iou(first.astype(dtype), second.astype(dtype), kind=kind)
    assert ops.convert_to_numpy(actual).dtype == dtype
    np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, tolerance, tolerance)
    size = min(num1, num2)
    actual = elementwise_iou(
        first[:, :size].astype(dtype), second[:, :size].astype(dtype), kind=kind
    )
    expected = np.diagonal(np.array(expected), axis1=1, axis2=2)
    np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, tolerance, tolerance)
