"""Atrous pyramid pooling against PyTorch's convolutions, which come with torchvision."""

import numpy as np
import tensorflow as tf

from kvision.ops import atrous_pyramid_pooling
from tests.conformance.comparison import Row


def draw_call(rng):
    """A map, and one to four kernels: small and large maps, taps that reach nothing."""
    dtype = str(rng.choice(["float32", "float64"]))
    images, height, width, channels = 2, *rng.integers(1, 20, 2), int(rng.integers(1, 40))
    rates = rng.integers(1, 24, rng.integers(1, 5))
    call = {
        "x": rng.normal(size=(images, height, width, channels)).astype(dtype),
        "rates": rates,
        "relu": bool(rng.integers(2)),
    }
    for n in range(len(rates)):
        size, filters = int(rng.choice([1, 3, 5])), int(rng.integers(1, 40))
        call[f"kernel_{n}"] = rng.normal(size=(size, size, channels, filters)).astype(dtype)
        call[f"bias_{n}"] = rng.normal(size=filters).astype(dtype)
    return call


def draw_gradient(rng):
    """Without the ReLU, whose mask hangs on the last bit of a result near zero."""
    call = draw_call(rng) | {"relu": False}
    filters = sum(len(call[f"bias_{n}"]) for n in range(len(call["rates"])))
    shape = (*call["x"].shape[:3], filters)
    return call | {"gradient": rng.normal(size=shape).astype(call["x"].dtype)}


def weights_of(call):
    """The kernels and the biases."""
    return [[call[f"{kind}_{n}"] for n in range(len(call["rates"]))] for kind in ("kernel", "bias")]


def pooled(call):
    """An image a case; with an upstream gradient, all gradients in one row."""
    x, (kernels, biases) = tf.constant(call["x"]), weights_of(call)
    inputs = [x, *map(tf.constant, kernels), *map(tf.constant, biases)]
    number = len(kernels)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = atrous_pyramid_pooling(
            x,
            inputs[1 : 1 + number],
            dilation_rates=call["rates"].tolist(),
            biases=inputs[1 + number :],
            activation="relu" if call["relu"] else None,
        )
    if "gradient" not in call:
        return output.numpy()
    gradients = tape.gradient(output, inputs, call["gradient"])
    return np.concatenate([np.ravel(gradient) for gradient in gradients])[None]


def defined(call):
    """The definition, tap by tap, in float64."""
    x, (kernels, biases) = call["x"].astype("float64"), weights_of(call)
    outputs, to_x, to_kernels = [], np.zeros(x.shape), [np.zeros(k.shape) for k in kernels]
    first = 0
    for n, (kernel, bias, rate) in enumerate(zip(kernels, biases, call["rates"], strict=True)):
        half, filters = kernel.shape[0] // 2, kernel.shape[3]
        output = np.zeros((*x.shape[:3], filters)) + bias
        for i, j in np.ndindex(*kernel.shape[:2]):
            rows, columns = (
                np.arange(max(0, -move), min(size, size - move))
                for move, size in (
                    ((i - half) * rate, x.shape[1]),
                    ((j - half) * rate, x.shape[2]),
                )
            )
            here = np.ix_(range(len(x)), rows, columns)
            there = np.ix_(range(len(x)), rows + (i - half) * rate, columns + (j - half) * rate)
            output[here] += x[there] @ kernel[i, j].astype("float64")
            if "gradient" in call:
                upstream = call["gradient"][here][..., first : first + filters].astype("float64")
                to_x[there] += upstream @ kernel[i, j].T
                to_kernels[n][i, j] += np.tensordot(x[there], upstream, ((0, 1, 2), (0, 1, 2)))
        outputs.append(output)
        first += filters
    if "gradient" in call:
        to_biases = call["gradient"].astype("float64").sum((0, 1, 2))
        return np.concatenate([np.ravel(g) for g in (to_x, *to_kernels, to_biases)])[None]
    output = np.concatenate(outputs, axis=-1)
    return np.maximum(output, 0) if call["relu"] else output


def tolerance(call, answer):
    """Rounding of sums, relative to the largest."""
    return (1e-12 if call["x"].dtype == "float64" else 1e-5) * max(1, np.abs(answer).max())


STATED = "1e-5, in float64 1e-12, of the largest"
ROWS = (
    Row("torchvision", "torch.nn.functional.conv2d", "atrous_pyramid_pooling", draw_call, pooled,
        defined, tolerance, STATED, cost=50, size=lambda call: len(call["x"])),
    Row("torchvision", "torch.nn.functional.conv2d, gradient", "atrous_pyramid_pooling",
        draw_gradient, pooled, defined, tolerance, STATED, cost=50),
)  # fmt: skip
