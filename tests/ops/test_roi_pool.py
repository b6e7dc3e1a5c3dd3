import decimal
import functools
import itertools
from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.ops import native, roi_pool
from kvision.testing import (
    Case,
    Input,
    Invalid,
    KernelCall,
    OpContract,
    OpTests,
    Output,
    RawOp,
    draws,
    to_numpy,
    vjp,
)
from tests.ops import region_cases
from tests.ops.region_cases import BOXES, INF, NAN, NOT_FINITE, X, feature_shape

GOLDEN = Path(__file__).parents[1] / "golden" / "roi_pool.npz"
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="concerns the TensorFlow ops"
)
case = functools.partial(region_cases.case, rtol=0)
# Box, spatial scale, output size, bins on X: torchvision's own results.
WORKED = [
    ((0.5, 0.5, 2.5, 2.5), 1.0, 2, (10, 11, 14, 15)),
    ((0, 0, 3, 3), 1.0, 2, (5, 7, 13, 15)),
    ((0, 0, 2, 2), 1.0, 2, (5, 6, 9, 10)),
    ((1, 1, 1.4, 1.4), 1.0, 2, (5, 5, 5, 5)),
    ((2.5, 2.5, 6, 6), 1.0, 2, (15, 0, 0, 0)),
    ((-3, -3, -2, -2), 1.0, 2, (0, 0, 0, 0)),
    ((8, 8, 40, 24), 1 / 16, 2, (6, 7, 10, 11)),
    ((24, 24, 56, 56), 1 / 16, 2, (15, 15, 15, 15)),
    ((0, 0, 3, 3), 1.0, 3, (5, 6, 7, 9, 10, 11, 13, 14, 15)),
]


def worked_cases():
    for box, scale, size, outputs in WORKED:
        label = f"{box} by {scale:.2g} in {size}"
        yield label, case(box, outputs=outputs, spatial_scale=scale, output_size=size)
    # Of the floats next to 0.5, only that above and 0.5 itself are rounded up.
    for low, first in [(0.49999997, 0), (0.5, 5), (0.50000006, 5), (-0.5, 0), (1.4999999, 5)]:
        box, size = (low, low, low, low), {"output_size": 1}
        yield f"rounding {low}", case(box, outputs=[first], **size)
    box = (-1.5, -1.5, 1.5, 1.5)  # from -2 to 2: bins of two and a half cells
    yield "rounding -1.5", case(box, outputs=(0, 2, 8, 10))
    # A corner that is not in order is that of one cell.
    yield "reversed", case((3, 3, 1, 2), outputs=(15, 15, 15, 15))
    # Float32 has whole cells up to 2^24. From 1e9 on, an end at 2 is lost in rounding.
    n = 2.0**20
    yield "a box of 2^20", case((-n, -n, 2, 2), (-n, -n, n, n), outputs=(0, 0, 0, 10, 0, 3, 12, 15))
    for n in (1e9, 1e19, 1e30):
        boxes = [(-n, -n, n, n), (-1, -1, n, n), (-n, -n, 2, 2), (n, n, n, n)]
        outputs = [(0, 0, 0, 15), (15, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0)]
        yield f"a box of {n}", case(*boxes, outputs=outputs)
    for shape in [(1, 0, 4, 1), (1, 4, 0, 1), (1, 0, 0, 1)]:
        boxes, features = [(0, 0, 3, 3), (-1, -1, 1, 1)], np.ones(shape, "float32")
        yield f"a map of {shape}", case(*boxes, outputs=np.zeros(8), features=features)


def gradient_case(features, boxes, outputs, output_gradient, gradient, size=2):
    shape = (1, len(boxes), size, size, 1)
    return Case(
        {"features": np.reshape(np.asarray(features, "float32"), X.shape), "boxes": [boxes]},
        np.reshape(np.asarray(outputs, "float32"), shape),
        {"output_size": size, "spatial_scale": 1.0},
        np.reshape(np.asarray(output_gradient, "float32"), shape),
        {"features": np.reshape(np.asarray(gradient, "float32"), X.shape)},
        rtol=0,
    )


def gradient_cases():
    whole, nine = (0, 0, 3, 3), [[0] * 4, *[[0, 1, 1, 1]] * 3]
    bins = (5, 6, 7, 9, 10, 11, 13, 14, 15)
    yield "gradient in 3 by 3", gradient_case(X, [whole], bins, np.ones(9), nine, size=3)
    first_of_four = [[1, 0, 1, 0], [0] * 4] * 2
    zeros = np.zeros(4)
    yield "ties", gradient_case(X * 0, [whole], zeros, np.ones(4), first_of_four)
    yield "signed zeros", gradient_case(X * -0.0, [whole], zeros, np.ones(4), first_of_four)
    # Bins of one box that share a cell, and of another.
    boxes, outputs = [(0, 0, 2, 2), (1, 1, 1, 1)], (5, 6, 9, 10, 5, 5, 5, 5)
    sums = [[0] * 4, [0, 1 + 5 + 6 + 7 + 8, 2, 0], [0, 3, 4, 0], [0] * 4]
    yield "shared cells", gradient_case(X, boxes, outputs, np.arange(1, 9), sums)
    # A NaN is passed over; a bin of nothing else, or of -inf, takes its first cell.
    features = [[NAN, 3, NAN, NAN], [-INF, NAN, NAN, -INF], [-INF, -INF, INF, NAN], [-INF] * 4]
    expected = (3, NAN, -INF, INF)
    first = [[0, 1, 3, 0], [0] * 4, [5, 0, 7, 0], [0] * 4]
    yield "not numbers", gradient_case(features, [whole], expected, (1, 3, 5, 7), first)
    number = len(NOT_FINITE)
    zeros = np.zeros(4 * number)
    yield "boxes not finite", gradient_case(X + 1, NOT_FINITE, zeros, zeros + 1, np.zeros(16))


def torchvision_cases():
    golden = np.load(GOLDEN)
    sizes, scales = ("wide", "large", "row", "column"), (1.0, 0.25, 0.7)
    for size, scale, bins in itertools.product(sizes, scales, ((3, 2), (7, 7))):
        name = f"{size}/{scale}/{bins[0]}"
        yield (
            f"torchvision {name}",
            Case(
                {"features": golden[f"{size}/features"], "boxes": golden[f"{size}/boxes"]},
                golden[f"{name}/output"],
                {"output_size": bins, "spatial_scale": scale},
                golden[f"{name}/output_gradient"],
                {"features": golden[f"{name}/gradient"]},
                rtol=0,
            ),
        )


# JAX takes minutes to make an array of that size, though it is empty.
TOO_MANY_CELLS = (
    []
    if keras.backend.backend() == "jax"
    else [Invalid({"features": np.ones((2, 2**16, 2**15, 0))}, "fewer than 2.31 cells")]
)
SCALE = Input("", draws.constant(0.7), "float64", specials=(NAN, INF, 0, -1, 1e-300, 1e9, 1e300))
OUTPUT = "batch num_boxes output_height output_width channels"
SHARED_INVALID = (
    Invalid({"boxes": np.ones((3, 3, 5), "float32")}, "`boxes` must have shape"),
    Invalid({"boxes": np.ones((3, 3), "float32")}, "`boxes` must have shape"),
    Invalid({"boxes": np.ones((3, 3, 4), "float64")}, "`boxes` must be float64 beside"),
    Invalid({"spatial_scale": np.array([1.0])}, "`spatial_scale` must have shape"),
    Invalid({"spatial_scale": np.array(0.0)}, "`spatial_scale` must be positive", static=False),
    Invalid({"spatial_scale": np.array(INF)}, "`spatial_scale` must be positive", static=False),
)
RAW = RawOp(
    name="roi_pool",
    op="kvision_roi_pool",
    inputs={
        "features": Input("batch height width channels"),
        "boxes": BOXES,
        "spatial_scale": SCALE,
    },
    outputs={"output": Output(OUTPUT), "argmax": Output(OUTPUT, "int32")},
    arguments={"output_height": 2, "output_width": 4},
    invalid=(
        *SHARED_INVALID,
        Invalid({"features": np.ones((3, 2, 3), "float32")}, "`features` must have shape"),
        Invalid({"features": np.ones((1, 2, 2, 3), "float32")}, "`boxes` must have shape"),
        Invalid({"features": np.ones((3, 2**16, 2**15, 0), "float32")}, "fewer than 2.31 cells"),
        Invalid({"output_height": 0}, "must be positive"),
        Invalid({"output_width": -1}, "must be positive"),
    ),
    fuzzed_arguments={"output_height": (1, 3, 0, -1), "output_width": (1, 2, -(2**40))},
)


RAW_GRADIENT = RawOp(
    name="roi_pool",
    op="kvision_roi_pool_gradient",
    inputs={
        "output_gradient": Input(OUTPUT),
        "argmax": Input(OUTPUT, draws.integers(-1, 20), "int32"),
        "boxes": BOXES,
        "spatial_scale": SCALE,
        "feature_shape": Input("4", feature_shape, "int64", specials=(-1, 0, 3, 2**40)),
    },
    # The sizes of the map are data.
    outputs={"feature_gradient": Output("batch ? ? channels")},
    sizes={"height": 4, "width": 5},
    invalid=(
        *SHARED_INVALID,
        Invalid({"output_gradient": np.ones((3, 3, 2, 3), "float32")}, "`output_gradient` must"),
        Invalid({"argmax": np.ones((3, 3, 3, 3, 2), "int32")}, "`argmax` must have shape"),
        Invalid({"feature_shape": np.array([3, 2, 2, 5])}, "`feature_gradient` .* channels is 3"),
        Invalid({"feature_shape": np.array([3, 2, 3])}, "`feature_shape` must have shape"),
        Invalid({"feature_shape": np.array([3, 2**16, 2**15, 3])}, "fewer than", static=False),
        Invalid(
            {"feature_shape": np.array([3, 2, -2, 3])}, "must hold no negative size", static=True
        ),
    ),
)


def kernels(inputs, arguments, output_gradients):
    features, boxes = inputs["features"], inputs["boxes"]
    output_height, output_width = arguments["output_size"]
    common = {"boxes": boxes, "spatial_scale": arguments["spatial_scale"]}
    size = {"output_height": output_height, "output_width": output_width}
    forward = {"features": features, **size, **common}
    backward = {
        "output_gradient": output_gradients["output"],
        "argmax": native.module().roi_pool(**forward)[1],
        "feature_shape": features.shape,
        **common,
    }
    return [
        KernelCall("roi_pool", forward, {0: "output"}),
        KernelCall("roi_pool_gradient", backward, {0: "gradient of features"}),
    ]


class TestRoIPool(OpTests):
    contract = OpContract(
        name="roi_pool",
        function=roi_pool,
        inputs={
            # No two values of a map are so close that a half type or a difference makes them equal.
            "features": Input(
                "batch height width channels", draws.distinct(-4, 4), differentiable=True
            ),
            "boxes": BOXES,
        },
        outputs={"output": Output("batch num_boxes output_size[0] output_size[1] channels")},
        arguments={"output_size": (2, 3), "spatial_scale": 0.7},
        sizes={"batch": 2, "height": 5, "width": 6, "channels": 2, "num_boxes": 7},
        cases=dict(itertools.chain(worked_cases(), gradient_cases(), torchvision_cases())),
        invalid=(
            Invalid({"output_size": 0}, "`output_size` must be a positive int or a pair"),
            Invalid({"output_size": (2, 3, 4)}, "`output_size` must be"),
            Invalid({"output_size": (2, 1.5)}, "`output_size` must be"),
            Invalid({"spatial_scale": 0}, "`spatial_scale` must be positive"),
            Invalid({"spatial_scale": -1.0}, "`spatial_scale` must be positive"),
            Invalid({"spatial_scale": NAN}, "`spatial_scale` must be positive"),
            Invalid({"features": np.ones((4, 4, 1))}, "`features` must have shape"),
            Invalid({"features": np.ones((2, 4, 4, 1), int)}, "`features` must be float16"),
            Invalid({"features": np.ones((3, 4, 4, 1))}, "the same batch size"),
            *TOO_MANY_CELLS,
            Invalid({"boxes": np.ones((2, 4))}, "`boxes` must have shape"),
            Invalid({"boxes": np.ones((1, 2, 5))}, r"`boxes` .* Received: \(1, 2, 5\)"),
            Invalid({"boxes": np.ones((2, 2, 4), "float16")}, "`boxes` must be float32"),
        ),
        raw=(RAW, RAW_GRADIENT),
        kernels=kernels,
        kernel_sizes={"height": 50, "width": 40, "channels": 151, "num_boxes": 12},
        fuzzed_arguments={
            "output_size": (1, (2, 3), 0, (1, -1)),
            "spatial_scale": (1.0, 0.25, 1e-30, 1e30, 0.0, NAN),
        },
    )


def brute_force(features, box, output_size, scale):
    """Value and argmax of every bin of one box on one map, cell by cell."""
    height, width, channels = features.shape
    rounded = [
        int(decimal.Decimal(float(v)).quantize(decimal.Decimal(1), decimal.ROUND_HALF_UP))
        for v in box * np.float32(scale)
    ]
    values = np.zeros((*output_size, channels), "float32")
    argmax = np.full(values.shape, -1)
    bins = []
    for first, last, number in zip(rounded[1::-1], rounded[:1:-1], output_size, strict=True):
        length = np.float32(max(last - first + 1, 1)) / np.float32(number)
        bins.append(
            [
                range(first + int(np.floor(np.float32(i) * length)),
                      first + int(np.ceil(np.float32(i + 1) * length)))
                for i in range(number)
            ]
        )  # fmt: skip
    for (i, rows), (j, columns) in itertools.product(*map(enumerate, bins)):
        for c, y, x in itertools.product(range(channels), rows, columns):
            if not (0 <= y < height and 0 <= x < width):
                continue
            if argmax[i, j, c] < 0 or features[y, x, c] > values[i, j, c]:
                values[i, j, c], argmax[i, j, c] = features[y, x, c], y * width + x
    return values, argmax


# Whole vectors of every instruction set and what is left over; 300 is more than the registers hold.
@pytest.mark.parametrize("channels", [1, 3, 16, 37, 300])
def test_every_bin_by_brute_force(implementation, channels):
    rng = np.random.default_rng(channels)
    features = rng.integers(-20, 20, (2, 9, 13, channels)).astype("float32")
    boxes = rng.uniform(-10, 30, (2, 9, 4)).astype("float32")
    upstream = rng.integers(-9, 9, (2, 9, 3, 7, channels)).astype("float32")

    def function(features):
        return roi_pool(features, boxes, output_size=(3, 7), spatial_scale=0.7)

    output, gradient = vjp(function, features, upstream)
    expected = np.zeros_like(features)
    for image, number in np.ndindex(2, 9):
        values, argmax = brute_force(features[image], boxes[image, number], (3, 7), 0.7)
        np.testing.assert_array_equal(output[image, number], values)
        for i, j, c in zip(*np.nonzero(argmax >= 0), strict=True):
            y, x = divmod(argmax[i, j, c], 13)
            expected[image, y, x, c] += upstream[image, number, i, j, c]
    np.testing.assert_array_equal(gradient, expected)


@on_tensorflow
def test_the_raw_op_tells_the_argmax():
    rng = np.random.default_rng(1)
    features = rng.integers(-20, 20, (1, 9, 13, 5)).astype("float32")
    boxes = rng.uniform(-10, 30, (1, 9, 4)).astype("float32")
    _, argmax = native.tf_ops().kvision_roi_pool(features, boxes, 0.7, 3, 7)
    for number in range(9):
        _, expected = brute_force(features[0], boxes[0, number], (3, 7), 0.7)
        np.testing.assert_array_equal(argmax[0, number], expected)


@on_tensorflow
def test_the_reference_refuses_more_elements_than_it_can_index():
    import tensorflow as tf

    def trace():
        function = tf.function(lambda *tensors: roi_pool(*tensors, output_size=1), autograph=False)
        features, boxes = tf.TensorSpec((2, 2**15, 2**15, 1)), tf.TensorSpec((2, 1, 4))
        return function.get_concrete_function(features, boxes)

    trace()
    with native.implementation("reference"), pytest.raises(ValueError, match="2.31 elements"):
        trace()


@on_tensorflow
def test_boxes_are_float64_beside_float64_features(implementation):
    corner = 0.5 - 1e-9  # rounds to 0; as a float32 it is 0.5
    boxes = np.full((1, 1, 4), corner)
    for dtype, expected in {"float64": 0, "float32": 5}.items():
        assert to_numpy(roi_pool(X.astype(dtype), boxes, output_size=1)).item() == expected


@on_tensorflow
def test_a_linear_second_derivative(implementation):
    import tensorflow as tf

    rng = np.random.default_rng(2)
    features = tf.constant(rng.normal(size=(2, 9, 13, 3)), tf.float32)
    boxes = tf.constant(rng.uniform(-10, 30, (2, 9, 4)), tf.float32)
    upstream = tf.constant(rng.normal(size=(2, 9, 3, 4, 3)), tf.float32)
    direction = tf.constant(rng.normal(size=features.shape), tf.float32)
    with tf.GradientTape() as outer:
        outer.watch(upstream)
        with tf.GradientTape() as inner:
            inner.watch(features)
            output = roi_pool(features, boxes, output_size=(3, 4))
        gradient = inner.gradient(output, features, upstream)
    # <gradient(upstream), direction> is linear in upstream; its slope is the change of the output
    # in that direction.
    second = outer.gradient(gradient, upstream, direction)
    step = 1e-3
    moved = [
        roi_pool(features + sign * step * direction, boxes, output_size=(3, 4)) for sign in (1, -1)
    ]
    np.testing.assert_allclose(second, (moved[0] - moved[1]) / (2 * step), 0, 2e-3)


@on_tensorflow
def test_an_argmax_off_the_map_adds_nothing():
    argmax = np.array([-1, 15, 16, 2**31 - 1, -(2**31), 0], "int32").reshape(1, 1, 1, 6, 1)
    gradient = native.tf_ops().kvision_roi_pool_gradient(
        np.ones(argmax.shape, "float32"), argmax, np.ones((1, 1, 4), "float32"), 1.0, X.shape
    )
    expected = np.zeros_like(X)
    expected[0, 0, 0] = expected[0, 3, 3] = 1
    np.testing.assert_array_equal(gradient, expected)
