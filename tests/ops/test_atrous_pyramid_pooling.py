import keras
import numpy as np
import pytest

from kvision.ops import atrous_pyramid_pooling, native
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

NAME = "atrous_pyramid_pooling"
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="concerns the TensorFlow ops"
)
COUNTED = np.arange(1, 26, dtype="float32").reshape(1, 5, 5, 1)


def pooled(x, kernel_0, kernel_1, kernel_2, bias_0=None, bias_1=None, bias_2=None, **arguments):
    """The op with every kernel and bias as an input of its own."""
    biases = None if bias_0 is None else [bias_0, bias_1, bias_2]
    return atrous_pyramid_pooling(x, [kernel_0, kernel_1, kernel_2], biases=biases, **arguments)


def brute_force(x, kernels, rates, biases=None, relu=False):
    """The definition, tap by tap and pixel by pixel, in float64."""
    x = x.astype("float64")
    _, height, width, _ = x.shape
    branches = []
    for index, (kernel, rate) in enumerate(zip(kernels, rates, strict=True)):
        branch = np.zeros((*x.shape[:3], kernel.shape[3]))
        if biases is not None:
            branch += biases[index]
        half = kernel.shape[0] // 2
        for row, column, i, j in np.ndindex(height, width, *kernel.shape[:2]):
            y, z = row + (i - half) * rate, column + (j - half) * rate
            if 0 <= y < height and 0 <= z < width:
                branch[:, row, column] += x[:, y, z] @ kernel[i, j].astype("float64")
        branches.append(branch)
    output = np.concatenate(branches, axis=-1)
    return np.maximum(output, 0) if relu else output


def ones(size):
    return np.ones((size, size, 1, 1), "float32")


WORKED = {
    # Sums of 3 by 3 neighbours of 1..25, five a row.
    "rate 1": Case(
        {"x": COUNTED, "kernel_0": ones(1), "kernel_1": ones(3), "kernel_2": 2 * ones(1)},
        np.stack(
            [
                COUNTED[0, :, :, 0],
                [
                    (16, 27, 33, 39, 28),
                    (39, 63, 72, 81, 57),
                    (69, 108, 117, 126, 87),
                    (99, 153, 162, 171, 117),
                    (76, 117, 123, 129, 88),
                ],
                2 * COUNTED[0, :, :, 0],
            ],
            axis=-1,
        )[None],
        {"dilation_rates": (3, 1, 7), "activation": None},
        rtol=0,
    ),
    # Taps 4 apart: a corner finds the four corners, a pixel inside itself alone.
    "rates 4 and 9": Case(
        {"x": COUNTED, "kernel_0": ones(3), "kernel_1": ones(3), "kernel_2": ones(5)},
        np.stack(
            [
                [
                    (52, 24, 26, 28, 52),
                    (16, 7, 8, 9, 16),
                    (26, 12, 13, 14, 26),
                    (36, 17, 18, 19, 36),
                    (52, 24, 26, 28, 52),
                ],
                COUNTED[0, :, :, 0],
                COUNTED[0, :, :, 0],
            ],
            axis=-1,
        )[None],
        {"dilation_rates": (4, 9, 5), "activation": None},
        rtol=0,
    ),
}


RATES = Input("2", draws.constant((1, 2)), "int64", specials=(0, 1, 3, 2**31 - 1, 2**31, -1))
X = Input("images height width in_channels", comparable=1e6)
OUTPUT = "images height width 5"
KERNELS = {
    "kernel_0": Input("1 1 in_channels 2", comparable=1e6),
    "kernel_1": Input("3 3 in_channels 3", comparable=1e6),
}
LIST = {"kernels": ("kernel_0", "kernel_1")}
INVALID_RATES = (
    Invalid({"dilation_rates": np.array([1, 0])}, "`dilation_rates` must lie", static=False),
    Invalid({"dilation_rates": np.array([2**31, 1])}, "`dilation_rates` must lie", static=False),
    Invalid({"dilation_rates": np.array([1])}, "`dilation_rates` must have shape"),
)
# Of one branch, for a table cannot say of a shape that it is a sum.
RAW = RawOp(
    name=NAME,
    op="kvision_atrous_pyramid_pooling",
    inputs={
        "x": X,
        "kernel": Input("3 3 in_channels filters"),
        "biases": Input("filters"),
        "dilation_rates": Input("1", draws.constant(2), "int64", specials=RATES.specials),
    },
    lists={"kernels": ("kernel",)},
    outputs={"output": Output("images height width filters")},
    invalid=(
        Invalid({"x": np.ones((3, 3, 3), "float32")}, "`x` must have shape"),
        Invalid({"kernel": np.ones((3, 3, 3), "float32")}, "`kernels` must have shape"),
        Invalid({"kernel": np.ones((3, 3, 4, 3), "float32")}, "`kernels` .* in_channels is 3"),
        Invalid({"biases": np.ones(6, "float32")}, "`biases` .* filters is 3 in `kernels`"),
        Invalid({"dilation_rates": np.array([0])}, "`dilation_rates` must lie", static=False),
        Invalid({"dilation_rates": np.array([1, 1])}, "`dilation_rates` must have shape"),
    ),
    fuzzed_arguments={"relu": (True, False)},
)
RAW_GRADIENT = RawOp(
    name=NAME,
    op="kvision_atrous_pyramid_pooling_gradient",
    inputs={**KERNELS, "output_gradient": Input(OUTPUT), "dilation_rates": RATES},
    lists=LIST,
    outputs={"x_gradient": Output("images height width in_channels")},
    invalid=(
        *INVALID_RATES,
        Invalid({"kernel_1": np.ones((3, 3, 4, 3), "float32")}, "`kernels` .* in_channels is 3"),
        Invalid({"output_gradient": np.ones((3, 3, 3, 4), "float32")}, "filters is 5 in `kernels`"),
    ),
)
KERNEL_SHAPES = np.array([(1, 1, 3, 2), (3, 3, 3, 3)])
RAW_KERNEL_GRADIENT = RawOp(
    name=NAME,
    op="kvision_atrous_pyramid_pooling_kernel_gradient",
    inputs={
        "x": X,
        "output_gradient": Input(OUTPUT),
        "dilation_rates": RATES,
        "kernel_shapes": Input(
            "2 4",
            lambda rng, shape, sizes: [
                (1, 1, sizes["in_channels"], 2),
                (3, 3, sizes["in_channels"], 3),
            ],
            "int64",
            specials=(-1, 0, 3),
        ),
    },
    # The sizes of the kernels are data.
    outputs={"gradient_0": Output("? ? in_channels ?"), "gradient_1": Output("? ? in_channels ?")},
    arguments={"num_branches": 2},
    invalid=(
        *INVALID_RATES,
        Invalid({"x": np.ones((3, 3, 2, 3), "float32")}, "`output_gradient` .* width is 2 in `x`"),
        Invalid(
            {"kernel_shapes": KERNEL_SHAPES + [0, 0, 0, 1]},
            "`kernel_gradients` must have 5 filters in all",
        ),
        # Empty kernels, of more filters than 64 bits count.
        Invalid(
            {"kernel_shapes": np.array([(0, 0, 3, 2**62), (0, 0, 3, 2**62)])},
            "`kernel_gradients` must have shape",
        ),
        Invalid({"kernel_shapes": KERNEL_SHAPES + [0, 0, 1, 0]}, "in_channels is 3 in `x`"),
        Invalid({"kernel_shapes": KERNEL_SHAPES[:, :3]}, "`kernel_shapes` must have shape"),
        Invalid({"kernel_shapes": -KERNEL_SHAPES}, "must hold no negative size", static=True),
    ),
)


def kernels(inputs, arguments, output_gradients):
    weights = [inputs[f"kernel_{n}"] for n in range(3)]
    zeros = [np.zeros(w.shape[3:], w.dtype) for w in weights]
    biases = [inputs.get(f"bias_{n}", zero) for n, zero in enumerate(zeros)]
    rates = {"dilation_rates": arguments["dilation_rates"]}
    forward = {
        "x": inputs["x"],
        "kernels": weights,
        "biases": np.concatenate(biases),
        "relu": arguments["activation"] == "relu",
        **rates,
    }
    output_gradient = output_gradients["output"]
    if forward["relu"]:
        output = native.module().atrous_pyramid_pooling(**forward)
        output_gradient = np.where(output > 0, output_gradient, np.zeros_like(output_gradient))
    backward = {"kernels": weights, "output_gradient": output_gradient, **rates}
    to_kernels = {
        "x": inputs["x"],
        "output_gradient": output_gradient,
        "kernel_shapes": [w.shape for w in weights],
        **rates,
    }
    return [
        KernelCall("atrous_pyramid_pooling", forward, {0: "output"}),
        KernelCall("atrous_pyramid_pooling_gradient", backward, {0: "gradient of x"}),
        KernelCall(
            "atrous_pyramid_pooling_kernel_gradient",
            to_kernels,
            {n: f"gradient of kernel_{n}" for n in range(3)},
        ),
    ]


def kernel(axes):
    return Input(axes, differentiable=True, comparable=1e6)


class TestAtrousPyramidPooling(OpTests):
    contract = OpContract(
        name=NAME,
        function=pooled,
        inputs={
            "x": Input("batch height width channels", differentiable=True, comparable=1e6),
            "kernel_0": kernel("1 1 channels 2"),
            "kernel_1": kernel("3 3 channels 3"),
            "kernel_2": kernel("3 3 channels 2"),
            "bias_0": kernel("2"),
            "bias_1": kernel("3"),
            "bias_2": kernel("2"),
        },
        outputs={"output": Output("batch height width 7")},
        arguments={"dilation_rates": (1, 2, 4), "activation": None},
        sizes={"batch": 2, "height": 5, "width": 6, "channels": 3},
        variants={
            "biased": Variant(),
            "rectified": Variant({"activation": "relu"}),
            "bare": Variant(without=("bias_0", "bias_1", "bias_2")),
        },
        cases=WORKED,
        invalid=(
            Invalid({"x": np.ones((2, 3, 3))}, "`x` must have shape"),
            Invalid({"x": np.ones((2, 3, 3, 3), int)}, "`x` must be float16"),
            *(
                Invalid({"kernel_1": np.ones(shape, "float32")}, rf"`kernels\[1\]` {message}")
                for shape, message in {
                    (3, 3, 3): "must have shape",
                    (3, 3, 4, 3): "must have shape .* in_channels 3",
                    (2, 2, 3, 3): "must have shape .* size odd",
                    (3, 1, 3, 3): "must have shape",
                }.items()
            ),
            Invalid(
                {"kernel_1": np.ones((3, 3, 3, 3), "float16")}, r"`kernels\[1\]` must be float32"
            ),
            Invalid({"bias_1": np.ones(2, "float32")}, r"`biases\[1\]` must have shape \(3,\)"),
            Invalid({"bias_1": np.ones(3, "float16")}, r"`biases\[1\]` must be float32"),
            Invalid({"dilation_rates": (1, 2)}, "one element for each branch"),
            Invalid({"dilation_rates": (1, 0, 2)}, "`dilation_rates` must be ints between 1"),
            Invalid({"dilation_rates": (1, 1.5, 2)}, "`dilation_rates` must be ints between 1"),
            Invalid({"dilation_rates": (1, np.inf, 2)}, "`dilation_rates` must be ints between 1"),
            Invalid({"activation": "tanh"}, "`activation` must be one of"),
        ),
        raw=(RAW, RAW_GRADIENT, RAW_KERNEL_GRADIENT),
        kernels=kernels,
        kernel_sizes={"height": 33, "width": 20, "channels": 300},
        # Where the instruction set can, products are fused with sums.
        isa_tolerance=1e-5,
        native_ops=(NAME,),
        fuzzed_arguments={
            "dilation_rates": ((1, 1, 1), (3, 2, 2**31 - 1), (1, 0, 1), (1, 2)),
            "activation": (None, "relu", "elu"),
        },
    )


SHAPES = {
    "whole tiles": ((2, 7, 8, 64), (1, 3), (32, 64)),
    "what is left over": ((1, 9, 13, 37), (3, 1, 5), (1, 45, 16)),
    "deep": ((1, 3, 4, 700), (3,), (40,)),
    "many filters": ((1, 2, 3, 5), (3,), (300,)),
    "many pixels": ((3, 21, 19, 3), (3, 3), (2, 3)),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("rate", [1, 2, 6])
def test_by_brute_force(implementation, name, rate):
    rng = np.random.default_rng(rate)
    shape, sizes, filters = SHAPES[name]
    x = rng.normal(size=shape).astype("float32")
    weights = [
        rng.normal(size=(size, size, shape[3], number)).astype("float32")
        for size, number in zip(sizes, filters, strict=True)
    ]
    biases = [rng.normal(size=number).astype("float32") for number in filters]
    rates = [rate + n for n in range(len(sizes))]
    expected = brute_force(x, weights, rates, biases, relu=True)
    output = atrous_pyramid_pooling(
        x, weights, dilation_rates=rates, biases=biases, activation="relu"
    )
    np.testing.assert_allclose(to_numpy(output), expected, 1e-5, 1e-5 * np.abs(expected).max())


def test_gradients_by_brute_force(implementation):
    """A linear function's gradient is what the definition says of every unit."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 4, 5, 2)).astype("float32")
    weights = [rng.normal(size=(3, 3, 2, 3)).astype("float32")]
    upstream = rng.normal(size=(1, 4, 5, 3)).astype("float32")

    def slopes(value, function):
        found = np.zeros(value.shape)
        for index in np.ndindex(*value.shape):
            unit = np.zeros(value.shape)
            unit[index] = 1
            found[index] = np.sum(function(unit) * upstream)
        return found

    _, gradients = vjp(
        lambda leaves: atrous_pyramid_pooling(leaves["x"], [leaves["kernel"]], dilation_rates=[2]),
        {"x": x, "kernel": weights[0]},
        upstream,
    )
    expected = {
        "x": slopes(x, lambda unit: brute_force(unit, weights, [2])),
        "kernel": slopes(weights[0], lambda unit: brute_force(x, [unit], [2])),
    }
    for key, value in expected.items():
        np.testing.assert_allclose(gradients[key], value, 1e-5, 1e-5)


def test_a_weight_that_meets_padding_alone_may_be_infinite(implementation):
    kernel = np.full((3, 3, 1, 1), np.inf, "float32")
    kernel[1, 1] = 2
    x = np.zeros((1, 2, 2, 1), "float32")
    output = atrous_pyramid_pooling(x, [kernel], dilation_rates=[2])
    np.testing.assert_array_equal(to_numpy(output), x)


def test_an_empty_kernel_may_have_any_number_of_rows():
    output = native.module().atrous_pyramid_pooling(
        x=np.ones((1, 2, 1, 1), "float32"),
        kernels=[np.ones((2**40, 0, 1, 1), "float32")],
        biases=np.full(1, 5, "float32"),
        dilation_rates=[2**31 - 1],
    )
    np.testing.assert_array_equal(output, np.full((1, 2, 1, 1), 5))


def test_a_number_that_is_none_stays(implementation):
    x = np.full((1, 1, 1, 1), np.nan, "float32")
    output = atrous_pyramid_pooling(x, [x], dilation_rates=[1], activation="relu")
    assert np.isnan(to_numpy(output)).all()


@on_tensorflow
def test_second_derivatives(implementation):
    import tensorflow as tf

    rng = np.random.default_rng(2)
    x, kernel, upstream, along_x, along_kernel = (
        tf.constant(rng.normal(size=shape))
        for shape in [(1, 4, 5, 2), (3, 3, 2, 3), (1, 4, 5, 3), (1, 4, 5, 2), (3, 3, 2, 3)]
    )

    def convolved(x, kernel):
        return atrous_pyramid_pooling(x, [kernel], dilation_rates=[2])

    with tf.GradientTape() as outer:
        outer.watch([x, kernel, upstream])
        with tf.GradientTape() as inner:
            inner.watch([x, kernel])
            output = convolved(x, kernel)
        to_x, to_kernel = inner.gradient(output, [x, kernel], upstream)
        slope = tf.reduce_sum(to_x * along_x) + tf.reduce_sum(to_kernel * along_kernel)
    found = outer.gradient(slope, [x, kernel, upstream])
    # The convolution is linear in either: the slope is that of its two halves.
    with tf.GradientTape() as tape:
        tape.watch([x, kernel, upstream])
        halves = convolved(along_x, kernel) + convolved(x, along_kernel)
        slope = tf.reduce_sum(halves * upstream)
    for one, other in zip(found, tape.gradient(slope, [x, kernel, upstream]), strict=True):
        np.testing.assert_allclose(one, other, 1e-12, 1e-12)
