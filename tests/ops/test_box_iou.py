"""Overlaps of boxes against worked tables and a scalar evaluation of the definitions."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from kvision.ops import IOU_KINDS, elementwise_iou, pairwise_iou
from kvision.testing import (
    AT_LEAST_FLOAT32,
    Case,
    Input,
    Invalid,
    KernelCall,
    OpContract,
    OpTests,
    Output,
    RawOp,
    Variant,
    draws,
    vjp,
)

needs_float64 = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="float64 is an option of JAX, and Keras computes it in float32 on PyTorch",
)
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


TABLE = np.eye(6)
for i, j, value in [
    (0, 1, 0.680672),
    (0, 2, 0.5),
    (0, 5, 0.5),
    (1, 2, 0.315789),
    (1, 5, 0.315789),
    (2, 5, 0.333333),
    (3, 4, 0.680672),
]:
    TABLE[i, j] = TABLE[j, i] = value
# Two boxes; their iou, giou, diou and ciou.
WORKED = [
    ((0, 0, 2, 2), (1, 1, 3, 3), (0.142857, -0.079365, 0.031746, 0.031746)),
    ((0, 0, 4, 2), (5, 1, 6, 4), (0, -0.541667, -0.278846, -0.328846)),
]
# What torchvision's losses of (0, 0, 4, 2) and (1, 0, 3, 3) are, and their gradient to the first,
# with the sign of the overlap. The upper edges coincide.
GRADIENTS = {
    "giou": (0.766667, (0.121667, -0.091111, -0.121667, 0.286667)),
    "diou": (0.61, (0.0768, 0.0388, -0.0768, 0.14)),
    "ciou": (0.626823, (0.083281, 0.025838, -0.083281, 0.152962)),
}
HUGE = 3e38


def cases(pairwise):
    def shaped(values):
        return np.reshape(values, (1, 1, 4) if pairwise else (1, 4))

    tolerance = {"rtol": 0, "atol": 1e-6}
    for index, (first, second, expected) in enumerate(WORKED):
        for kind, value in zip(IOU_KINDS, expected, strict=True):
            inputs = {"boxes1": shaped(first), "boxes2": shaped(second)}
            inputs = {name: array.astype("float32") for name, array in inputs.items()}
            output = np.full((1, 1, 1) if pairwise else (1,), value)
            yield f"{kind} {index}", Case(inputs, output, {"kind": kind}, **tolerance)
    for kind, (loss, gradient) in GRADIENTS.items():
        inputs = {"boxes1": shaped((0, 0, 4, 2)), "boxes2": shaped((1, 0, 3, 3))}
        inputs = {name: array.astype("float32") for name, array in inputs.items()}
        ones = np.ones((1, 1, 1) if pairwise else (1,))
        gradients = {"boxes1": shaped(gradient)}
        yield (
            f"gradient of {kind}",
            Case(inputs, ones - loss, {"kind": kind}, ones, gradients, **tolerance),
        )
    for kind in IOU_KINDS:
        bad = [(math.nan, 0, 1, 1), (0, 0, math.inf, 1), (-HUGE, 0, HUGE, HUGE)]
        good = np.full((3, 4), (0, 0, 1, 1), "float32")
        inputs = {"boxes1": np.array(bad, "float32"), "boxes2": good}
        output = np.full(3, math.nan)
        if pairwise:
            inputs = {name: array[None] for name, array in inputs.items()}
            output = np.full((1, 3, 3), math.nan)
        zeros = {name: np.zeros_like(array) for name, array in inputs.items()}
        yield (
            f"not finite, {kind}",
            # What arrives from a square of the values is NaN too.
            Case(inputs, output, {"kind": kind}, output, zeros),
        )


BOX_DRAWS = {
    "boxes1": (draws.boxes(), "num_boxes1"),
    "boxes2": (draws.boxes(4, 28), "num_boxes2"),
}


def inputs_of(axes):
    # Not compared where areas of areas leave the range of float32.
    return {
        name: Input(axes.format(number), draw, AT_LEAST_FLOAT32, True, comparable=1e8)
        for name, (draw, number) in BOX_DRAWS.items()
    }


def raw_ops(pairwise):
    name = "pairwise_iou" if pairwise else "elementwise_iou"
    own_axes = "batch {} 4" if pairwise else "batch num_boxes1 4"
    output = "batch num_boxes1 num_boxes2" if pairwise else "batch num_boxes1"
    common = {
        "name": name,
        "arguments": {"kind": "giou"},
        "dtypes": ("float32", "float64"),
        "fuzzed_arguments": {"kind": (*IOU_KINDS, "piou")},
    }
    wrong = (
        Invalid({"boxes1": np.ones((3, 3, 5), "float32")}, "`boxes1` must have shape"),
        Invalid({"boxes2": np.ones((3, 4), "float32")}, "`boxes2` must have shape"),
        Invalid(
            {"boxes2": np.ones((2, 3, 4), "float32")}, "`boxes2` must have shape .* batch is 3"
        ),
        Invalid({"kind": "piou"}, "`kind` must be iou, giou"),
    )
    yield RawOp(
        op=f"kvision_{name}",
        inputs=inputs_of(own_axes),
        outputs={"output": Output(output)},
        invalid=wrong,
        **common,
    )
    yield RawOp(
        op=f"kvision_{name}_gradient",
        inputs={"output_gradient": Input(output), **inputs_of(own_axes)},
        outputs={
            "gradient1": Output("batch num_boxes1 4"),
            "gradient2": Output("batch num_boxes2 4" if pairwise else "batch num_boxes1 4"),
        },
        invalid=(
            *wrong,
            Invalid(
                {"output_gradient": np.ones((3, 2, 2) if pairwise else (3, 2), "float32")},
                "`boxes1` must have shape .* where num_boxes1 is 2 in `output_gradient`",
            ),
        ),
        **common,
    )


def kernels(pairwise):
    name = "pairwise_iou" if pairwise else "elementwise_iou"

    def calls(inputs, arguments, output_gradients):
        shapes = [array.shape[:-2] for array in inputs.values()]
        if shapes[0] != shapes[1] or len(shapes[0]) > 1 or inputs["boxes2"].ndim == 1:
            return []  # the function broadcasts and folds, the kernel does not
        boxes = {name: array.reshape(-1, *array.shape[-2:]) for name, array in inputs.items()}
        upstream = output_gradients["output"].reshape(
            len(boxes["boxes1"]), *output_gradients["output"].shape[-1 - pairwise :]
        )
        common = {**boxes, "kind": arguments["kind"]}
        names = {0: "gradient of boxes1", 1: "gradient of boxes2"}
        return [
            KernelCall(name, common, {0: "output"}),
            KernelCall(f"{name}_gradient", {"output_gradient": upstream, **common}, names),
        ]

    return calls


COMMON = {
    "arguments": {"kind": "ciou"},
    "gradient_step": 1e-6,
    "fuzzed_arguments": {"kind": (*IOU_KINDS, "piou", None)},
    "accumulates_in_float32": False,
    # Sums of several vectors, of lengths that differ.
    "isa_tolerance": 1e-5,
}
# The trade-off of ciou is a constant in its gradient: test_gradient_of_ciou.
KINDS = {kind: Variant({"kind": kind}, has_slopes=kind != "ciou") for kind in IOU_KINDS}


class TestPairwiseIoU(OpTests):
    contract = OpContract(
        name="pairwise_iou",
        function=pairwise_iou,
        inputs=inputs_of("batch {} 4"),
        outputs={"output": Output("batch num_boxes1 num_boxes2", AT_LEAST_FLOAT32)},
        sizes={"batch": 2, "num_boxes1": 5, "num_boxes2": 4},
        variants={
            **KINDS,
            "one image": Variant(
                {"kind": "giou"},
                {"boxes1": "num_boxes1 4", "boxes2": "num_boxes2 4"},
                {"output": "num_boxes1 num_boxes2"},
            ),
            "shared boxes": Variant({"kind": "diou"}, {"boxes2": "num_boxes2 4"}),
            "more axes": Variant(
                {"kind": "iou"},
                {"boxes1": "group batch num_boxes1 4"},
                {"output": "group batch num_boxes1 num_boxes2"},
            ),
        },
        cases={
            "a table of IoUs": Case(
                {"boxes1": BOXES, "boxes2": BOXES}, TABLE, {"kind": "iou"}, atol=5e-7
            ),
            **dict(cases(pairwise=True)),
        },
        invalid=(
            Invalid({"kind": "piou"}, "`kind` must be one of"),
            Invalid({"boxes1": np.ones((2, 5, 3), "float32")}, "`boxes1` must have shape"),
            Invalid({"boxes2": np.ones(4, "float32")}, "`boxes2` must have shape"),
            Invalid(
                {"boxes2": np.ones((3, 4, 4), "float32")}, "the leading axes .* must broadcast"
            ),
            Invalid({"boxes1": np.ones((2, 5, 4), int)}, "`boxes1` must be floating", TypeError),
        ),
        raw=tuple(raw_ops(pairwise=True)),
        kernels=kernels(pairwise=True),
        kernel_sizes={"num_boxes1": 300, "num_boxes2": 530},
        **COMMON,
    )


class TestElementwiseIoU(OpTests):
    contract = OpContract(
        name="elementwise_iou",
        function=elementwise_iou,
        inputs=inputs_of("batch num_boxes1 4"),
        outputs={"output": Output("batch num_boxes1", AT_LEAST_FLOAT32)},
        sizes={"batch": 2, "num_boxes1": 5},
        variants={
            **KINDS,
            "one target": Variant({"kind": "giou"}, {"boxes2": "4"}),
        },
        cases=dict(cases(pairwise=False)),
        invalid=(
            Invalid({"kind": "piou"}, "`kind` must be one of"),
            Invalid({"boxes1": np.ones((2, 5, 3), "float32")}, "`boxes1` must have shape"),
            Invalid(
                {"boxes2": np.ones((3, 5, 4), "float32")}, "the leading axes .* must broadcast"
            ),
            Invalid({"boxes2": np.ones((2, 5, 4), int)}, "`boxes2` must be floating", TypeError),
        ),
        raw=tuple(raw_ops(pairwise=False)),
        kernels=kernels(pairwise=False),
        kernel_sizes={"num_boxes1": 530},
        **COMMON,
    )


def scalar(a, b, kind, trade_off=None):
    """The definitions, written out for one pair in Python numbers; ciou with a given trade-off."""
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
        if trade_off is None:
            trade_off = v / (1 - iou + v) if 1 - iou + v > 0 else 0.0
        result -= trade_off * v
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
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float32", 3e-6), pytest.param("float64", 1e-13, marks=needs_float64)],
)
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


@needs_float64
def test_gradient_of_ciou(implementation):
    """Differences of the definition, the trade-off held at what it is."""
    rng = np.random.default_rng(3)
    first, second = (draws.boxes()(rng, (40, 4), {}) for _ in range(2))
    upstream = rng.normal(size=40)
    boxes = {"boxes1": first, "boxes2": second}
    _, gradients = vjp(lambda boxes: elementwise_iou(**boxes, kind="ciou"), boxes, upstream)
    for name, array in boxes.items():
        for row, corner in np.ndindex(*array.shape):
            pair = {key: value[row].copy() for key, value in boxes.items()}
            a, b = pair["boxes1"], pair["boxes2"]
            v = scalar(a, b, "diou") - scalar(a, b, "ciou", 1.0)
            trade_off = v / (1 - scalar(a, b, "iou") + v)
            ends = []
            for step in (1e-5, -1e-5):
                pair[name][corner] = array[row, corner] + step
                ends.append(scalar(a, b, "ciou", trade_off))
            slope = upstream[row] * (ends[0] - ends[1]) / 2e-5
            np.testing.assert_allclose(gradients[name][row, corner], slope, 1e-6, 1e-8)
