"""Calls a native op with less memory than it needs, and prints what is said of it.

Run as `python -m tests.ops.short_of_memory DOOR`: `arrays`, or `backend` for that of Keras' own.
"""

import resource
import sys
from pathlib import Path

import numpy as np

HEADROOM = 30_000_000
"""Bytes beside what the process has: enough for the result, not for a thread's sums."""


def run(door, side):
    """The gradient of RoI pooling, which sums half types in float, a block of channels a thread.

    A block has 16 channels, of which there is one: a side of 1000 takes 64 MB a thread.
    """
    one = (2, 1, 1, 1, 1)
    inputs = (np.ones(one, "float16"), np.zeros(one, "int32"), np.zeros((2, 1, 4), "float32"))
    attributes = {"spatial_scale": 1.0, "feature_shape": (2, side, side, 1)}
    if door == "arrays":
        from kvision.ops.library import module

        return module().roi_pool_gradient(*inputs, **attributes, num_threads=2)
    from keras import ops

    from kvision.ops import native

    inputs = [ops.convert_to_tensor(values) for values in inputs]
    return ops.convert_to_numpy(native.call("roi_pool_gradient", *inputs, **attributes))


def main(door):
    run(door, 100)  # the threads and all else that is made once
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, unlimited[1]))
    try:
        run(door, 1000)
        message = "It was computed."
    except Exception as error:  # each framework has a class of its own
        message = str(error)
    resource.setrlimit(resource.RLIMIT_AS, unlimited)
    print(message)
    print(float(np.sum(run(door, 1000))), "afterwards")


if __name__ == "__main__":
    main(*sys.argv[1:])
