"""Golden results and gradients of PyTorch's max pooling with indices, and of its max unpooling.

Run in an environment with torch: `python tests/golden/make_max_pool.py`. Arrays are channels last.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

# Height, width, pool size, strides, kvision's padding, and what gives the same windows in PyTorch.
CASES = {
    "even": ((6, 8), (2, 2), (2, 2), "valid", {}),
    "odd, valid": ((7, 5), (2, 2), (2, 2), "valid", {}),
    "odd, same": ((7, 5), (2, 2), (2, 2), "same", {"ceil_mode": True}),
    "overlapping, valid": ((9, 8), (3, 3), (2, 2), "valid", {}),
    "overlapping, same, even": ((8, 6), (3, 3), (2, 2), "same", {"ceil_mode": True}),
    "overlapping, same, odd": ((7, 9), (3, 3), (2, 2), "same", {"padding": 1}),
    "every cell": ((5, 6), (3, 3), (1, 1), "same", {"padding": 1}),
    "oblong": ((6, 9), (2, 3), (2, 3), "valid", {}),
    "gaps": ((8, 10), (2, 1), (3, 4), "valid", {}),
    "one row": ((1, 9), (1, 2), (1, 2), "same", {"ceil_mode": True}),
}
BATCH, CHANNELS = 2, 5


def first(array):
    """Channels first, as PyTorch has them."""
    return torch.tensor(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def last(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def main():
    rng = np.random.default_rng(31)
    arrays = {"torch": torch.__version__}
    for name, (size, pool_size, strides, padding, options) in CASES.items():
        # Integers, so that there are ties.
        x = rng.integers(-9, 9, (BATCH, *size, CHANNELS)).astype("float32")
        leaf = first(x).requires_grad_()
        pooled, argmax = functional.max_pool2d(
            leaf, pool_size, strides, return_indices=True, **options
        )
        upstream = rng.integers(-99, 99, last(pooled).shape).astype("float32")
        pooled.backward(first(upstream))
        arrays |= {
            f"{name}/x": x,
            f"{name}/windows": np.array([*pool_size, *strides]),
            f"{name}/padding": padding,
            f"{name}/pooled": last(pooled),
            f"{name}/argmax": last(argmax).astype("int32"),
            f"{name}/upstream": upstream,
            f"{name}/gradient": last(leaf.grad),
        }
        if len(np.unique(arrays[f"{name}/argmax"][0, ..., 0])) == pooled[0, 0].numel() and all(
            stride >= length for stride, length in zip(strides, pool_size, strict=True)
        ):
            # Of values on one place PyTorch keeps any, so that it is asked where there are none.
            values = first(upstream).requires_grad_()
            unpooled = functional.max_unpool2d(values, argmax, pool_size, strides, output_size=size)
            back = rng.integers(-99, 99, last(unpooled).shape).astype("float32")
            unpooled.backward(first(back))
            arrays |= {
                f"{name}/unpooled": last(unpooled),
                f"{name}/unpooled_upstream": back,
                f"{name}/unpooled_gradient": last(values.grad),
            }
    np.savez_compressed(Path(__file__).with_name("max_pool.npz"), **arrays)


if __name__ == "__main__":
    main()
