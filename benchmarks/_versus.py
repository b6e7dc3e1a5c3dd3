"""Timing against peers: the sides take turns in one run.

So whatever else the machine does falls on all of them. kvision and TensorFlow run in this process,
torchvision in one of its own with its own environment, all with two threads. A benchmark is a file
that calls `main` with its workloads. What the sides return has to agree, or the run ends. Printed
are medians and ratios.

    python benchmarks/<file>.py --peer PATH/TO/PYTHON/WITH/TORCHVISION
"""

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

THREADS = 2


@dataclasses.dataclass(frozen=True)
class Workload:
    """One line of a table.

    Attributes:
        inputs: Makes the arrays that all sides are given.
        kvision: Function of tensors that returns a tensor or several.
        tensorflow: The same for TensorFlow, or `None`.
        torchvision: The same for torchvision, on torch tensors, or `None`.
        for_torchvision: Makes the arrays that torchvision is given of those of all; not timed.
        tolerance: Relative difference allowed between checksums, by library; 0 where none is named.
        checksum: A number that tells results apart: function of a list of arrays.
        compiled: Whether kvision and TensorFlow run in a `tf.function`, or eagerly.
        small_inputs: Makes inputs of the same kind and hardly any size; peak memory is compared too
            where it is given.
    """

    inputs: Callable
    kvision: Callable
    tensorflow: Callable | None = None
    torchvision: Callable | None = None
    for_torchvision: Callable = lambda *arrays: arrays
    tolerance: dict = dataclasses.field(default_factory=dict)
    checksum: Callable = lambda results: float(np.mean(np.abs(results[-1]), dtype="float64"))
    compiled: bool = True
    small_inputs: Callable | None = None


def order_checksum(results):
    """For indices: depends on their values and their order, not on padding of -1 at the end."""
    indices = np.asarray(results[0], "int64").ravel()
    indices = indices[indices >= 0]
    return float(np.sum(np.arange(1, len(indices) + 1) * indices % 65_521))


def main(description, workloads):
    """Runs the workloads and prints their table; or serves as the peer, without `--peer`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--peer", help="Python of an environment with torchvision")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", default="", help="part of the name of the workloads to run")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        return _print_memory(workloads, *arguments.memory_of)
    if arguments.peer is None:
        return _serve(workloads)
    chosen = {name: work for name, work in workloads.items() if arguments.only in name}
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(
        [arguments.peer, sys.argv[0]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:

        def ask_peer(name):
            print(name, file=process.stdin, flush=True)
            milliseconds, checksum = process.stdout.readline().split()
            return float(milliseconds), float(checksum)

        print("| work | kvision ms | torchvision ms | TensorFlow ms | ratios |")
        print("|---|---|---|---|---|")
        for name, work in chosen.items():
            _print_row(name, work, _measure(name, work, ask_peer, arguments.rounds))
        process.stdin.close()
    for name, work in chosen.items():
        if work.small_inputs is not None:
            _compare_memory(name, work, arguments.peer)
    return None


def _print_row(name, work, medians):
    libraries = ("kvision", "torchvision", "TensorFlow")
    cells = [f"{medians[library]:.2f}" if library in medians else "" for library in libraries]
    ratios = [
        f"{medians[library] / medians['kvision']:.1f}x {library}"
        for library in libraries[1:]
        if library in medians
    ]
    print(f"| {name} | {' | '.join(cells)} | {', '.join(ratios)} |", flush=True)


def _measure(name, work, ask_peer, rounds):
    """Medians in milliseconds, by library."""
    functions = _own_sides(work)
    times = {}
    for _ in range(rounds + 1):  # the first round compiles
        sums = {}
        for library, function in functions.items():
            milliseconds, results = timed(function)
            times.setdefault(library, []).append(milliseconds)
            sums[library] = work.checksum(results)
        if work.torchvision is not None:
            milliseconds, sums["torchvision"] = ask_peer(name)
            times.setdefault("torchvision", []).append(milliseconds)
        for library, value in sums.items():
            if not np.isclose(value, sums["kvision"], rtol=work.tolerance.get(library, 0), atol=0):
                raise AssertionError(f"{name}: the libraries differ: {sums}")
    return {library: statistics.median(values[1:]) for library, values in times.items()}


def _own_sides(work):
    """The functions of this process, compiled and bound to the inputs, by library."""
    import tensorflow as tf

    if tf.config.threading.get_intra_op_parallelism_threads() != THREADS:
        tf.config.threading.set_intra_op_parallelism_threads(THREADS)
        tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    from kvision.ops import native

    native.load_ops()
    inputs = [tf.constant(array) for array in work.inputs()]
    sides = {"kvision": work.kvision, "TensorFlow": work.tensorflow}

    def bound(function):
        called = tf.function(function, autograph=False) if work.compiled else function
        return lambda: tf.nest.flatten(called(*inputs))

    return {name: bound(function) for name, function in sides.items() if function is not None}


def _peer_side(work):
    import torch

    torch.set_num_threads(THREADS)
    inputs = [torch.from_numpy(array) for array in work.for_torchvision(*work.inputs())]

    def run():
        results = work.torchvision(*inputs)
        results = results if isinstance(results, (list, tuple)) else [results]
        return [result.detach() for result in results]

    return run


def timed(function):
    """Milliseconds of a turn, and its results as arrays.

    A turn is one call, or the median of nine where calls are short: what the other sides left in
    caches and sleeping threads would else be measured with them.
    """
    times = []
    while not times or (len(times) < 9 and times[0] < 50):
        start = time.perf_counter()
        results = function()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), [np.asarray(result) for result in results]


def _serve(workloads):
    """Runs the workloads named on standard input; answers milliseconds and a checksum."""
    sides = {}
    for name in map(str.strip, sys.stdin):
        if name not in sides:
            sides = {name: _peer_side(workloads[name])}
        milliseconds, results = timed(sides[name])
        print(milliseconds, workloads[name].checksum(results), flush=True)


def _compare_memory(name, work, peer):
    """Prints the peak memory of each side, from processes that run nothing else."""
    libraries = {"kvision": sys.executable}
    if work.tensorflow is not None:
        libraries["TensorFlow"] = sys.executable
    if work.torchvision is not None:
        libraries["torchvision"] = peer
    peaks = {}
    for library, python in libraries.items():
        command = [python, sys.argv[0], "--memory-of", library, name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[library] = float(done.stdout.split()[-1])
    cells = ", ".join(f"{library} {peak:.1f} MiB" for library, peak in peaks.items())
    ratios = ", ".join(
        f"{peaks['kvision'] / peak:.3f} of {library}"
        for library, peak in peaks.items()
        if library != "kvision"
    )
    print(f"peak memory of {name}, above what was there before: {cells}; {ratios}", flush=True)


def _print_memory(workloads, library, name):
    work = workloads[name]
    small = dataclasses.replace(work, inputs=work.small_inputs)

    def side(of):
        return _peer_side(of) if library == "torchvision" else _own_sides(of)[library]

    function = side(work)
    side(small)()  # loads and starts what has to be
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    function()
    print((_status("VmHWM") - before) / 1024)


def _status(key):
    """Of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])
