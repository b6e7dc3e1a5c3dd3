import keras
import numpy as np
import pytest

from kvision.ops import depthwise_atrous_pyramid_pooling, native
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

INF, NAN = np.inf, np.nan
NAME = "depthwise_atrous_pyramid_pooling"
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="concerns the TensorFlow ops"
)


def brute_force(x, kernels, rates, biases=None, activation=None, upstream=None):
    """The result `(batch, height, width, branches, channels)` and the gradients, tap by tap.

    Returns:
        The result and, where `upstream` is given, the gradients of `x`, of each kernel and of the
        biases, in float64.
    """
    x = np.asarray(x, "float64")
    batch, height, width, channels = x.shape
    output = np.zeros((batch, height, width, len(kernels), channels))
    if biases is not None:
        output += np.stack(biases)

    def visit(visitor):
        for n, (kernel, rate) in enumerate(zip(kernels, rates, strict=True)):
            for i, j in np.ndindex(kernel.shape[:2]):
                rows, columns = ((k - len(kernel) // 2) * rate for k in (i, j))
                for y, xx in np.ndindex(height, width):
                    if 0 <= y + rows < height and 0 <= xx + columns < width:
                        visitor(n, i, j, (y, xx), (y + rows, xx + columns))

    def add(n, i, j, place, tap):
        output[:, *place, n] += x[:, *tap] * kernels[n][i, j, :, 0]

    visit(add)
    if activation == "relu":
        output = np.where(output < 0, 0, output)
    if upstream is None:
        return output
    upstream = np.where(output > 0, upstream, 0) if activation == "relu" else upstream
    of_x, of_kernels = np.zeros(x.shape), [np.zeros(kernel.shape) for kernel in kernels]

    def add_gradients(n, i, j, place, tap):
        of_x[:, *tap] += upstream[:, *place, n] * kernels[n][i, j, :, 0]
        of_kernels[n][i, j, :, 0] += np.sum(upstream[:, *place, n] * x[:, *tap], 0)

    visit(add_gradients)
    return output, of_x, of_kernels, upstream.sum((0, 1, 2))


def pooled(x, kernel0, kernel1, bias0=None, bias1=None, **arguments):
    """The op with every kernel and bias as an input of its own, and the branches on an axis."""
    biases = None if bias0 is None else [bias0, bias1]
    output = depthwise_atrous_pyramid_pooling(x, [kernel0, kernel1], biases=biases, **arguments)
    return keras.ops.stack(keras.ops.split(output, 2, axis=-1), axis=3)


def drawn(seed, shape, sizes, biased=True):
    rng = np.random.default_rng(seed)
    x = rng.integers(-4, 5, shape).astype("float32")
    kernels = [rng.integers(-3, 4, (s, s, shape[3], 1)).astype("float32") for s in sizes]
    biases = [rng.integers(-9, 10, shape[3]).astype("float32") for _ in sizes] if biased else None
    upstream = rng.integers(-3, 4, (*shape[:3], len(sizes), shape[3])).astype("float32")
    return x, kernels, biases, upstream


def brute_force_case(seed, shape, sizes, rates, activation=None, biased=True):
    """Small integers: every sum is exact, in any order."""
    x, kernels, biases, upstream = drawn(seed, shape, sizes, biased)
    output, of_x, of_kernels, of_biases = brute_force(
        x, kernels, rates, biases, activation, upstream
    )
    inputs = {"x": x, "kernel0": kernels[0], "kernel1": kernels[1]}
    gradients = {"x": of_x, "kernel0": of_kernels[0], "kernel1": of_kernels[1]}
    if biased:
        inputs |= {"bias0": biases[0], "bias1": biases[1]}
        gradients |= {"bias0": of_biases[0], "bias1": of_biases[1]}
    arguments = {"dilation_rates": rates, "activation": activation}
    return Case(inputs, output, arguments, upstream, gradients, rtol=0)


# An image of 4 by 4 that counts its cells from 1, kernels of ones: sums by hand. The rates leave
# the corners of the image three taps of nine, four of nine, and the middle one alone.
COUNT = np.arange(1, 17, dtype="float32").reshape(1, 4, 4, 1)
ONES = np.ones((3, 3, 1, 1), "float32")


def by_hand():
    rate_2 = [[1 + 3 + 9 + 11, 2 + 4 + 10 + 12] * 2, [5 + 7 + 13 + 15, 6 + 8 + 14 + 16] * 2] * 2
    rate_3 = COUNT.reshape(4, 4).copy()
    rate_3[::3, ::3] = 1 + 4 + 13 + 16
    rate_3[::3, 1:3] = [2 + 14, 3 + 15]
    rate_3[1:3, ::3] = [[5 + 8], [9 + 12]]
    output = np.stack([np.reshape(rate_2, (4, 4)), rate_3], -1).reshape(1, 4, 4, 2, 1)
    inputs = {"x": COUNT, "kernel0": ONES, "kernel1": ONES}
    return Case(inputs, output, {"dilation_rates": (2, 3)}, rtol=0)


OUTPUT = "images height width output_channels"
SIZES = Input("num_branches", draws.constant(3), "int64", specials=(0, -1, 1, 2, 5, 65, 2**40))
RATES = Input("num_branches", draws.constant(2), "int64", specials=(0, -1, 1, 5, 2**31, 2**40))
SHARED_RAW = {
    "name": NAME,
    "arguments": {"activation": "relu"},
    "sizes": {"images": 2, "height": 4, "num_branches": 2, "num_weights": 54, "output_channels": 6},
    "fuzzed_arguments": {"activation": ("none", "relu", "gelu")},
}
SHARED_INVALID = (
    Invalid({"x": np.ones((2, 4, 3), "float32")}, "`x` must have shape"),
    Invalid({"kernels": np.ones(50, "float32")}, "`kernels` must have 18 numbers", static=False),
    Invalid({"kernel_sizes": np.array([3, 2])}, "must be odd and at most 63", static=False),
    Invalid({"kernel_sizes": np.array([3, 65])}, "must be odd and at most 63", static=False),
    Invalid({"dilation_rates": np.array([1, 0])}, "`dilation_rates` must lie", static=False),
    Invalid({"dilation_rates": np.array([1, 2, 3])}, "must have shape .* num_branches is 2"),
    Invalid({"activation": "gelu"}, "`activation` must be none or relu"),
)
RAW = RawOp(
    op=f"kvision_{NAME}",
    inputs={
        "x": Input("images height width channels"),
        "kernels": Input("num_weights"),
        "biases": Input("output_channels"),
        "kernel_sizes": SIZES,
        "dilation_rates": RATES,
    },
    outputs={"output": Output(OUTPUT)},
    invalid=(
        *SHARED_INVALID,
        Invalid({"biases": np.ones(5, "float32")}, "`biases` must have 2 numbers", static=False),
    ),
    **SHARED_RAW,
)
RAW_GRADIENT = RawOp(
    op=f"kvision_{NAME}_gradient",
    inputs={
        "output_gradient": Input(OUTPUT),
        "output": Input(OUTPUT),
        "x": Input("images height width channels"),
        "kernels": Input("num_weights"),
        "kernel_sizes": SIZES,
        "dilation_rates": RATES,
    },
    outputs={
        "x_gradient": Output("images height width channels"),
        "kernel_gradient": Output("num_weights"),
        "bias_gradient": Output("output_channels"),
    },
    invalid=(
        *SHARED_INVALID,
        Invalid({"output": np.ones((2, 4, 3, 5), "float32")}, "`output` must have shape"),
    ),
    **SHARED_RAW,
)


def kernels(inputs, arguments, output_gradients):
    pair = [inputs["kernel0"], inputs["kernel1"]]
    channels = inputs["x"].shape[3]
    biases = [inputs.get(f"bias{n}", np.zeros(channels, "float32")) for n in range(2)]
    common = {
        "x": inputs["x"],
        "kernels": np.concatenate([kernel.ravel() for kernel in pair]),
        "kernel_sizes": [len(kernel) for kernel in pair],
        "dilation_rates": list(arguments["dilation_rates"]),
        "activation": arguments.get("activation") or "none",
    }
    forward = {**common, "biases": np.concatenate(biases)}
    backward = {
        **common,
        "output_gradient": output_gradients["output"].reshape(*inputs["x"].shape[:3], -1),
        "output": getattr(native.module(), NAME)(**forward),
    }
    return [
        KernelCall(NAME, forward, {0: "output"}),
        KernelCall(f"{NAME}_gradient", backward, {0: "gradient of x"}),
    ]


# Where a result is 0 but for rounding, the gradient of ReLU is anybody's.
KERNEL = Input("3 3 channels 1", differentiable=True, comparable=1e6)
BIAS = Input("channels", differentiable=True, comparable=1e6)


class TestDepthwiseAtrousPyramidPooling(OpTests):
    contract = OpContract(
        name=NAME,
        function=pooled,
        inputs={
            "x": Input("batch height width channels", differentiable=True, comparable=1e6),
            "kernel0": KERNEL,
            "kernel1": Input("5 5 channels 1", differentiable=True, comparable=1e6),
            "bias0": BIAS,
            "bias1": BIAS,
        },
        outputs={"output": Output("batch height width 2 channels")},
        arguments={"dilation_rates": (3, 1)},
        sizes={"batch": 2, "height": 5, "width": 7},
        variants={
            "biases": Variant(),
            "plain": Variant(without=("bias0", "bias1")),
            "relu": Variant({"activation": "relu"}),
            # Wider than the image.
            "wide": Variant({"dilation_rates": (4, 9)}, axes={"kernel1": "1 1 channels 1"}),
        },
        cases={
            "by hand": by_hand(),
            "odd sizes": brute_force_case(0, (2, 5, 9, 3), (3, 5), (2, 3)),
            "without biases": brute_force_case(1, (1, 4, 4, 5), (1, 3), (1, 1), biased=False),
            "relu": brute_force_case(2, (2, 7, 6, 4), (3, 3), (1, 4), "relu"),
            "relu without biases": brute_force_case(
                3, (1, 6, 3, 4), (7, 1), (2, 7), "relu", biased=False
            ),
            "a cell": brute_force_case(4, (3, 1, 1, 2), (3, 5), (1, 2)),
        },
        invalid=(
            Invalid({"dilation_rates": (3,)}, "one element for each branch"),
            Invalid({"dilation_rates": 3}, "`dilation_rates` must be a list", TypeError),
            Invalid({"dilation_rates": (3, 0)}, "`dilation_rates` must be ints"),
            Invalid({"dilation_rates": (3, 1.5)}, "`dilation_rates` must be ints"),
            Invalid({"activation": "gelu"}, "`activation` must be one of"),
            Invalid({"x": np.ones((5, 7, 3), "float32")}, "`x` must have shape"),
            Invalid({"x": np.ones((2, 5, 7, 3), int)}, "`x` must be float16"),
            Invalid(
                {"kernel0": np.ones((3, 3, 2, 1), "float32")},
                r"`kernels\[0\]` must have shape .* channels 3",
            ),
            Invalid({"kernel1": np.ones((3, 3, 3), "float32")}, r"`kernels\[1\]` must have shape"),
            Invalid({"kernel1": np.ones((3, 5, 3, 1), "float32")}, r"`kernels\[1\]` .*size, size"),
            Invalid({"kernel1": np.ones((2, 2, 3, 1), "float32")}, r"`kernels\[1\]` .* odd"),
            Invalid({"kernel1": np.ones((65, 65, 3, 1), "float32")}, r"`kernels\[1\]` .* most 63"),
            Invalid({"kernel0": np.ones((3, 3, 3, 1), "float16")}, "as `x` is"),
            Invalid({"bias1": np.ones(2, "float32")}, r"`biases\[1\]` must have shape"),
        ),
        raw=(RAW, RAW_GRADIENT),
        kernels=kernels,
        # More than one block of channels, vectors that are not whole, several bands of rows.
        kernel_sizes={"height": 50, "width": 40, "channels": 151},
        # Multiplications are fused with sums where the instruction set can.
        isa_tolerance=1e-5,
        fuzzed_arguments={
            "dilation_rates": ((1, 1), (2, 5), (3, 1), (0, 1), (1,), (-1, 2)),
            "activation": (None, "relu", "gelu"),
        },
    )


# Whole vectors of every instruction set and what is left over, blocks of channels, bands of rows,
# pieces of large kernels.
@pytest.mark.parametrize(
    ("shape", "sizes", "rates"),
    [
        ((1, 37, 5, 1), (3,), (16,)),
        ((2, 9, 13, 37), (3, 1, 5, 3), (6, 1, 2, 12)),
        ((1, 5, 8, 300), (7, 3), (1, 2**31 - 1)),
    ],
)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_every_tap_by_brute_force(implementation, shape, sizes, rates, activation):
    x, kernels, biases, upstream = drawn(shape[3], shape, sizes)
    flat = (*shape[:3], len(sizes) * shape[3])
    expected = brute_force(x, kernels, rates, biases, activation, upstream)

    def function(leaves):
        return depthwise_atrous_pyramid_pooling(
            leaves["x"],
            leaves["kernels"],
            dilation_rates=rates,
            biases=leaves["biases"],
            activation=activation,
        )

    leaves = {"x": x, "kernels": kernels, "biases": biases}
    output, gradients = vjp(function, leaves, upstream.reshape(flat))
    np.testing.assert_array_equal(output, expected[0].reshape(flat))
    np.testing.assert_array_equal(gradients["x"], expected[1])
    for found, wanted in zip(gradients["kernels"], expected[2], strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.stack(gradients["biases"]), expected[3])


@on_tensorflow
@pytest.mark.parametrize("activation", [None, "relu"])
def test_second_derivatives(implementation, activation):
    import tensorflow as tf

    x, kernels, biases, upstream = (
        tf.nest.map_structure(tf.constant, part) for part in drawn(7, (2, 5, 6, 3), (3, 5))
    )
    upstream = tf.reshape(upstream, (2, 5, 6, 6))
    tensors = [x, *kernels, *biases]
    rng = np.random.default_rng(8)
    directions = [tf.constant(rng.normal(size=t.shape), tf.float32) for t in tensors]

    def gradients(x, kernel0, kernel1, bias0, bias1, upstream):
        with tf.GradientTape() as tape:
            inputs = [x, kernel0, kernel1, bias0, bias1]
            tape.watch(inputs)
            output = depthwise_atrous_pyramid_pooling(
                x,
                [kernel0, kernel1],
                dilation_rates=(2, 1),
                biases=[bias0 + 0.25, bias1 + 0.25],  # off the jump of the ReLU
                activation=activation,
            )
        found = tape.gradient(output, inputs, upstream)
        return sum(tf.reduce_sum(g * d) for g, d in zip(found, directions, strict=True))

    with tf.GradientTape() as tape:
        tape.watch([*tensors, upstream])
        slope = gradients(*tensors, upstream)
    second = tape.gradient(slope, [*tensors, upstream], unconnected_gradients="zero")
    # The gradient is linear in each tensor as long as no result changes its sign.
    for index, value in enumerate([*tensors, upstream]):
        step = tf.constant(rng.normal(size=value.shape) * 1e-2, tf.float32)
        ends = []
        for sign in (1, -1):
            moved = [*tensors, upstream]
            moved[index] = value + sign * step
            ends.append(float(gradients(*moved)))
        expected = (ends[0] - ends[1]) / 2
        np.testing.assert_allclose(float(tf.reduce_sum(second[index] * step)), expected, 2e-3, 2e-2)


def test_a_tap_in_the_padding_is_not_multiplied(implementation):
    kernel = np.full((3, 3, 1, 1), INF, "float32")
    kernel[1, 1] = 2
    output, gradient = vjp(
        lambda x: depthwise_atrous_pyramid_pooling(x, [kernel], dilation_rates=[3]),
        np.ones((1, 3, 3, 1), "float32"),
        np.ones((1, 3, 3, 1), "float32"),
    )
    np.testing.assert_array_equal(output, np.full((1, 3, 3, 1), 2))
    np.testing.assert_array_equal(gradient, np.full((1, 3, 3, 1), 2))


def test_relu_keeps_what_is_not_a_number(implementation):
    x = np.array([NAN, -1, 2, -INF], "float32").reshape(1, 1, 1, 4)
    kernel = np.ones((1, 1, 4, 1), "float32")
    output = depthwise_atrous_pyramid_pooling(x, [kernel], dilation_rates=[1], activation="relu")
    np.testing.assert_array_equal(to_numpy(output).ravel(), [NAN, 0, 2, 0])
