import itertools
from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.ops import max_pool_with_argmax, native
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

GOLDEN = Path(__file__).parents[1] / "golden" / "max_pool.npz"
NAN, INF = np.nan, np.inf
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="concerns the TensorFlow ops"
)


def windows_of_axis(size, length, stride, padding):
    """The cells of every window of one axis, off the map too, written from the definition."""
    if padding == "valid":
        return [range(i, i + length) for i in range(0, size - length + 1, stride)]
    number = len(range(0, size, stride))
    before = max((number - 1) * stride + length - size, 0) // 2
    return [range(i * stride - before, i * stride - before + length) for i in range(number)]


def pair(value):
    values = (value, value) if isinstance(value, int) else tuple(value)
    if len(values) != 2 or not all(isinstance(v, int) and v > 0 for v in values):
        raise ValueError("a wrong size")
    return values


def number_of_windows(axis, name):
    def compute(sizes, arguments):
        length = pair(arguments["pool_size"])
        stride = pair(arguments["strides"]) if arguments.get("strides") else length
        if arguments["padding"] not in ("valid", "same"):
            raise ValueError("a wrong padding")
        if sizes[name] is None:
            return None
        return len(windows_of_axis(sizes[name], length[axis], stride[axis], arguments["padding"]))

    return compute


def one_channel(rows, dtype="float32"):
    return np.array(rows, dtype)[None, ..., None]


def case(x, pooled, argmax, gradient=None, upstream=None, **arguments):
    return Case(
        {"x": one_channel(x)},
        {"pooled": one_channel(pooled), "argmax": one_channel(argmax, "int32")},
        arguments,
        None if gradient is None else {"pooled": one_channel(upstream)},
        None if gradient is None else {"x": one_channel(gradient)},
        rtol=0,
    )


def worked_cases():
    yield (
        "the slide",
        case(
            [[1, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]],
            [[5, 6], [7, 8]],
            [[5, 2], [12, 15]],
            [[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]],
            [[1, 2], [3, 4]],
        ),
    )
    yield "ties", case([[4, 4], [4, 4]], [[4]], [[0]], [[3, 0], [0, 0]], [[3]])
    yield "signed zeros", case([[-0.0, 0.0], [0.0, -0.0]], [[0]], [[0]])
    yield "all of them infinite", case([[-INF, -INF], [-INF, -INF]], [[-INF]], [[0]])
    yield "the first NaN", case([[INF, 9], [NAN, NAN]], [[NAN]], [[2]], [[0, 0], [5, 0]], [[5]])
    odd = [[1, 2, 9], [3, 4, 5], [7, 6, 8]]
    yield "odd, valid", case(odd, [[4]], [[4]], np.zeros((3, 3)), [[0]])
    same = {"padding": "same"}
    yield "odd, same", case(odd, [[4, 9], [7, 8]], [[4, 2], [6, 8]], **same)
    shared = {"pool_size": 2, "strides": 1}
    centre = [[1, 1, 1], [1, 9, 1], [1, 1, 1]]
    yield (
        "a shared cell",
        case(
            centre,
            [[9, 9], [9, 9]],
            [[4, 4], [4, 4]],
            [[0, 0, 0], [0, 1 + 2 + 3 + 4, 0], [0, 0, 0]],
            [[1, 2], [3, 4]],
            **shared,
        ),
    )
    # Where pixels are 4 apart and windows 2 long, half of them are in none.
    row = [[5, 1, 9, 9, 2, 3, 9]]
    yield "gaps", case(row, [[5, 3]], [[0, 5]], pool_size=(1, 2), strides=4)
    yield "offset by one", case([[9, 1, 2, 3, 8]], [[9, 3, 8]], [[0, 3, 4]], pool_size=(1, 3),
                                strides=(1, 2), padding="same")  # fmt: skip


def torch_cases():
    golden = np.load(GOLDEN)
    for name in sorted({key.partition("/")[0] for key in golden} - {"torch"}):
        windows = golden[f"{name}/windows"].tolist()
        yield (
            f"PyTorch, {name}",
            Case(
                {"x": golden[f"{name}/x"]},
                {"pooled": golden[f"{name}/pooled"], "argmax": golden[f"{name}/argmax"]},
                {
                    "pool_size": tuple(windows[:2]),
                    "strides": tuple(windows[2:]),
                    "padding": str(golden[f"{name}/padding"]),
                },
                {"pooled": golden[f"{name}/upstream"]},
                {"x": golden[f"{name}/gradient"]},
                rtol=0,
            ),
        )


def output_shape(rng, shape, sizes):
    """Of windows of 2 by 2, 2 apart."""
    return [sizes["batch"], sizes["height"] // 2, sizes["width"] // 2, sizes["channels"]]


# JAX takes minutes to make an array of that size, though it is empty.
TOO_MANY_CELLS = (
    []
    if keras.backend.backend() == "jax"
    else [Invalid({"x": np.ones((2, 2**16, 2**15, 0))}, "fewer than 2.31 cells")]
)
WINDOWS = {
    "pool_size": Input("2", draws.constant([2, 2]), "int64", specials=(1, 3, 0, -1, 2**40)),
    "strides": Input("2", draws.constant([2, 2]), "int64", specials=(1, 3, 0, -1, 2**40)),
    "offset": Input("2", draws.constant([0, 0]), "int64", specials=(1, 2, -1, 2**40)),
    "output_shape": Input("4", output_shape, "int64", specials=(0, 1, 2, -1, 2**40)),
}
RAW = RawOp(
    name="max_pool_with_argmax",
    op="kvision_max_pool_with_argmax",
    inputs={"x": Input("batch height width channels"), **WINDOWS},
    # The number of windows is data.
    outputs={
        "pooled": Output("batch ? ? channels"),
        "argmax": Output("batch ? ? channels", "int32"),
    },
    sizes={"height": 4, "width": 5},
    invalid=(
        Invalid({"x": np.ones((3, 4, 5), "float32")}, "`x` must have shape"),
        Invalid({"x": np.ones((3, 2**16, 2**15, 0), "float32")}, "fewer than 2.31 cells"),
        Invalid({"pool_size": np.array([2, 2, 2])}, "`pool_size` must have shape"),
        Invalid({"pool_size": np.array([0, 2])}, "`pool_size` and `strides`", static=False),
        Invalid({"strides": np.array([2, -1])}, "`pool_size` and `strides`", static=False),
        Invalid({"strides": np.array([2, 2**31])}, "`pool_size` and `strides`", static=False),
        Invalid({"offset": np.array([2, 0])}, "`offset` must be in .0, 2.", static=False),
        Invalid({"offset": np.array([0, -1])}, "`offset` must be in", static=False),
        Invalid({"output_shape": np.array([3, 3, 2, 3])}, "3 windows on a height", static=False),
        Invalid({"output_shape": np.array([3, 2, 2**62, 3])}, "on a width of 5", static=False),
        Invalid({"output_shape": np.array([2, 2, 2, 3])}, "`pooled` .* batch is 3", static=False),
        Invalid({"output_shape": np.array([3, 2, -2, 3])}, "no negative size", static=False),
        Invalid({"output_shape": np.array([3, 2, 2])}, "`output_shape` must have shape"),
    ),
)


def kernels(inputs, arguments, output_gradients):
    x = inputs["x"]
    length = pair(arguments["pool_size"])
    stride = pair(arguments["strides"]) if arguments.get("strides") else length
    axes = [
        windows_of_axis(*axis, arguments["padding"])
        for axis in zip(x.shape[1:3], length, stride, strict=True)
    ]
    forward = {
        "x": x,
        "pool_size": length,
        "strides": stride,
        "offset": [-windows[0].start for windows in axes],
        "output_shape": [x.shape[0], *map(len, axes), x.shape[3]],
    }
    backward = {
        "x": output_gradients["pooled"],
        "argmax": native.module().max_pool_with_argmax(**forward)[1],
        "output_shape": x.shape,
    }
    return [
        KernelCall("max_pool_with_argmax", forward, {0: "pooled", 1: "argmax"}),
        KernelCall("max_unpool", backward, {0: "gradient of x"}),
    ]


class TestMaxPoolWithArgmax(OpTests):
    contract = OpContract(
        name="max_pool_with_argmax",
        function=max_pool_with_argmax,
        inputs={
            # No two values of a map are so close that a half type or a difference makes them equal.
            "x": Input("batch height width channels", draws.distinct(-4, 4), differentiable=True)
        },
        outputs={
            "pooled": Output("batch pooled_height pooled_width channels"),
            "argmax": Output("batch pooled_height pooled_width channels", "int32"),
        },
        derived={
            "pooled_height": number_of_windows(0, "height"),
            "pooled_width": number_of_windows(1, "width"),
        },
        arguments={"pool_size": 2, "padding": "valid"},
        sizes={"batch": 2, "height": 5, "width": 6, "channels": 2},
        variants={
            "valid": Variant(),
            "same": Variant({"padding": "same"}),
            "overlapping": Variant({"pool_size": 3, "strides": (2, 1), "padding": "same"}),
            "gaps": Variant({"pool_size": (1, 2), "strides": 3}),
        },
        cases=dict(itertools.chain(worked_cases(), torch_cases())),
        invalid=(
            Invalid({"pool_size": 0}, "`pool_size` must be a positive int or a pair"),
            Invalid({"pool_size": (2, 2, 2)}, "`pool_size` must be"),
            Invalid({"pool_size": INF}, "`pool_size` must be a positive int or a pair"),
            Invalid({"pool_size": 2**31}, "`pool_size` must be below"),
            Invalid({"strides": (2, 1.5)}, "`strides` must be a positive int or a pair"),
            Invalid({"padding": "full"}, "`padding` must be one of"),
            Invalid({"x": np.ones((4, 4, 1))}, "`x` must have shape"),
            Invalid({"x": np.ones((2, 4, 4, 1), int)}, "`x` must be float16"),
            *TOO_MANY_CELLS,
        ),
        raw=(RAW,),
        kernels=kernels,
        kernel_sizes={"height": 50, "width": 40, "channels": 151},
        fuzzed_arguments={
            "pool_size": (1, 2, (3, 2), (5, 1), 0, (1, -1)),
            "strides": (None, 1, (2, 3), 0),
            "padding": ("valid", "same", "full"),
        },
    )


def brute_force(x, pool_size, strides, padding):
    """Values and places of one map, cell by cell."""
    height, width, channels = x.shape
    rows = windows_of_axis(height, pool_size[0], strides[0], padding)
    columns = windows_of_axis(width, pool_size[1], strides[1], padding)
    pooled = np.zeros((len(rows), len(columns), channels), x.dtype)
    argmax = np.full(pooled.shape, -1, "int32")
    for i, j, channel in np.ndindex(pooled.shape):
        cells = [
            (y, x_)
            for y, x_ in itertools.product(rows[i], columns[j])
            if 0 <= y < height and 0 <= x_ < width
        ]
        values = [x[y, x_, channel] for y, x_ in cells]
        missing = [k for k, value in enumerate(values) if np.isnan(value)]
        k = missing[0] if missing else values.index(max(values))
        pooled[i, j, channel] = values[k]
        argmax[i, j, channel] = cells[k][0] * width + cells[k][1]
    return pooled, argmax


# Whole vectors of every instruction set and what is left over.
@pytest.mark.parametrize("channels", [1, 3, 16, 37, 101])
@pytest.mark.parametrize(
    ("pool_size", "strides", "padding"),
    [((2, 2), (2, 2), "same"), ((3, 3), (2, 2), "same"), ((2, 3), (3, 1), "valid")],
)
def test_every_window_by_brute_force(implementation, channels, pool_size, strides, padding):
    rng = np.random.default_rng(channels)
    x = rng.integers(-5, 5, (2, 9, 7, channels)).astype("float32")
    x[rng.random(x.shape) < 0.05] = NAN
    x[rng.random(x.shape) < 0.1] = -INF
    expected = [brute_force(one, pool_size, strides, padding) for one in x]
    upstream = rng.integers(-9, 9, (2, *expected[0][0].shape)).astype("float32")
    options = {"pool_size": pool_size, "strides": strides, "padding": padding}
    pooled, argmax = map(to_numpy, max_pool_with_argmax(x, **options))
    np.testing.assert_array_equal(pooled, [values for values, _ in expected])
    np.testing.assert_array_equal(argmax, [places for _, places in expected])
    _, gradient = vjp(lambda x: max_pool_with_argmax(x, **options)[0], x, upstream)
    wanted = np.zeros_like(x)
    for image, i, j, channel in np.ndindex(upstream.shape):
        y, column = divmod(expected[image][1][i, j, channel], x.shape[2])
        wanted[image, y, column, channel] += upstream[image, i, j, channel]
    np.testing.assert_array_equal(gradient, wanted)


@on_tensorflow
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("pool_size", "strides"), [(2, 2), (3, 2), (3, 1), (2, 3)])
def test_it_is_that_of_tensorflow_counted_otherwise(implementation, padding, pool_size, strides):
    import tensorflow as tf

    x = np.random.default_rng(4).integers(-9, 9, (3, 11, 8, 5)).astype("float32")
    options = (pool_size, strides, padding.upper())
    pooled, argmax = max_pool_with_argmax(x, pool_size, strides=strides, padding=padding)
    theirs, index = tf.nn.max_pool_with_argmax(x, *options, include_batch_in_index=False)
    np.testing.assert_array_equal(pooled, theirs)
    np.testing.assert_array_equal(argmax * 5 + np.arange(5), index)


def test_the_sizes_of_segnet(implementation):
    x = np.random.default_rng(5).normal(size=(1, 45, 60, 2)).astype("float32")
    sizes = []
    while x.shape[1] > 6:
        x, _ = max_pool_with_argmax(x, padding="same")
        sizes.append(tuple(x.shape[1:3]))
    assert sizes == [(23, 30), (12, 15), (6, 8)]


def test_windows_far_larger_than_the_map(implementation):
    x = np.random.default_rng(5).normal(size=(1, 4, 5, 2)).astype("float32")
    pooled, argmax = max_pool_with_argmax(x, 2**31 - 1, padding="same")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(pooled)[:, 0, 0], x.max((1, 2)))
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(argmax)[0, 0, 0], x.reshape(20, 2).argmax(0)
    )
