"""Max pooling with its argmax and max unpooling on the CPU, forward and with the gradients.

8 maps of 128 by 128 cells and 64 channels, windows of 2 by 2, pooled and restored, as SegNet does;
the last line has windows that overlap. TensorFlow has no unpooling: the values are scattered, and
looked up again going back. How it is measured: `_versus.py`.

    python benchmarks/max_pool_with_argmax.py --peer PATH/TO/PYTHON/WITH/TORCHVISION
"""

import numpy as np
from _versus import Workload, main

BATCH, SIDE, CHANNELS = 8, 128, 64


def case():
    """A map, and the gradient that arrives at the restored one."""
    rng = np.random.default_rng(0)
    shape = (BATCH, SIDE, SIDE, CHANNELS)
    return rng.normal(size=shape).astype("float32"), rng.normal(size=shape).astype("float32")


def channels_first(*arrays):
    """What PyTorch is given."""
    return [np.ascontiguousarray(array.transpose(0, 3, 1, 2)) for array in arrays]


def channels_last(*arrays):
    """The same in the order of memory that kvision has, which PyTorch takes too."""
    return [array.transpose(0, 3, 1, 2) for array in arrays]


def kvision(x):
    """The restored map."""
    from kvision.ops import max_pool_with_argmax, max_unpool

    pooled, argmax = max_pool_with_argmax(x)
    return max_unpool(pooled, argmax, x)


def tensorflow(x):
    """The same by a scatter."""
    import tensorflow as tf

    pooled, argmax = tf.nn.max_pool_with_argmax(x, 2, 2, "VALID", include_batch_in_index=True)
    places, values = tf.reshape(argmax, (-1, 1)), tf.reshape(pooled, (-1,))
    return tf.reshape(tf.scatter_nd(places, values, (tf.size(x, tf.int64),)), tf.shape(x))


def pytorch(x, *upstream):
    """The same, and the gradient of the map for one given."""
    import torch
    from torch.nn import functional

    x = x.requires_grad_(bool(upstream))
    pooled, argmax = functional.max_pool2d(x, 2, return_indices=True)
    restored = functional.max_unpool2d(pooled, argmax, 2)
    return restored, *(torch.autograd.grad(restored, x, *upstream) if upstream else [])


def kvision_pooling(x):
    """The values of windows of 3 by 3, 2 apart."""
    from kvision.ops import max_pool_with_argmax

    return max_pool_with_argmax(x, 3, strides=2)[0]


def tensorflow_pooling(x):
    """The same."""
    import tensorflow as tf

    return tf.nn.max_pool_with_argmax(x, 3, 2, "VALID")[0]


def pytorch_pooling(x, upstream):
    """The same, and the gradient of the map."""
    import torch
    from torch.nn import functional

    x = x.requires_grad_()
    pooled, _ = functional.max_pool2d(x, 3, 2, return_indices=True)
    return pooled, *torch.autograd.grad(pooled, x, upstream)


def with_gradient(function):
    """A function that returns its result and the gradient of the map."""

    def run(x, upstream):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            output = function(x)
        return output, tape.gradient(output, x, upstream)

    return run


def overlapping():
    """A map, and the gradient of its windows of 3 by 3."""
    x, upstream = case()
    windows = (SIDE - 3) // 2 + 1
    return x, np.ascontiguousarray(upstream[:, :windows, :windows])


if __name__ == "__main__":
    tolerance = {"torchvision": 1e-6, "TensorFlow": 1e-6}
    forward = {"kvision": kvision, "tensorflow": tensorflow, "torchvision": pytorch}
    backward = {
        "kvision": with_gradient(kvision),
        "tensorflow": with_gradient(tensorflow),
        "torchvision": pytorch,
    }
    pooling = {
        "kvision": with_gradient(kvision_pooling),
        "tensorflow": with_gradient(tensorflow_pooling),
        "torchvision": pytorch_pooling,
    }
    layouts = {"channels first": channels_first, "channels last": channels_last}
    workloads = {}
    for label, layout in layouts.items():
        options = {"for_torchvision": layout, "tolerance": tolerance}
        workloads |= {
            f"pool + unpool, forward, PyTorch {label}": Workload(
                lambda: case()[:1], **forward, **options
            ),
            f"pool + unpool, forward + backward, PyTorch {label}": Workload(
                case, **backward, **options
            ),
            f"pool by 3, 2 apart, forward + backward, PyTorch {label}": Workload(
                overlapping, **pooling, **options
            ),
        }
    main(__doc__.partition("\n")[0], workloads)
