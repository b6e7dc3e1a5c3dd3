"""Atrous pyramid pooling on the CPU, forward and with its gradients, against convolutions.

The parallel branches of DeepLab v3 at output stride 16 on an image of 513x513: 33x33x2048, a 1x1
kernel and three of 3x3 at rates 6, 12 and 18, to 256 channels each, with bias and ReLU. The taps
that find the map make 19.1 GFLOP, thrice that with gradients. TensorFlow and PyTorch run four
convolutions and concatenate what they give. How it is measured: `_versus.py`.

    python benchmarks/atrous_pyramid_pooling.py --peer PATH/TO/PYTHON/WITH/TORCHVISION
"""

import numpy as np
from _versus import Workload, main

SIZES, RATES, FILTERS = (1, 3, 3, 3), (1, 6, 12, 18), 256


def case(batch=1, side=33, channels=2048, dtype="float32"):
    """The map, the kernels, the biases, and the gradient of the output."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, side, side, channels)).astype(dtype)
    kernels = [
        (rng.normal(size=(size, size, channels, FILTERS)) / size / channels**0.5).astype(dtype)
        for size in SIZES
    ]
    biases = [rng.normal(size=FILTERS).astype(dtype) for _ in SIZES]
    upstream = rng.normal(size=(batch, side, side, FILTERS * len(SIZES))).astype(dtype)
    return x, *kernels, *biases, upstream


def kvision(x, *weights):
    """Output `(batch, side, side, all filters)`."""
    from kvision.ops import atrous_pyramid_pooling

    return atrous_pyramid_pooling(
        x,
        list(weights[:4]),
        dilation_rates=RATES,
        biases=list(weights[4:8]),
        activation="relu",
    )


def tensorflow(x, *weights):
    """The same from four convolutions."""
    import tensorflow as tf

    branches = [
        tf.nn.relu(
            tf.nn.bias_add(
                tf.nn.conv2d(x, weights[n], strides=1, padding="SAME", dilations=rate),
                weights[4 + n],
            )
        )
        for n, rate in enumerate(RATES)
    ]
    return tf.concat(branches, axis=-1)


def with_gradients(function):
    """The function, and the gradients of the map, the kernels and the biases."""

    def run(*tensors):
        import tensorflow as tf

        *inputs, upstream = tensors
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = function(*inputs)
        return output, *tape.gradient(output, inputs, upstream)

    return run


def torchvision(x, *weights):
    """The same from PyTorch's convolutions, channels first; gradients where one arrives."""
    import torch

    upstream = weights[8] if len(weights) > 8 else None
    inputs = [tensor.requires_grad_(upstream is not None) for tensor in (x, *weights[:8])]
    branches = [
        torch.nn.functional.conv2d(
            inputs[0],
            inputs[1 + n],
            inputs[5 + n],
            padding=SIZES[n] // 2 * rate,
            dilation=rate,
        ).relu()
        for n, rate in enumerate(RATES)
    ]
    output = torch.cat(branches, 1)
    return output, *(torch.autograd.grad(output, inputs, upstream) if upstream is not None else [])


def channels_first(x, *weights):
    """The arrays as PyTorch wants them."""
    kernels = [np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)) for kernel in weights[:4]]
    upstream = [np.ascontiguousarray(g.transpose(0, 3, 1, 2)) for g in weights[8:]]
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), *kernels, *weights[4:8], *upstream


def checksum(results):
    """Of the mean magnitude of every result."""
    return float(sum(np.mean(np.abs(result), dtype="float64") for result in results))


if __name__ == "__main__":
    sides = {
        "torchvision": torchvision,
        "for_torchvision": channels_first,
        "tolerance": {"TensorFlow": 1e-5, "torchvision": 1e-5},
        "checksum": checksum,
    }
    main(
        __doc__.partition("\n")[0],
        {
            "ASPP branches, forward": Workload(
                lambda: case()[:-1], kvision, tensorflow=tensorflow, **sides
            ),
            "ASPP branches, forward + backward": Workload(
                case, with_gradients(kvision), tensorflow=with_gradients(tensorflow), **sides
            ),
            "4 images of 17x17x320, forward": Workload(
                lambda: case(4, 17, 320)[:-1], kvision, tensorflow=tensorflow, **sides
            ),
            "4 images of 17x17x320, forward + backward": Workload(
                lambda: case(4, 17, 320),
                with_gradients(kvision),
                tensorflow=with_gradients(tensorflow),
                **sides,
            ),
        },
    )
