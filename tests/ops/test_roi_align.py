import itertools
from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.ops import native, roi_align
from kvision.testing import (
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
    to_numpy,
    vjp,
)
from tests.ops.region_cases import BOXES, INF, NAN, NOT_FINITE, X, case, feature_shape

GOLDEN = Path(__file__).parents[1] / "golden" / "roi_align.npz"
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="concerns the TensorFlow ops"
)
Y = np.arange(256, dtype="float32").reshape(1, 16, 16, 1)
# Box, four bins of two samples a side without the shift by half a cell, and with it.
TWO_SAMPLES = [
    ((0.5, 0.5, 2.5, 2.5), (5, 6, 9, 10), (2.5, 3.5, 6.5, 7.5)),
    ((0, 0, 4, 4), (5, 6.75, 12, 13.75), (2.5, 4.5, 10.5, 12.5)),
    ((0, 0, 3, 3), (3.75, 5.25, 9.75, 11.25), (1.5625, 3, 7.3125, 8.75)),
    ((1, 1, 1.2, 1.2), (6.25, 6.75, 8.25, 8.75), (2.75, 2.85, 3.15, 3.25)),
    ((-2, -2, 2, 2), (0, 0.5, 2, 5), (0, 0.25, 1, 2.5)),
    ((2.5, 2.5, 6, 6), (14.84375, 0, 0, 0), (13.59375, 0, 0, 0)),
    ((-1.5, 0, 0.5, 2), (1, 2.125, 3, 6.125), (0, 0.5, 0, 4)),
    ((5, 5, 6, 6), (0, 0, 0, 0), (0, 0, 0, 0)),
    ((0, 0, 1, 3), (3.25, 3.75, 9.25, 9.75), (1.25, 1.5, 7, 7.25)),
    ((1, 1, 1, 1), (6.25, 6.75, 8.25, 8.75), (2.5, 2.5, 2.5, 2.5)),
]
ADAPTIVE = [
    (Y, {"aligned": False}, (22, 26, 62, 66)),
    (Y, {}, (13.94444, 17.94444, 53.5, 57.5)),
    (Y, {"sampling_ratio": 1}, (13.5, 17.5, 53.5, 57.5)),
    (Y, {"sampling_ratio": 4}, (14.25, 18.25, 53.5, 57.5)),
    (Y**2 / 100, {}, (3.395, 4.67056, 30.25278, 34.69278)),
    (Y**2 / 100, {"sampling_ratio": 2}, (3.275, 4.515, 30.075, 34.515)),
    (Y**2 / 100, {"aligned": False}, (6.47278, 8.39278, 40.07278, 45.19278)),
]
# Box, whether aligned, the gradient that arrives and that of the features.
GRADIENTS = [
    (
        (0.5, 0.5, 2.5, 2.5),
        False,
        (1, 2, 3, 4),
        [
            [0.015625, 0.125, 0.203125, 0.03125],
            [0.140625, 1.09375, 1.640625, 0.25],
            [0.296875, 2.1875, 2.734375, 0.40625],
            [0.046875, 0.34375, 0.421875, 0.0625],
        ],
    ),
    (
        (0.5, 0.5, 2.5, 2.5),
        True,
        (1, 2, 3, 4),
        [[0.25, 0.75, 0.5, 0], [1, 2.5, 1.5, 0], [0.75, 1.75, 1, 0], [0, 0, 0, 0]],
    ),
    (
        (-1.5, 0, 0.5, 2),
        False,
        (1, 1, 1, 1),
        [[0.6875, 0.0625, 0, 0], [1.375, 0.125, 0, 0], [0.6875, 0.0625, 0, 0], [0, 0, 0, 0]],
    ),
]


def worked_cases():
    boxes, without_shift, with_shift = zip(*TWO_SAMPLES, strict=True)
    two = {"sampling_ratio": 2}
    yield "two samples, unaligned", case(*boxes, outputs=without_shift, aligned=False, **two)
    yield "two samples", case(*boxes, outputs=with_shift, **two)
    empty = [(1, 1, 1, 1), (2, 2, 1, 1), (2, 1, 1, 3)]
    yield "an empty box has no adaptive samples", case(*empty, outputs=np.zeros((3, 4)))
    mirrored = (6.25, 5.75, 4.25, 3.75)
    yield "a fixed grid is mirrored", case((2, 2, 1, 1), outputs=mirrored, **two)
    two["spatial_scale"] = 0.25
    yield "spatial scale", case((4, 4, 12, 12), outputs=(5, 6, 9, 10), **two)
    two["aligned"] = False
    yield "spatial scale, unaligned", case((4, 4, 12, 12), outputs=(7.5, 8.5, 11.5, 12.5), **two)
    # A sample exactly one cell outside reads the border, one beyond nothing.
    one = {"output_size": 1, "sampling_ratio": 1, "aligned": False}
    far, farther = (3.5, 3.5, 4.5, 4.5), (3.5, 3.5, 4.5, 4.6)
    yield "one cell outside", case(far, farther, outputs=(15, 0), **one)
    far, farther = (-1.5, -1.5, -0.5, -0.5), (-1.5, -1.6, -0.5, -0.6)
    yield "one cell before", case(far, farther, outputs=(1, 0), features=X + 1, **one)
    for index, (features, arguments, outputs) in enumerate(ADAPTIVE):
        options = {"features": features, "rtol": 2e-6, **arguments}
        yield f"adaptive grid {index}", case((0, 0, 8, 5), outputs=outputs, **options)
    # On a map of ones, a bin gives the part of its samples that lie on the map, from -1 to 16. A
    # bin of an integer number of cells has its samples at half-integers: one on the map in the
    # bin that ends at 0, 16 in the bin that begins there.
    for side in (3000.0, 1e5):
        part = np.outer([1, 16], [1, 16]) / side**2
        box, options = (-side, -side, side, side), {"aligned": False, "rtol": 1e-5}
        yield (
            f"samples off the map, {side}",
            case(box, outputs=part, features=np.ones_like(Y), **options),
        )
    for n in (1e9, 1e19, 1e30):
        boxes = [(-n, -n, n, n), (-1, -1, n, n), (-n, -n, 9, 9)]
        options = {"features": np.ones_like(Y), "atol": 1e-8}
        yield f"a box of {n}", case(*boxes, outputs=np.zeros((3, 4)), **options)
    for shape in [(1, 0, 4, 1), (1, 4, 0, 1), (1, 0, 0, 1)]:
        boxes, features = [(0, 0, 3, 3), (-1, -1, 1, 1)], np.ones(shape, "float32")
        yield f"a map of {shape}", case(*boxes, outputs=np.zeros(8), features=features)


def gradient_cases():
    for index, (box, aligned, upstream, expected) in enumerate(GRADIENTS):
        yield (
            f"gradient {index}",
            Case(
                {"features": X, "boxes": [[box]]},
                arguments={
                    "output_size": 2,
                    "spatial_scale": 1.0,
                    "sampling_ratio": 2,
                    "aligned": aligned,
                },
                output_gradient=np.reshape(upstream, (1, 1, 2, 2, 1)),
                gradients={"features": np.reshape(expected, X.shape)},
            ),
        )
    for ratio, aligned in itertools.product((0, 2), (True, False)):
        zeros = np.zeros((1, len(NOT_FINITE), 2, 2, 1), "float32")
        arguments = {"output_size": 2, "sampling_ratio": ratio, "aligned": aligned}
        yield (
            f"not finite, {ratio}, {aligned}",
            Case(
                {"features": X + 1, "boxes": [NOT_FINITE]},
                zeros,
                arguments,
                zeros + 1,
                {"features": np.zeros_like(X)},
            ),
        )


def torchvision_cases():
    golden = np.load(GOLDEN)
    sizes = ("wide", "large", "row", "column")
    scales, ratios = (1.0, 0.25, 0.7), (0, 1, 2, 3)
    for size, scale, ratio, aligned in itertools.product(sizes, scales, ratios, (1, 0)):
        name = f"{size}/{scale}/{ratio}/{aligned}"
        yield (
            f"torchvision {name}",
            Case(
                {"features": golden[f"{size}/features"], "boxes": golden[f"{size}/boxes"]},
                golden[f"{name}/output"],
                {
                    "output_size": (3, 2),
                    "spatial_scale": scale,
                    "sampling_ratio": ratio,
                    "aligned": bool(aligned),
                },
                golden[f"{size}/output_gradient"],
                {"features": golden[f"{name}/gradient"]},
                rtol=0,
                atol=1e-5,
            ),
        )


LEVELS = Input("batch num_boxes", draws.integers(0, 2), "int32")
SCALES = Input("2", draws.constant([1.0, 0.5]), "float64", specials=(NAN, INF, 0, -1, 1e-300, 1e9))
WRONG_BOXES = (
    Invalid({"boxes": np.ones((3, 3, 5), "float32")}, "`boxes` must have shape"),
    Invalid({"boxes": np.ones((3, 3), "float32")}, "`boxes` must have shape"),
    Invalid({"boxes": np.ones((3, 3, 4), "float64")}, "`boxes` must be float64 beside"),
    Invalid({"boxes": np.ones((1, 3, 4), "float32")}),
    Invalid({"levels": np.zeros((3, 4), "int32")}, "`levels` must have shape"),
    Invalid({"levels": np.zeros(9, "int32")}, "`levels` must have shape"),
    Invalid(
        {"spatial_scales": np.array([1.0])},
        r"`spatial_scales` must have shape \(num_levels,\), where num_levels is 2",
    ),
    Invalid({"spatial_scales": np.array([1.0, 0.0])}, "`spatial_scales` must be positive"),
    Invalid({"spatial_scales": np.array([1.0, INF])}, "`spatial_scales` must be positive"),
    Invalid({"sampling_ratio": -1}, "`sampling_ratio` must lie"),
    Invalid({"sampling_ratio": 129}, "`sampling_ratio` must lie"),
)


RAW = RawOp(
    name="roi_align",
    op="kvision_roi_align",
    inputs={
        "features_0": Input("batch height_0 width_0 channels"),
        "features_1": Input("batch height_1 width_1 channels"),
        "boxes": BOXES,
        "levels": LEVELS,
        "spatial_scales": SCALES,
    },
    lists={"features": ("features_0", "features_1", *(f"features_{n}" for n in range(2, 9)))},
    outputs={"output": Output("batch num_boxes output_height output_width channels")},
    arguments={"output_height": 2, "output_width": 4},
    invalid=(
        *WRONG_BOXES,
        Invalid({"features_1": np.ones((3, 2, 3), "float32")}, "`features` must have shape"),
        Invalid({"features_1": np.ones((1, 2, 2, 3), "float32")}, "`features` .* where batch is 3"),
        Invalid({"features_1": np.ones((3, 2, 2, 2), "float32")}, "`features` .* channels is 3"),
        Invalid(
            {f"features_{n}": np.ones((3, 3, 3, 3), "float32") for n in range(2, 9)}
            | {"spatial_scales": np.ones(9)},
            "between 1 and 8 feature levels",
        ),
        Invalid({"output_height": 0}, "must be positive"),
        Invalid({"output_width": -1}, "must be positive"),
    ),
    fuzzed_arguments={
        "output_height": (1, 3, 0, -1),
        "output_width": (1, 2, -(2**40)),
        "sampling_ratio": (0, 1, 2, 128, 129, -1),
        "aligned": (True, False),
    },
)


def shapes(*second):
    """Of two maps, of which the first is right."""
    return np.array([(3, 4, 5, 3)[: len(second)], second])


RAW_GRADIENT = RawOp(
    name="roi_align",
    op="kvision_roi_align_gradient",
    inputs={
        "output_gradient": Input("batch num_boxes output_height output_width channels"),
        "boxes": BOXES,
        "levels": LEVELS,
        "spatial_scales": SCALES,
        "feature_shapes": Input("2 4", feature_shape, "int64", specials=(-1, 0, 3)),
    },
    # The sizes of the maps are data.
    outputs={
        "gradient_0": Output("batch ? ? channels"),
        "gradient_1": Output("batch ? ? channels"),
    },
    arguments={"num_levels": 2},
    sizes={"height": 4, "width": 5},
    invalid=(
        *WRONG_BOXES,
        Invalid({"output_gradient": np.ones((3, 3, 2, 3), "float32")}, "`output_gradient` must"),
        Invalid(
            {"output_gradient": np.ones((3, 4, 3, 3, 3), "float32")},
            "`boxes` must have shape .* where num_boxes is 4 in `output_gradient`",
        ),
        Invalid(
            {"output_gradient": np.ones((3, 3, 0, 3, 3), "float32")},
            "must be positive",
            static=False,
        ),
        Invalid({"feature_shapes": shapes(3, 2, 2, 5)}, "`feature_gradients` .* channels is 3"),
        Invalid({"feature_shapes": shapes(3, 2, 3)}, "`feature_shapes` must have shape"),
        Invalid({"feature_shapes": shapes(3, 2, -2, 3)}, "must hold no negative size", static=True),
    ),
    fuzzed_arguments={"sampling_ratio": (0, 1, 2, 128, 129, -1), "aligned": (True, False)},
)


def kernels(inputs, arguments, output_gradients):
    features, boxes = inputs["features"], inputs["boxes"]
    output_height, output_width = arguments["output_size"]
    common = {
        "boxes": boxes,
        "levels": np.zeros(boxes.shape[:2], "int32"),
        "spatial_scales": [arguments["spatial_scale"]],
        "sampling_ratio": arguments.get("sampling_ratio", 0),
        "aligned": arguments.get("aligned", True),
    }
    forward = {
        "features": [features],
        "output_height": output_height,
        "output_width": output_width,
        **common,
    }
    backward = {
        "output_gradient": output_gradients["output"],
        "feature_shapes": [features.shape],
        **common,
    }
    return [
        KernelCall("roi_align", forward, {0: "output"}),
        KernelCall("roi_align_gradient", backward, {0: "gradient of features"}),
    ]


class TestRoIAlign(OpTests):
    contract = OpContract(
        name="roi_align",
        function=roi_align,
        inputs={
            # Not compared where not finite: the reference multiplies zeros with what lies beside.
            "features": Input("batch height width channels", differentiable=True, comparable=1e30),
            "boxes": BOXES,
        },
        outputs={"output": Output("batch num_boxes output_size[0] output_size[1] channels")},
        arguments={"output_size": (2, 3), "spatial_scale": 0.7},
        sizes={"batch": 2, "height": 5, "width": 6, "channels": 3, "num_boxes": 7},
        variants={
            "adaptive": Variant(),
            "fixed": Variant({"sampling_ratio": 2}),
            "unaligned": Variant({"aligned": False}),
        },
        cases=dict(itertools.chain(worked_cases(), gradient_cases(), torchvision_cases())),
        invalid=(
            Invalid({"output_size": 0}, "`output_size` must be a positive int or a pair"),
            Invalid({"output_size": (2, 3, 4)}, "`output_size` must be"),
            Invalid({"output_size": (2, 1.5)}, "`output_size` must be"),
            Invalid({"spatial_scale": 0}, "`spatial_scale` must be positive"),
            Invalid({"spatial_scale": -1.0}, "`spatial_scale` must be positive"),
            Invalid({"spatial_scale": NAN}, "`spatial_scale` must be positive"),
            Invalid({"sampling_ratio": -1}, "`sampling_ratio` must be an int between"),
            Invalid({"sampling_ratio": 129}, "`sampling_ratio` must be an int between"),
            Invalid({"features": np.ones((4, 4, 1))}, "`features` must have shape"),
            Invalid({"features": np.ones((2, 4, 4, 1), int)}, "`features` must be float16"),
            Invalid({"features": np.ones((3, 4, 4, 1))}, "the same batch size"),
            Invalid({"boxes": np.ones((2, 4))}, "`boxes` must have shape"),
            Invalid({"boxes": np.ones((1, 2, 5))}, r"`boxes` .* Received: \(1, 2, 5\)"),
            Invalid({"boxes": np.ones((2, 2, 4), "float16")}, "`boxes` must be float32"),
        ),
        raw=(RAW, RAW_GRADIENT),
        kernels=kernels,
        kernel_sizes={"height": 50, "width": 40, "channels": 151, "num_boxes": 12},
        # The faster sets fuse products with sums.
        isa_tolerance=2e-6,
        # Linear: differences are exact whatever the step.
        gradient_step=1e-4,
        gradient_rtol=1e-9,
        fuzzed_arguments={
            "output_size": (1, (2, 3), 0, (1, -1)),
            "spatial_scale": (1.0, 0.25, 1e-30, 1e30, 0.0, NAN),
            "sampling_ratio": (0, 1, 3, 128, 129, -1),
            "aligned": (True, False),
        },
    )


def random_case(seed, channels=3, width=13):
    """Features and boxes with every kind of special box, and an upstream gradient for 3 by 4."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(2, 9, width, channels)).astype("float32")
    boxes = rng.uniform(-10, 30, (2, 12, 4)) * [width / 13, 1, width / 13, 1]
    boxes = boxes.astype("float32")
    boxes[0, :7] = [
        (NAN, 0, 1, 1),
        (-3000, -3000, 3000, 3000),
        (-1e30, -1e30, 1e30, 1e30),
        (-INF, 0, 3, 3),
        (2, 2, 2, 2),
        (0, 0, 0, 0),
        (-3e38, 0, 3e38, 5),
    ]
    return features, boxes, rng.normal(size=(2, 12, 3, 4, channels)).astype("float32")


# Whole vectors of every instruction set and what is left over; 300 is more than the registers hold.
@on_tensorflow
@pytest.mark.parametrize(
    ("channels", "width"), [(1, 13), (3, 13), (16, 13), (37, 13), (300, 13), (2, 200)]
)
@pytest.mark.parametrize("sampling_ratio", [0, 1, 5])
@pytest.mark.parametrize("aligned", [True, False])
def test_native_equals_reference(channels, width, sampling_ratio, aligned):
    features, boxes, upstream = random_case(channels, channels, width)

    def function(features):
        return roi_align(
            features,
            boxes,
            output_size=(3, 4),
            spatial_scale=0.7,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
        )

    results = []
    for name in ("native", "reference"):
        with native.implementation(name):
            results.append(vjp(function, features, upstream))
    np.testing.assert_allclose(results[0][0], results[1][0], 0, 2e-6)
    np.testing.assert_allclose(results[0][1], results[1][1], 0, 5e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("channels", [1, 150])
def test_the_gradient_of_many_boxes_on_one_cell(implementation, dtype, channels):
    """By hand: 3000 samples at (2, 1.25), each worth three quarters of one cell."""
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless it is switched on")
    features = np.zeros((1, 3, 4, channels), dtype="float32")
    boxes = np.tile(np.array([1.5, 0.75, 2.5, 1.75], dtype="float32"), (1, 3000, 1))
    upstream = np.ones((1, 3000, 1, 1, channels), dtype="float32")

    def function(features):
        features = keras.ops.cast(features, dtype)
        return roi_align(
            features,
            keras.ops.cast(boxes, "float64" if dtype == "float64" else "float32"),
            output_size=1,
            sampling_ratio=1,
            aligned=False,
        )

    _, gradient = vjp(function, features, upstream)
    expected = np.zeros_like(features)
    expected[0, 1, 2] = 2250
    expected[0, 2, 2] = 750
    rounded = keras.ops.cast(keras.ops.cast(expected, dtype), "float32")
    np.testing.assert_array_equal(gradient, to_numpy(rounded))


@on_tensorflow
def test_a_level_out_of_range_gives_zeros_and_no_gradient():
    variant = Variant()
    sizes = {**RAW.sizes_of(variant), "batch": 2}
    inputs = RAW.draw(variant, sizes, "float32")
    inputs["boxes"][:] = (0, 0, 2, 2)
    inputs["levels"] = np.array([[0, 2, -1], [1, 1, 2**31 - 1]], "int32")
    ones = {name: np.ones_like(inputs[name]) for name in ("features_0", "features_1")}
    output = RAW.call({**inputs, **ones}, RAW.arguments)["output"].numpy()
    assert (output != 0).any(axis=(2, 3, 4)).tolist() == [[True, False, False], [True, True, False]]
    inputs = {
        **{name: inputs[name] for name in ("boxes", "levels", "spatial_scales")},
        "output_gradient": np.ones((2, 3, 2, 2, 3), "float32"),
        "feature_shapes": np.array([(2, 4, 4, 3), (2, 2, 2, 3)]),
    }
    gradients = RAW_GRADIENT.call(inputs, RAW_GRADIENT.arguments)
    sums = [float(np.sum(gradient)) for gradient in gradients.values()]
    assert sums == [12.0, 24.0]


@on_tensorflow
def test_no_gradient_to_boxes_and_a_linear_second_derivative(implementation):
    import tensorflow as tf

    features, boxes, upstream = (tf.constant(array) for array in random_case(6))
    with tf.GradientTape(persistent=True) as outer:
        outer.watch([features, boxes, upstream])
        with tf.GradientTape() as inner:
            inner.watch([features, boxes])
            output = roi_align(features, boxes, output_size=(3, 4))
        gradient, box_gradient = inner.gradient(output, [features, boxes], upstream)
    assert box_gradient is None
    # <gradient(upstream), v> is linear in upstream, with derivative roi_align(v).
    direction = tf.ones_like(features)
    second = outer.gradient(gradient, upstream, direction)
    expected = roi_align(direction, boxes, output_size=(3, 4))
    np.testing.assert_allclose(second, expected, 0, 1e-5)
