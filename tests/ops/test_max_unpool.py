import itertools
from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.ops import max_pool_with_argmax, max_unpool, native
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
    to_numpy,
    vjp,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "max_pool.npz"
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="concerns the TensorFlow ops"
)


def one_channel(rows, dtype="float32"):
    return np.array(rows, dtype)[None, ..., None]


def case(x, argmax, output, upstream=None, gradient=None):
    return Case(
        {"x": one_channel(x), "argmax": one_channel(argmax, "int32")},
        one_channel(output),
        {"output_size": np.shape(output)},
        None if upstream is None else one_channel(upstream),
        None if upstream is None else {"x": one_channel(gradient)},
        rtol=0,
    )


def worked_cases():
    yield (
        "the slide",
        case(
            [[1, 2], [3, 4]],
            [[5, 2], [12, 15]],
            [[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]],
            np.arange(16).reshape(4, 4),
            [[5, 2], [12, 15]],
        ),
    )
    yield (
        "one place",
        case([[1, 2], [3, 4]], [[2, 2], [2, 0]], [[4, 0, 6]], [[5, 6, 7]], [[7, 7], [7, 5]]),
    )
    # In float32 the order of a sum tells in its bits: 1e8 + 1 is 1e8.
    yield "in order", case([[1e8, 1, -1e8, 1]], [[1, 1, 1, 1]], [[0, 1]])
    yield "in order, of few", case([[1, 1e8], [-1e8, 1]], [[3, 3], [3, 0]], [[1, 0, 0, 0]])
    yield "not finite", case([[np.nan, np.inf]], [[3, 1]], [[0, np.inf, 0, np.nan, 0]])
    yield "windows that are no grid", case([[1, 2]], [[4, 0]], [[2, 0, 0], [0, 1, 0], [0, 0, 0]])


def torch_cases():
    golden = np.load(GOLDEN)
    for name in sorted({key.partition("/")[0] for key in golden} - {"torch"}):
        if f"{name}/unpooled" not in golden:
            continue
        unpooled = golden[f"{name}/unpooled"]
        yield (
            f"PyTorch, {name}",
            Case(
                {"x": golden[f"{name}/upstream"], "argmax": golden[f"{name}/argmax"]},
                unpooled,
                {"output_size": unpooled.shape[1:3]},
                golden[f"{name}/unpooled_upstream"],
                {"x": golden[f"{name}/unpooled_gradient"]},
                rtol=0,
            ),
        )


def anywhere(rng, shape, sizes):
    return rng.integers(0, max(sizes["height"] * sizes["width"], 1), shape)


def output_shape(rng, shape, sizes):
    return [sizes[axis] for axis in ("batch", "height", "width", "channels")]


# JAX takes minutes to make an array of that size, though it is empty.
TOO_MANY_CELLS = (
    []
    if keras.backend.backend() == "jax"
    else [Invalid({"output_size": np.ones((2, 2**16, 2**15, 0))}, "fewer than 2.31 cells")]
)
POOLED = "batch pooled_height pooled_width channels"
ARGMAX = Input(POOLED, anywhere, "int32", specials=(0,))
OFF = np.full((3, 3, 3, 3), 20, "int32")
SHARED_INVALID = (
    Invalid({"argmax": np.ones((3, 3, 2, 3), "int32")}, "`argmax` must have shape"),
    Invalid({"argmax": OFF}, "`argmax` must be a cell .* 4 by 5. Received: 20", static=False),
    Invalid({"argmax": OFF - 21}, "`argmax` must be a cell .* Received: -1", static=False),
)
RAW_SIZES = {"height": 4, "width": 5}
RAW_POOLED = "batch output_height output_width channels"
RAW_ARGMAX = Input(RAW_POOLED, anywhere, "int32", specials=(0, 5, -1, 20, 2**31 - 1, -(2**31)))
RAW = RawOp(
    name="max_unpool",
    op="kvision_max_unpool",
    inputs={
        "x": Input(RAW_POOLED),
        "argmax": RAW_ARGMAX,
        "output_shape": Input("4", output_shape, "int64", specials=(-1, 0, 3, 2**40)),
    },
    # The size of the map is data.
    outputs={"output": Output("batch ? ? channels")},
    sizes=RAW_SIZES,
    invalid=(
        *SHARED_INVALID,
        Invalid({"output_shape": np.array([3, 4, 5])}, "`output_shape` must have shape"),
        Invalid({"output_shape": np.array([3, 4, 5, 2])}, "`output` .* channels is 3"),
        Invalid({"output_shape": np.array([3, 2**16, 2**15, 3])}, "fewer than", static=False),
        Invalid({"output_shape": np.array([3, 4, -5, 3])}, "no negative size", static=False),
    ),
)
RAW_GRADIENT = RawOp(
    name="max_unpool",
    op="kvision_max_unpool_gradient",
    inputs={"output_gradient": Input("batch height width channels"), "argmax": RAW_ARGMAX},
    outputs={"x_gradient": Output(RAW_POOLED)},
    sizes=RAW_SIZES,
    variants={"": Variant(nonempty=("height", "width"))},
    invalid=(
        *SHARED_INVALID[1:],
        Invalid({"argmax": np.ones((3, 3, 3, 2), "int32")}, "`argmax` .* channels is 3"),
        Invalid({"output_gradient": np.ones((3, 4, 5), "float32")}, "`output_gradient` must have"),
    ),
)


def kernels(inputs, arguments, output_gradients):
    upstream = output_gradients["output"]
    argmax = inputs["argmax"]
    forward = {"x": inputs["x"], "argmax": argmax, "output_shape": upstream.shape}
    backward = {"output_gradient": upstream, "argmax": argmax}
    return [
        KernelCall("max_unpool", forward, {0: "output"}),
        KernelCall("max_unpool_gradient", backward, {0: "gradient of x"}),
    ]


class TestMaxUnpool(OpTests):
    contract = OpContract(
        name="max_unpool",
        function=max_unpool,
        inputs={
            "x": Input(POOLED, differentiable=True, comparable=1e30),
            "argmax": ARGMAX,
            "output_size": Input("batch height width any"),
        },
        outputs={"output": Output("batch height width channels")},
        sizes={"batch": 2, "height": 5, "width": 6, "channels": 2, "any": 1},
        variants={
            "the size of a tensor": Variant(nonempty=("height", "width")),
            "a pair": Variant(
                {"output_size": (5, 6)},
                outputs={"output": "batch output_size[0] output_size[1] channels"},
                without=("output_size",),
            ),
        },
        cases=dict(itertools.chain(worked_cases(), torch_cases())),
        invalid=(
            Invalid({"x": np.ones((3, 3, 2), "float32")}, "`x` must have shape"),
            Invalid({"x": np.ones((2, 3, 3, 2), int)}, "`x` must be float16"),
            Invalid({"argmax": np.zeros((3, 3, 2), "int32")}, "`argmax` must have shape"),
            Invalid({"argmax": np.zeros((2, 3, 2, 2), "int32")}, "`argmax` must have the shape"),
            Invalid({"argmax": np.zeros((2, 3, 3, 2), "uint8")}, "`argmax` must be int32"),
            Invalid({"output_size": 5}, "`output_size` must be a pair"),
            Invalid({"output_size": (5, 6, 2)}, "`output_size` must be a pair"),
            Invalid({"output_size": (5, -6)}, "`output_size` must be a pair"),
            *TOO_MANY_CELLS,
            Invalid({"output_size": np.ones((5, 6), "float32")}, "`output_size` must be a pair"),
        ),
        raw=(RAW, RAW_GRADIENT),
        kernels=kernels,
        kernel_sizes={"pooled_height": 25, "pooled_width": 20, "channels": 151},
    )


def brute_force(x, argmax, height, width):
    """Values of one map, one after the other, in double precision."""
    output = np.zeros((height, width, x.shape[2]))
    for i, j, channel in np.ndindex(x.shape):
        y, column = divmod(int(argmax[i, j, channel]), width)
        output[y, column, channel] += x[i, j, channel]
    return output


# Windows that do not overlap are a case of their own, in whole vectors and what is left over; one
# value beyond its block makes it the other.
@pytest.mark.parametrize("channels", [1, 3, 16, 37, 101])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("moved", [False, True])
def test_every_value_by_brute_force(implementation, channels, padding, moved):
    rng = np.random.default_rng(channels)
    features = rng.normal(size=(2, 9, 7, channels))
    _, argmax = max_pool_with_argmax(features.astype("float32"), padding=padding)
    argmax = to_numpy(argmax).copy()
    if moved:
        argmax[1, 2, 1, channels // 2] = 62
    x = rng.integers(-9, 9, argmax.shape).astype("float32")
    expected = [brute_force(*one, 9, 7) for one in zip(x, argmax, strict=True)]
    upstream = rng.integers(-9, 9, (2, 9, 7, channels)).astype("float32")
    output, gradient = vjp(lambda x: max_unpool(x, argmax, (9, 7)), x, upstream)
    np.testing.assert_array_equal(output, expected)
    maps = upstream.reshape(2, 63, channels)
    wanted = np.take_along_axis(maps, argmax.reshape(2, -1, channels), axis=1)
    np.testing.assert_array_equal(gradient, wanted.reshape(x.shape))


@pytest.mark.parametrize(("pool_size", "strides"), [(2, 2), (3, 2), (3, 1)])
def test_it_is_the_gradient_of_pooling(implementation, pool_size, strides):
    rng = np.random.default_rng(6)
    x = rng.normal(size=(2, 9, 7, 3)).astype("float32")
    options = {"strides": strides, "padding": "same"}
    pooled, argmax = max_pool_with_argmax(x, pool_size, **options)
    upstream = rng.integers(-9, 9, pooled.shape).astype("float32")
    _, gradient = vjp(lambda x: max_pool_with_argmax(x, pool_size, **options)[0], x, upstream)
    np.testing.assert_array_equal(gradient, to_numpy(max_unpool(upstream, argmax, x)))


# A map that a thread goes through in bands; where the places have no order, all at once.
@pytest.mark.parametrize("shuffled", [False, True])
def test_windows_that_overlap_on_a_large_map(implementation, shuffled):
    rng = np.random.default_rng(9)
    x = rng.normal(size=(2, 40, 64, 160)).astype("float32")
    _, argmax = max_pool_with_argmax(x, 3, strides=2)
    argmax = to_numpy(argmax).copy()
    if shuffled:
        rng.shuffle(argmax.reshape(-1))
    values = rng.integers(-9, 9, argmax.shape).astype("float32")
    expected = np.zeros((2, 40 * 64, 160), "float32")
    images, channels = np.arange(2)[:, None, None, None], np.arange(160)
    np.add.at(expected, (images, argmax, channels), values)
    output = to_numpy(max_unpool(values, argmax, x))
    np.testing.assert_array_equal(output, expected.reshape(x.shape))


@on_tensorflow
def test_a_pair_of_a_graph_s_own(implementation):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))])
    def restored(x):
        pooled, argmax = max_pool_with_argmax(x, padding="same")
        return max_unpool(pooled, argmax, (tf.shape(x)[1], tf.shape(x)[2]))

    for size in ((9, 7), (4, 5)):
        x = np.random.default_rng(7).normal(size=(2, *size, 3)).astype("float32")
        output = restored(x)
        assert output.shape == x.shape
        kept = output != 0
        np.testing.assert_array_equal(output[kept], x[kept])


@on_tensorflow
def test_all_second_derivatives(implementation):
    import tensorflow as tf

    rng = np.random.default_rng(8)
    x = tf.constant(rng.normal(size=(1, 5, 4, 2)), tf.float32)
    upstream = tf.constant(rng.normal(size=(1, 3, 2, 2)), tf.float32)
    direction = tf.constant(rng.normal(size=x.shape), tf.float32)
    with tf.GradientTape() as outer:
        outer.watch(upstream)
        with tf.GradientTape() as inner:
            inner.watch(x)
            pooled, argmax = max_pool_with_argmax(x, padding="same")
        gradient = inner.gradient(pooled, x, upstream)
    # The gradient is linear in `upstream`, and its transpose looks values up.
    second = outer.gradient(gradient, upstream, direction)
    wanted = np.take_along_axis(
        direction.numpy().reshape(1, 20, 2), argmax.numpy().reshape(1, 6, 2), axis=1
    )
    np.testing.assert_array_equal(second, wanted.reshape(upstream.shape))
    with tf.GradientTape() as outer:
        outer.watch(direction)
        with tf.GradientTape() as inner:
            inner.watch(upstream)
            output = max_unpool(upstream, argmax, x)
        gradient = inner.gradient(output, upstream, direction)
    second = outer.gradient(gradient, direction, upstream)
    np.testing.assert_array_equal(second, max_unpool(upstream, argmax, x))


@pytest.mark.parametrize("place", [20, -1, 2**31 - 1, -(2**31)])
def test_a_place_off_the_map_is_an_error(place):
    argmax = np.zeros((2, 2, 2, 3), "int32")
    argmax[1, 0, 1, 2] = place
    x = np.ones(argmax.shape, "float32")
    with native.implementation("native"), pytest.raises(Exception, match=f"Received: {place}."):
        to_numpy(max_unpool(x, argmax, (4, 5)))


def test_without_the_native_op_a_place_off_the_map_is_left_out():
    argmax = np.array([-1, 20, 2**31 - 1, -(2**31), 0, 19], "int32").reshape(1, 2, 3, 1)
    with native.implementation("reference"):
        output = to_numpy(max_unpool(np.ones(argmax.shape, "float32"), argmax, (4, 5)))
    expected = np.zeros((1, 20, 1))
    expected[0, [0, 19]] = 1
    np.testing.assert_array_equal(output, expected.reshape(1, 4, 5, 1))


@pytest.mark.parametrize("output_size", [None, 5, "ab", (5, -6), (5, 1.5), (5, np.inf), (5, 6, 2)])
def test_a_size_is_a_pair_of_ints(output_size):
    x = np.ones((1, 1, 1, 1), "float32")
    with pytest.raises(ValueError, match="`output_size` must be a pair"):
        max_unpool(x, np.zeros(x.shape, "int32"), output_size)
