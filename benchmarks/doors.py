"""The same kernel through every door: RoIAlign with its gradient, from each framework.

The work is that of `roi_align.py`. Each door is a process with an environment of its own, and they
take turns: TensorFlow in a `tf.function` and compiled by XLA, JAX under `jit`, PyTorch eagerly and
under `torch.compile`. Printed are medians, and ratios to the TensorFlow op.

    python benchmarks/doors.py --jax PYTHON/WITH/JAX --torch PYTHON/WITH/PYTORCH
"""

import argparse
import os
import statistics
import subprocess
import sys

import numpy as np
from _versus import THREADS, timed
from roi_align import case, kvision

DOORS = {
    "TensorFlow": "tensorflow",
    "TensorFlow XLA": "tensorflow",
    "JAX": "jax",
    "PyTorch": "torch",
    "PyTorch compiled": "torch",
}


def tensorflow_side(compiled):
    """Runs output and gradient as one `tf.function`."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    inputs = [tf.constant(array) for array in case()]

    def both(features, boxes, gradient):
        with tf.GradientTape() as tape:
            tape.watch(features)
            output = kvision(features, boxes)
        return output, tape.gradient(output, features, gradient)

    function = tf.function(both, autograph=False, jit_compile=compiled)
    return lambda: function(*inputs)


def jax_side():
    """Runs output and gradient as one jitted function."""
    import jax

    inputs = [jax.numpy.asarray(array) for array in case()]

    @jax.jit
    def both(features, boxes, gradient):
        output, pull_back = jax.vjp(lambda features: kvision(features, boxes), features)
        return output, *pull_back(gradient)

    return lambda: jax.block_until_ready(both(*inputs))


def torch_side(compiled):
    """Runs output and gradient by autograd."""
    import torch

    torch.set_num_threads(THREADS)
    features, boxes, gradient = (torch.from_numpy(array) for array in case())
    features.requires_grad_()
    align = torch.compile(kvision, fullgraph=True) if compiled else kvision

    def both():
        output = align(features, boxes)
        return output.detach(), *torch.autograd.grad(output, features, gradient)

    return both


def serve(door):
    """Answers every line of standard input with milliseconds and the checksums of the results."""
    compiled = door.endswith(("XLA", "compiled"))
    backend = DOORS[door]
    sides = {"tensorflow": tensorflow_side, "torch": torch_side}
    side = jax_side() if backend == "jax" else sides[backend](compiled)
    from kvision.ops import implementation_of

    with np.errstate(all="raise"):
        for _ in sys.stdin:
            milliseconds, results = timed(side)
            sums = [float(np.mean(np.abs(result), dtype="float64")) for result in results]
            print(implementation_of("roi_align"), milliseconds, *sums, flush=True)


def start(door, python):
    """The process of a door."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": DOORS[door],
        "KVISION_REQUIRE_OPS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        # JAX and PyTorch take every result afresh from malloc, which gives memory of this size back
        # to the system each time: clearing it again would take longer than the kernels.
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**33),
    }
    return subprocess.Popen(
        [python, sys.argv[0], "--door", door],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def main():
    """Runs the doors in turns and prints their table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jax", help="Python of an environment with kvision and JAX")
    parser.add_argument("--torch", help="Python of an environment with kvision and PyTorch")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--door", choices=DOORS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.door:
        return serve(arguments.door)
    pythons = {"tensorflow": sys.executable, "jax": arguments.jax, "torch": arguments.torch}
    processes = {
        door: start(door, pythons[backend]) for door, backend in DOORS.items() if pythons[backend]
    }
    times = {door: [] for door in processes}
    for _ in range(arguments.rounds + 1):  # the first round compiles
        sums = {}
        for door, process in processes.items():
            print(file=process.stdin, flush=True)
            implementation, milliseconds, *sums[door] = process.stdout.readline().split()
            if implementation != "native":
                raise AssertionError(f"{door} runs the {implementation} implementation.")
            times[door].append(float(milliseconds))
        for values in sums.values():
            if not np.allclose(np.float64(values), np.float64(sums["TensorFlow"]), rtol=1e-6):
                raise AssertionError(f"the doors differ: {sums}")
    for process in processes.values():
        process.stdin.close()
        process.wait()
    print("| door | ms | of TensorFlow's |")
    print("|---|---|---|")
    medians = {door: statistics.median(values[1:]) for door, values in times.items()}
    for door, median in medians.items():
        print(f"| {door} | {median:.2f} | {median / medians['TensorFlow']:.3f} |")
    return None


if __name__ == "__main__":
    main()
