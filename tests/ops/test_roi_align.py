import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.ops import native, roi_align
from tests.ops.vjp import to_numpy, vjp

GOLDEN = Path(__file__).parents[1] / "golden" / "roi_align.npz"
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
on_tensorflow = pytest.mark.skipif(not ON_TENSORFLOW, reason="concerns the TensorFlow ops")
X = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
Y = np.arange(256, dtype="float32").reshape(1, 16, 16, 1)


@pytest.fixture(params=["native", "reference"])
def implementation(request):
    if request.param == "native" and not ON_TENSORFLOW:
        pytest.skip("native ops run on the TensorFlow backend")
    with native.implementation(request.param):
        yield request.param


def align(features, *boxes, output_size=2, **kwargs):
    result = roi_align(
        features, np.array([boxes], dtype="float32"), output_size=output_size, **kwargs
    )
    return to_numpy(result)[0, 0, ..., 0]


def unaligned(*args, **kwargs):
    return align(*args, aligned=False, **kwargs)


@pytest.mark.parametrize(
    ("box", "without_shift", "with_shift"),
    [
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
    ],
)
def test_two_samples_a_side(implementation, box, without_shift, with_shift):
    np.testing.assert_allclose(unaligned(X, box, sampling_ratio=2).ravel(), without_shift, 1e-6)
    np.testing.assert_allclose(align(X, box, sampling_ratio=2).ravel(), with_shift, 1e-6)


@pytest.mark.parametrize("box", [(1, 1, 1, 1), (2, 2, 1, 1), (2, 1, 1, 3)])
def test_an_empty_box_has_no_adaptive_samples(implementation, box):
    np.testing.assert_array_equal(align(X, box), np.zeros((2, 2)))


def test_a_reversed_box_is_mirrored_by_a_fixed_grid(implementation):
    result = align(X, (2, 2, 1, 1), sampling_ratio=2)
    np.testing.assert_allclose(result.ravel(), (6.25, 5.75, 4.25, 3.75), 1e-6)


def test_spatial_scale(implementation):
    box, options = (4, 4, 12, 12), {"sampling_ratio": 2, "spatial_scale": 0.25}
    np.testing.assert_allclose(unaligned(X, box, **options).ravel(), (7.5, 8.5, 11.5, 12.5), 1e-6)
    np.testing.assert_allclose(align(X, box, **options).ravel(), (5, 6, 9, 10), 1e-6)


def test_a_sample_exactly_one_cell_outside_reads_the_border(implementation):
    options = {"output_size": 1, "sampling_ratio": 1}
    assert unaligned(X, (3.5, 3.5, 4.5, 4.5), **options) == 15
    assert unaligned(X, (3.5, 3.5, 4.5, 4.6), **options) == 0
    assert unaligned(X + 1, (-1.5, -1.5, -0.5, -0.5), **options) == 1
    assert unaligned(X + 1, (-1.5, -1.6, -0.5, -0.6), **options) == 0


@pytest.mark.parametrize(
    ("features", "options", "expected"),
    [
        (Y, {"aligned": False}, (22, 26, 62, 66)),
        (Y, {}, (13.94444, 17.94444, 53.5, 57.5)),
        (Y, {"sampling_ratio": 1}, (13.5, 17.5, 53.5, 57.5)),
        (Y, {"sampling_ratio": 4}, (14.25, 18.25, 53.5, 57.5)),
        (Y**2 / 100, {}, (3.395, 4.67056, 30.25278, 34.69278)),
        (Y**2 / 100, {"sampling_ratio": 2}, (3.275, 4.515, 30.075, 34.515)),
        (Y**2 / 100, {"aligned": False}, (6.47278, 8.39278, 40.07278, 45.19278)),
    ],
)
def test_adaptive_grid(implementation, features, options, expected):
    np.testing.assert_allclose(align(features, (0, 0, 8, 5), **options).ravel(), expected, 2e-6)


@pytest.mark.parametrize(
    ("box", "aligned", "upstream", "expected"),
    [
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
    ],
)
def test_gradient_of_the_features(implementation, box, aligned, upstream, expected):
    boxes = np.array([[box]], dtype="float32")
    upstream = np.array(upstream, dtype="float32").reshape(1, 1, 2, 2, 1)

    def function(features):
        return roi_align(features, boxes, output_size=2, sampling_ratio=2, aligned=aligned)

    _, gradient = vjp(function, X, upstream)
    np.testing.assert_allclose(gradient[0, :, :, 0], expected, 1e-6)


@pytest.mark.parametrize("size", ["wide", "large", "row", "column"])
def test_torchvision(implementation, size):
    golden = np.load(GOLDEN)
    features, boxes = golden[f"{size}/features"], golden[f"{size}/boxes"]
    for scale, ratio, aligned in itertools.product((1.0, 0.25, 0.7), (0, 1, 2, 3), (1, 0)):
        case = f"{size}/{scale}/{ratio}/{aligned}"

        def function(features, scale=scale, ratio=ratio, aligned=aligned):
            return roi_align(
                features,
                boxes,
                output_size=(3, 2),
                spatial_scale=scale,
                sampling_ratio=ratio,
                aligned=bool(aligned),
            )

        output, gradient = vjp(function, features, golden[f"{size}/output_gradient"])
        np.testing.assert_allclose(output, golden[f"{case}/output"], 0, 1e-5, err_msg=case)
        np.testing.assert_allclose(gradient, golden[f"{case}/gradient"], 0, 1e-5, err_msg=case)


def random_case(seed, channels=3, dtype="float32", height=9, width=13):
    """Features and boxes with every kind of special box, and an upstream gradient for 3 by 4."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(2, height, width, channels)).astype(dtype)
    boxes = (rng.uniform(-10, 30, (2, 12, 4)) * [width / 13, 1, width / 13, 1]).astype(dtype)
    boxes[0, :7] = [
        (np.nan, 0, 1, 1),
        (-3000, -3000, 3000, 3000),
        (-1e30, -1e30, 1e30, 1e30),
        (-np.inf, 0, 3, 3),
        (2, 2, 2, 2),
        (0, 0, 0, 0),
        (-3e38, 0, 3e38, 5),
    ]
    return features, boxes, rng.normal(size=(2, 12, 3, 4, channels)).astype(dtype)


# Whole vectors of every instruction set and what is left over; 300 is more than the registers hold.
@on_tensorflow
@pytest.mark.parametrize(
    ("channels", "width"), [(1, 13), (3, 13), (16, 13), (37, 13), (300, 13), (2, 200)]
)
@pytest.mark.parametrize("sampling_ratio", [0, 1, 5])
@pytest.mark.parametrize("aligned", [True, False])
def test_native_equals_reference(channels, width, sampling_ratio, aligned):
    features, boxes, upstream = random_case(channels, channels, width=width)

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


@pytest.mark.skipif(
    not ON_TENSORFLOW,
    reason="float64 is an option of JAX, and rounded to float32 by Keras' floor on PyTorch",
)
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_finite_differences_in_float64(implementation, sampling_ratio):
    rng = np.random.default_rng(3)
    features = rng.normal(size=(1, 3, 4, 2))
    boxes = np.array([[(0.3, -0.8, 3.1, 2.2), (1.0, 0.5, 9.0, 2.9)]])
    upstream = rng.normal(size=(1, 2, 2, 2, 2))

    def function(features):
        return roi_align(features, boxes, output_size=2, sampling_ratio=sampling_ratio)

    output, gradient = vjp(function, features, upstream)
    assert output.dtype == gradient.dtype == np.float64
    step = 1e-4
    numeric = np.empty_like(features)
    for index in np.ndindex(*features.shape):
        change = np.zeros_like(features)
        change[index] = step
        difference = to_numpy(function(features + change)) - to_numpy(function(features - change))
        numeric[index] = np.sum(difference * upstream) / (2 * step)
    np.testing.assert_allclose(gradient, numeric, 1e-9, 1e-10)


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_half_types_are_accumulated_in_float32(implementation, dtype, bits):
    rng = np.random.default_rng(4)
    features = to_numpy(keras.ops.cast(rng.uniform(1, 2, (1, 40, 40, 19)).astype("float32"), dtype))
    boxes = np.array([[(0, 0, 40, 40), (3, 5, 37, 21.5)]], dtype="float32")
    upstream = np.ones((1, 2, 2, 3, 19), dtype="float32")

    def function(features):
        return roi_align(keras.ops.cast(features, dtype), boxes, output_size=(2, 3))

    assert keras.backend.standardize_dtype(function(features).dtype) == dtype
    exact, exact_gradient = vjp(
        lambda features: roi_align(features, boxes, output_size=(2, 3)), features, upstream
    )
    output, gradient = vjp(function, features, upstream)
    # One rounding of the final result, and the float32 sums' own.
    np.testing.assert_allclose(output, exact, 2.0**-bits + 1e-6)
    np.testing.assert_allclose(gradient, exact_gradient, 2.0**-bits + 1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("channels", [1, 150])
def test_the_gradient_of_many_boxes_on_one_cell(implementation, dtype, channels):
    """By hand: 3000 samples at (2, 1.25), each worth three quarters of one cell."""
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


@pytest.mark.parametrize(
    ("feature_shape", "num_boxes"),
    [((0, 4, 4, 2), 3), ((2, 4, 4, 2), 0), ((1, 4, 4, 0), 3)],
)
def test_nothing_in_nothing_out(implementation, feature_shape, num_boxes):
    features = np.ones(feature_shape, dtype="float32")
    boxes = np.ones((feature_shape[0], num_boxes, 4), dtype="float32")
    shape = (feature_shape[0], num_boxes, 2, 3, feature_shape[3])
    output, gradient = vjp(
        lambda features: roi_align(features, boxes, output_size=(2, 3)), features, np.ones(shape)
    )
    assert output.shape == shape
    np.testing.assert_array_equal(gradient, np.zeros(feature_shape))


@pytest.mark.parametrize("feature_shape", [(1, 0, 4, 2), (1, 4, 0, 2), (1, 0, 0, 2)])
def test_an_empty_map_reads_as_zeros(implementation, feature_shape):
    boxes = np.array([[(0, 0, 3, 3), (-1, -1, 1, 1)]], dtype="float32")
    output = roi_align(np.ones(feature_shape, dtype="float32"), boxes, output_size=2)
    np.testing.assert_array_equal(to_numpy(output), np.zeros((1, 2, 2, 2, 2)))


@pytest.mark.parametrize(
    "box",
    [
        (np.nan, 0, 3, 3),
        (0, np.nan, 3, 3),
        (0, 0, np.nan, 3),
        (0, 0, 3, np.nan),
        (-np.inf, 0, 3, 3),
        (0, 0, 3, np.inf),
        (np.inf, np.inf, np.inf, np.inf),
        (-3e38, 0, 3e38, 3),
    ],
)
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_a_box_that_is_not_finite_gives_zeros_and_no_gradient(
    implementation, box, sampling_ratio, aligned
):
    boxes = np.array([[box]], dtype="float32")

    def function(features):
        return roi_align(
            features, boxes, output_size=2, sampling_ratio=sampling_ratio, aligned=aligned
        )

    output, gradient = vjp(function, X + 1, np.ones((1, 1, 2, 2, 1)))
    np.testing.assert_array_equal(output, np.zeros((1, 1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient, np.zeros_like(X))


@pytest.mark.parametrize("half_side", [3000.0, 1e5])
def test_samples_off_the_map_are_counted_not_visited(implementation, half_side):
    # On a map of ones, a bin gives the part of its samples that lie on the map, from -1 to 16. A
    # bin of an integer number of cells has its samples at half-integers: one on the map in the
    # bin that ends at 0, 16 in the bin that begins there.
    box = (-half_side, -half_side, half_side, half_side)
    part = np.array([1, 16]) / half_side
    np.testing.assert_allclose(unaligned(np.ones_like(Y), box), np.outer(part, part), rtol=1e-5)


def test_a_box_beyond_all_measure_gives_almost_nothing(implementation):
    for size in (1e9, 1e19, 1e30):
        for box in [(-size, -size, size, size), (-1, -1, size, size), (-size, -size, 9, 9)]:
            np.testing.assert_allclose(align(np.ones_like(Y), box), np.zeros((2, 2)), 0, 1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_size": 0}, "roi_align: `output_size` must be a positive int or a pair"),
        ({"output_size": (2, 3, 4)}, "roi_align: `output_size` must be"),
        ({"output_size": (2, 1.5)}, "roi_align: `output_size` must be"),
        ({"spatial_scale": 0}, "roi_align: `spatial_scale` must be positive"),
        ({"spatial_scale": -1.0}, "roi_align: `spatial_scale` must be positive"),
        ({"spatial_scale": float("nan")}, "roi_align: `spatial_scale` must be positive"),
        ({"sampling_ratio": -1}, "roi_align: `sampling_ratio` must be an int between"),
        ({"sampling_ratio": 129}, "roi_align: `sampling_ratio` must be an int between"),
        ({"features": np.ones((4, 4, 1))}, "roi_align: `features` must have shape"),
        ({"features": np.ones((1, 4, 4, 1), int)}, "roi_align: `features` must be float16"),
        ({"features": np.ones((3, 4, 4, 1))}, "roi_align: .* the same batch size"),
        ({"boxes": np.ones((2, 4))}, "roi_align: `boxes` must have shape"),
        ({"boxes": np.ones((1, 2, 5))}, r"roi_align: `boxes` .* Received: \(1, 2, 5\)"),
        ({"boxes": np.ones((1, 2, 4), "float16")}, "roi_align: `boxes` must be float32"),
    ],
)
def test_wrong_arguments(implementation, arguments, message):
    arguments = {
        "features": X,
        "boxes": np.ones((1, 2, 4), dtype="float32"),
        "output_size": 2,
        **arguments,
    }
    with pytest.raises(ValueError, match=message):
        roi_align(arguments.pop("features"), arguments.pop("boxes"), **arguments)


def raw_op(hide=lambda value: value, **changes):
    arguments = {
        "features": [np.ones((2, 4, 4, 3), "float32"), np.ones((2, 2, 2, 3), "float32")],
        "boxes": np.array([[[0, 0, 2, 2]] * 3] * 2, "float32"),
        "levels": np.zeros((2, 3), "int32"),
        "spatial_scales": np.array([1.0, 0.5]),
        "output_height": 2,
        "output_width": 2,
        **changes,
    }
    return native.tf_ops().kvision_roi_align(**{k: hide(v) for k, v in arguments.items()})


def raw_gradient_op(hide=lambda value: value, **changes):
    arguments = {
        "output_gradient": np.ones((2, 3, 2, 2, 3), "float32"),
        "boxes": np.array([[[0, 0, 2, 2]] * 3] * 2, "float32"),
        "levels": np.zeros((2, 3), "int32"),
        "spatial_scales": np.array([1.0, 0.5]),
        "feature_shapes": [np.array([2, 4, 4, 3]), np.array([2, 2, 2, 3])],
        **changes,
    }
    return native.tf_ops().kvision_roi_align_grad(**{k: hide(v) for k, v in arguments.items()})


def of_unknown_shape(value):
    """A tensor in a graph of which only the kernel sees the shape."""
    import tensorflow as tf

    if isinstance(value, list):
        return [of_unknown_shape(element) for element in value]
    if isinstance(value, np.ndarray):
        return tf.raw_ops.PlaceholderWithDefault(input=value, shape=tf.TensorShape(None))
    return value


WRONG_BOXES = [
    {"boxes": np.ones((2, 3, 5), "float32")},
    {"boxes": np.ones((2, 3), "float32")},
    {"boxes": np.ones((2, 3, 4), "float64")},
    {"boxes": np.ones((1, 3, 4), "float32")},
    {"levels": np.zeros((2, 4), "int32")},
    {"levels": np.zeros(6, "int32")},
    {"spatial_scales": np.array([1.0])},
    {"spatial_scales": np.array([1.0, 0.0])},
    {"spatial_scales": np.array([1.0, np.inf])},
    {"sampling_ratio": -1},
    {"sampling_ratio": 129},
]


@on_tensorflow
@pytest.mark.parametrize("where", ["eager", "graph", "graph without shapes"])
@pytest.mark.parametrize(
    ("op", "changes"),
    [
        *((raw_op, changes) for changes in WRONG_BOXES),
        (raw_op, {"features": [np.ones((2, 4, 4, 3), "float32"), np.ones((2, 2, 3), "float32")]}),
        (
            raw_op,
            {"features": [np.ones((2, 4, 4, 3), "float32"), np.ones((1, 2, 2, 3), "float32")]},
        ),
        (
            raw_op,
            {"features": [np.ones((2, 4, 4, 3), "float32"), np.ones((2, 2, 2, 2), "float32")]},
        ),
        (
            raw_op,
            {"features": [np.ones((2, 4, 4, 3), "float32")] * 9, "spatial_scales": np.ones(9)},
        ),
        (raw_op, {"output_height": 0}),
        (raw_op, {"output_width": -1}),
        *((raw_gradient_op, changes) for changes in WRONG_BOXES),
        (raw_gradient_op, {"output_gradient": np.ones((2, 3, 2, 3), "float32")}),
        (raw_gradient_op, {"output_gradient": np.ones((2, 4, 2, 2, 3), "float32")}),
        (raw_gradient_op, {"output_gradient": np.ones((2, 3, 0, 2, 3), "float32")}),
        (raw_gradient_op, {"feature_shapes": [np.array([2, 4, 4, 3]), np.array([2, 2, 2, 5])]}),
        (raw_gradient_op, {"feature_shapes": [np.array([2, 4, 4, 3]), np.array([2, 2, 3])]}),
        (raw_gradient_op, {"feature_shapes": [np.array([2, 4, 4, 3]), np.array([2, 2, -2, 3])]}),
    ],
)
def test_the_raw_ops_refuse(op, changes, where):
    import tensorflow as tf

    call = {
        "eager": lambda: op(**changes),
        "graph": tf.function(lambda: op(**changes)),
        "graph without shapes": tf.function(lambda: op(of_unknown_shape, **changes)),
    }[where]
    # Of a negative constant size TensorFlow speaks before the op, on Python 3.13.
    message = "roi_align|in tensor used for shape: -2"
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message):
        call()


@on_tensorflow
def test_a_level_out_of_range_gives_zeros_and_no_gradient():
    import tensorflow as tf

    levels = tf.constant([[0, 2, -1], [1, 1, 2**31 - 1]])
    output = raw_op(levels=levels).numpy()
    assert (output != 0).any(axis=(2, 3, 4)).tolist() == [[True, False, False], [True, True, False]]
    gradients = raw_gradient_op(levels=levels)
    assert [float(tf.reduce_sum(gradient)) for gradient in gradients] == [12.0, 24.0]


@on_tensorflow
@pytest.mark.parametrize("unknown", [*range(4), "boxes", None])
def test_static_shape(implementation, unknown):
    import tensorflow as tf

    feature_shape = [None if axis == unknown else size for axis, size in enumerate((2, 5, 6, 3))]
    box_shape = [feature_shape[0], None if unknown == "boxes" else 7, 4]

    @tf.function(input_signature=[tf.TensorSpec(feature_shape), tf.TensorSpec(box_shape)])
    def function(features, boxes):
        with tf.GradientTape() as tape:
            tape.watch(features)
            output = roi_align(features, boxes, output_size=(2, 3))
        return output, tape.gradient(output, features)

    output, gradient = function.get_concrete_function().outputs
    assert output.shape.as_list() == [box_shape[0], box_shape[1], 2, 3, feature_shape[3]]
    assert gradient.shape.as_list() == feature_shape
    output, gradient = function(np.ones((2, 5, 6, 3), "f"), np.ones((2, 7, 4), "f"))
    assert output.shape == (2, 7, 2, 3, 3)
    assert gradient.shape == (2, 5, 6, 3)


@on_tensorflow
def test_one_graph_serves_changing_sizes(implementation):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None] * 4), tf.TensorSpec([None] * 3)])
    def function(features, boxes):
        return roi_align(features, boxes, output_size=(3, 2), spatial_scale=0.5)

    rng = np.random.default_rng(5)
    for batch, num_boxes, height, width in [
        (1, 3, 4, 5),
        (2, 70, 6, 5),
        (2, 0, 3, 3),
        (0, 5, 3, 3),
    ]:
        features = rng.normal(size=(batch, height, width, 2)).astype("float32")
        boxes = rng.uniform(0, 12, (batch, num_boxes, 4)).astype("float32")
        eager = roi_align(features, boxes, output_size=(3, 2), spatial_scale=0.5)
        np.testing.assert_allclose(function(features, boxes), eager, 0, 1e-6)


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


def kernels():
    """The kernels without TensorFlow and without the package around them."""
    (path,) = (Path(native.__file__).parents[1]).glob("_C.*")
    specification = importlib.util.spec_from_file_location("_C", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@on_tensorflow
def test_the_same_bits_for_every_number_of_threads():
    features, boxes, upstream = random_case(7, channels=33, height=50, width=40)
    levels = np.zeros(boxes.shape[:2], "int32")
    module = kernels()

    def run(num_threads):
        output = module.roi_align([features], boxes, levels, [0.9], (3, 4), num_threads=num_threads)
        (gradient,) = module.roi_align_gradient(
            upstream, boxes, levels, [0.9], [features.shape[1:3]], num_threads=num_threads
        )
        return output.tobytes(), gradient.tobytes()

    one = run(1)
    for num_threads in (2, 3, 16):
        assert run(num_threads) == one
    with native.implementation("native"):
        output, gradient = vjp(
            lambda features: roi_align(features, boxes, output_size=(3, 4), spatial_scale=0.9),
            features,
            upstream,
        )
    assert (output.tobytes(), gradient.tobytes()) == one


@on_tensorflow
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa, tmp_path):
    features, boxes, upstream = random_case(8, channels=151)
    np.savez(tmp_path / "in.npz", features=features, boxes=boxes, upstream=upstream)
    script = """
import importlib.util, json, sys
import numpy as np
path, folder = json.loads(sys.argv[1])
specification = importlib.util.spec_from_file_location("_C", path)
module = importlib.util.module_from_spec(specification)
specification.loader.exec_module(module)
a = np.load(folder + "/in.npz")
levels = np.zeros(a["boxes"].shape[:2], "int32")
output = module.roi_align([a["features"]], a["boxes"], levels, [0.7], (3, 4), 2)
(gradient,) = module.roi_align_gradient(a["upstream"], a["boxes"], levels, [0.7], [(9, 13)], 2)
np.savez(folder + "/out.npz", output=output, gradient=gradient)
"""
    arguments = json.dumps([kernels().__file__, str(tmp_path)])
    subprocess.run(
        [sys.executable, "-c", script, arguments],
        env={**os.environ, "KVISION_ISA": isa},
        check=True,
    )
    result = np.load(tmp_path / "out.npz")
    with native.implementation("reference"):
        output, gradient = vjp(
            lambda features: roi_align(
                features, boxes, output_size=(3, 4), spatial_scale=0.7, sampling_ratio=2
            ),
            features,
            upstream,
        )
    np.testing.assert_allclose(result["output"], output, 0, 2e-6)
    np.testing.assert_allclose(result["gradient"], gradient, 0, 5e-6)


def test_functional_model(implementation, tmp_path):
    features = keras.Input((None, None, 3))
    boxes = keras.Input((None, 4))
    output = roi_align(features, boxes, output_size=(2, 3), spatial_scale=0.5, sampling_ratio=1)
    assert output.shape == (None, None, 2, 3, 3)
    model = keras.Model([features, boxes], output)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    rng = np.random.default_rng(9)
    inputs = [rng.normal(size=(1, 6, 7, 3)), np.array([[(1.0, 2, 9, 8)]])]
    inputs = [array.astype("float32") for array in inputs]
    expected = roi_align(*inputs, output_size=(2, 3), spatial_scale=0.5, sampling_ratio=1)
    np.testing.assert_allclose(to_numpy(loaded(inputs)), to_numpy(expected), 1e-6)
