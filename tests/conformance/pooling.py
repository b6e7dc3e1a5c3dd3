"""Max pooling with its argmax, and max unpooling, against PyTorch and TensorFlow."""

import itertools

import numpy as np
import tensorflow as tf

from kvision import ops
from tests.conformance.comparison import Deviation, Row


def draw_pooling(paddings, missing):
    """Draws maps of small integers, so that there are ties, and a share of NaN in some of them."""

    def draw(rng):
        pool_size = rng.integers(1, 5, 2)
        x = rng.integers(-6, 6, (2, *rng.integers(pool_size, 20), int(rng.choice([1, 3, 20]))))
        x = x.astype("float32")
        x[rng.random(x.shape) < rng.choice([0, missing])] = np.nan
        return {
            "x": x,
            "pool_size": pool_size,
            "strides": rng.integers(1, 5, 2),
            "padding": str(rng.choice(paddings)),
        }

    return draw


def draw_gradient(rng):
    call = draw_pooling(["valid"], 0)(rng)
    windows = [len(axis) for axis in windows_of(call)]
    shape = (len(call["x"]), *windows, call["x"].shape[3])
    return call | {"gradient": rng.integers(-9, 9, shape).astype("float32")}


def draw_unpooling(rng):
    """Windows that do not overlap: of several values on one place PyTorch keeps any."""
    call = draw_gradient(rng)
    call["strides"] = np.maximum(call["strides"], call["pool_size"])
    windows = [len(axis) for axis in windows_of(call)]
    call["gradient"] = call["gradient"][:, : windows[0], : windows[1]]
    return call


def windows_of(call):
    """The cells of every window, along both axes."""
    return [
        window_cells(*axis, call["padding"])
        for axis in zip(call["x"].shape[1:3], call["pool_size"], call["strides"], strict=True)
    ]


def window_cells(size, length, stride, padding):
    number = (size - length) // stride + 1 if padding == "valid" else -(-size // stride)
    before = 0 if padding == "valid" else max((number - 1) * stride + length - size, 0) // 2
    starts = [i * stride - before for i in range(number)]
    return [[cell for cell in range(s, s + length) if 0 <= cell < size] for s in starts]


def best_of(values, nan):
    """Which of the cells, along the second axis, has the maximum."""
    missing = np.isnan(values)
    best = np.argmax(np.where(missing, np.inf, values), axis=1)
    if nan == "last":
        last = values.shape[1] - 1 - np.argmax(missing[:, ::-1], axis=1)
        best = np.where(missing.any(axis=1), last, best)
    return best


def definition(call, nan="first"):
    """Per image the values, and behind them their places; or what becomes of the gradient."""
    x = call["x"].astype("float64")
    batch, height, width, channels = x.shape
    rows, columns = windows_of(call)
    pooled = np.zeros((batch, len(rows), len(columns), channels))
    places = np.zeros(pooled.shape, int)
    for (i, ys), (j, xs) in itertools.product(enumerate(rows), enumerate(columns)):
        cells = [y * width + column for y in ys for column in xs]
        values = x.reshape(batch, -1, channels)[:, cells]
        best = best_of(values, nan)
        pooled[:, i, j] = np.take_along_axis(values, best[:, None], axis=1)[:, 0]
        places[:, i, j] = np.array(cells)[best]
    if "gradient" not in call:
        return np.concatenate([pooled, places], axis=-1)
    result = np.zeros((batch, height * width, channels))
    for index in np.ndindex(pooled.shape):
        result[index[0], places[index], index[3]] += call["gradient"][index]
    return result.reshape(x.shape)


def options(call):
    return {name: tuple(call[name].tolist()) for name in ("pool_size", "strides")} | {
        "padding": call["padding"]
    }


def pooled(call):
    values, places = ops.max_pool_with_argmax(call["x"], **options(call))
    return np.concatenate([values, places], axis=-1)


def gradient(call):
    x = tf.constant(call["x"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        values, _ = ops.max_pool_with_argmax(x, **options(call))
    return tape.gradient(values, x, call["gradient"]).numpy()


def unpooled(call):
    """Of the values that `gradient` holds."""
    _, places = ops.max_pool_with_argmax(call["x"], **options(call))
    return ops.max_unpool(call["gradient"], places, call["x"]).numpy()


def images_of(call):
    return len(call["x"])


TORCH, TF = "torch.nn.functional", "tf.nn.max_pool_with_argmax"
LAST = Deviation("theirs", "takes the last NaN of a window, not the first", {"nan": "last"})
ROWS = (
    Row("torchvision", f"{TORCH}.max_pool2d, indices", "max_pool_with_argmax",
        draw_pooling(["valid"], 0.05), pooled, definition, 0, "0", (LAST,), cost=20,
        size=images_of),
    Row("torchvision", f"{TORCH}.max_pool2d, gradient", "max_pool_with_argmax", draw_gradient,
        gradient, definition, 0, "0", cost=20, size=images_of),
    Row("torchvision", f"{TORCH}.max_unpool2d", "max_unpool", draw_unpooling, unpooled, definition,
        0, "0", cost=20, size=images_of),
    Row("tensorflow", TF, "max_pool_with_argmax", draw_pooling(["valid", "same"], 0), pooled,
        definition, 0, "0", cost=20, size=images_of),
)  # fmt: skip
