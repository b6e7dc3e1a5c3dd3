"""Depthwise atrous pyramid pooling on the CPU, forward and with gradients, against TensorFlow's.

A map of 65 x 65 x 2048, as a ResNet of output stride 8 makes of 513 pixels a side, and kernels of
3 x 3 at the rates 6, 12 and 18, float32. TensorFlow and PyTorch do it by three depthwise
convolutions and a concatenation. How it is measured: `_versus.py`. The result alone takes 104 MB,
which malloc takes from the system each time and gives back: with

    MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592

in the environment it keeps what is freed, on all sides, and what is left is the work itself.

    python benchmarks/depthwise_atrous_pyramid_pooling.py --peer PATH/TO/PYTHON/WITH/TORCHVISION
"""

import functools

import numpy as np
from _versus import Workload, main

SIZE, CHANNELS, RATES = 65, 2048, (6, 12, 18)


@functools.cache
def case():
    """The map, three kernels, and the upstream gradient."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype("float32")

    kernels = [normal(3, 3, CHANNELS, 1) for _ in RATES]
    return normal(1, SIZE, SIZE, CHANNELS), *kernels, normal(1, SIZE, SIZE, 3 * CHANNELS)


def kvision(x, *kernels):
    """Output `(1, SIZE, SIZE, 3 * CHANNELS)`."""
    from kvision.ops import depthwise_atrous_pyramid_pooling

    return depthwise_atrous_pyramid_pooling(x, kernels, dilation_rates=RATES)


def tensorflow(x, *kernels):
    """The same from TensorFlow's ops."""
    import tensorflow as tf

    branches = [
        tf.nn.depthwise_conv2d(x, kernel, (1, 1, 1, 1), "SAME", dilations=(rate, rate))
        for kernel, rate in zip(kernels, RATES, strict=True)
    ]
    return tf.concat(branches, axis=-1)


def with_gradients(pool):
    """Output and gradients of the map and the kernels."""

    def both(x, *kernels_and_gradient):
        import tensorflow as tf

        *kernels, gradient = kernels_and_gradient
        with tf.GradientTape() as tape:
            tape.watch([x, kernels])
            output = pool(x, *kernels)
        return output, *tape.gradient(output, [x, *kernels], gradient)

    return both


def torch_forward(x, *kernels):
    """The same from PyTorch, channels last in memory."""
    import torch

    branches = [
        torch.nn.functional.conv2d(x, kernel, padding=rate, dilation=rate, groups=CHANNELS)
        for kernel, rate in zip(kernels, RATES, strict=True)
    ]
    return torch.cat(branches, 1)


def torch_both(x, *kernels_and_gradient):
    """The same with gradients."""
    import torch

    leaves = [tensor.requires_grad_() for tensor in (x, *kernels_and_gradient[:-1])]
    output = torch_forward(*leaves)
    return output, *torch.autograd.grad(output, leaves, kernels_and_gradient[-1])


def for_torch(x, *others):
    """The layout of PyTorch: axes in the order of channels first, memory as it is."""

    def channels_first(array):
        return np.moveaxis(array, -1, 1)

    kernels = [np.ascontiguousarray(kernel.transpose(2, 3, 0, 1)) for kernel in others[:3]]
    return channels_first(x), *kernels, *map(channels_first, others[3:])


if __name__ == "__main__":
    peers = {
        "for_torchvision": for_torch,
        "tolerance": {"torchvision": 1e-5, "TensorFlow": 1e-5},
    }
    main(
        __doc__.partition("\n")[0],
        {
            "depthwise_atrous_pyramid_pooling, forward": Workload(
                lambda: case()[:4], kvision, tensorflow, torch_forward, **peers
            ),
            "depthwise_atrous_pyramid_pooling, forward + backward": Workload(
                case, with_gradients(kvision), with_gradients(tensorflow), torch_both, **peers
            ),
        },
    )
