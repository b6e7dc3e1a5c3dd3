"""Training steps of several libraries in turn, each in a process and an environment of its own.

All run on the same processor cores, so that whatever else the machine does falls on all of them. A
benchmark is a file that calls `main` with functions that prepare a step; `main` starts the same
file again for each side.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

THREADS = 2


def main(doc, sides, variants, rounds=11):
    """Reads the command line, then compares the sides, or is one of them.

    Args:
        doc: Docstring of the benchmark.
        sides: Name -> function of a variant that returns `(step, notes)`: a function that takes one
            step and returns its loss, and a dictionary that is printed beside the times. The first
            is kvision; each other has an option of its name for the Python of its environment.
        variants: Names of what is compared, one after another.
        rounds: Steps of each side.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    first, *peers = sides
    for peer in peers:
        names = [f"--{peer}", "--peer"] if peer == "torchvision" else [f"--{peer}"]
        parser.add_argument(*names, dest=peer, help=f"Python of an environment with {peer}")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--variant", choices=variants)
    parser.add_argument("--side", choices=sides, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
        _serve(*sides[arguments.side](arguments.variant))
        return
    pythons = {peer: getattr(arguments, peer) for peer in peers if getattr(arguments, peer)}
    if not pythons:
        parser.error(f"one of {', '.join('--' + peer for peer in peers)} is required")
    for variant in [arguments.variant] if arguments.variant else variants:
        _compare({first: sys.executable, **pythons}, variant, arguments.rounds)


def _serve(step, notes):
    """Warms up, announces the notes, takes one step for every line on standard input.

    What is printed last is the most memory that the process ever had, in GiB.
    """
    first_loss = step()
    step()
    print(json.dumps({**notes, "first_loss": round(first_loss, 4)}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, flush=True)


class _Side:
    """One library's process."""

    def __init__(self, python, name, variant):
        self.process = subprocess.Popen(
            [python, sys.argv[0], "--side", name, "--variant", variant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        self.notes = self._read()

    def step(self):
        """Takes a step; returns its seconds."""
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self._read()

    def close(self):
        """Ends the process; returns its peak of memory in GiB."""
        self.process.stdin.close()
        peak = self._read()
        self.process.wait()
        return peak

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended: {self.process.args}")
        return json.loads(line)


def _compare(pythons, variant, rounds):
    """Steps all sides in turn and prints medians, peaks of memory, and their ratios."""
    sides = {name: _Side(python, name, variant) for name, python in pythons.items()}
    steps = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            steps[name].append(side.step())
    print(f"{variant}, {rounds} rounds")
    medians, peaks = {}, {}
    for name, side in sides.items():
        peaks[name] = side.close()
        seconds = sorted(steps[name])
        medians[name] = statistics.median(seconds)
        print(
            f"  {name:12} median {medians[name]:.3f} s "
            f"(fastest {seconds[0]:.3f}, slowest {seconds[-1]:.3f}), "
            f"peak {peaks[name]:.2f} GiB, {json.dumps(side.notes)}"
        )
    first, *peers = medians
    for peer in peers:
        print(
            f"  ratio to {peer} {medians[first] / medians[peer]:.3f}, "
            f"of memory {peaks[first] / peaks[peer]:.3f}",
            flush=True,
        )
