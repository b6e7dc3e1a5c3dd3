"""Random weights under which a deep net neither dies nor explodes."""

import numpy as np

KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")


def randomize(model, seed=0):
    """Kernels that keep the variance, and random statistics of every normalisation."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape = tuple(weight.shape)
        if weight.name in KERNELS:
            fan_in = np.prod(shape[:2] if weight.name == "depthwise_kernel" else shape[:-1])
            values = rng.normal(0, np.sqrt(1.4 / fan_in), shape)
        elif weight.name in ("gamma", "moving_variance"):
            values = rng.uniform(0.6, 1.2, shape)
        else:
            values = rng.normal(0, 0.1, shape)
        weight.assign(values)
    return model
