"""Compares kvision with its peers, live, on cases drawn at random, and prints a table.

    python -m tests.conformance --torchvision PYTHON --addons PYTHON --keras-cv PYTHON \
        --imaging PYTHON

Each peer answers in the environment whose Python is named; a peer that is not named is left out.
TensorFlow and Keras are kvision's own. Exits with 1 if a difference has no explanation.
"""

import argparse
import math
import sys
import time

import numpy as np

import kvision
from kvision.ops import native
from tests.conformance import (
    components,
    convolutions,
    distances,
    overlaps,
    pooling,
    pyramids,
    regions,
    suppression,
)
from tests.conformance.asking import PEERS, ask
from tests.conformance.comparison import compare, table

ROWS = (
    *regions.ROWS,
    *pooling.ROWS,
    *pyramids.ROWS,
    *convolutions.ROWS,
    *suppression.ROWS,
    *overlaps.ROWS,
    *components.ROWS,
    *distances.ROWS,
)
# The share of the calls that each answers: eager `keras.ops` take a hundred times as long.
IMPLEMENTATIONS = {"native": 1.0, "reference": 0.1}


def main():
    arguments = parse()
    pythons = {"tensorflow": sys.executable, "keras": sys.executable} | {
        peer: getattr(arguments, peer) for peer in ("torchvision", "addons", "keras_cv", "imaging")
    }
    rows = [row for row in ROWS if pythons[row.peer] and arguments.only in row.function]
    calls = {row.function: draw(row, arguments) for row in rows}
    answers = {}
    for peer in PEERS:
        questions = {row.function: calls[row.function] for row in rows if row.peer == peer}
        if questions:
            start = time.perf_counter()
            versions, peers_answers = ask(peer, pythons[peer], questions)
            answers |= peers_answers
            print(f"{versions}: answered in {time.perf_counter() - start:.0f} s", flush=True)
    start = time.perf_counter()
    results = [(row, outcomes(row, calls[row.function], answers[row.function])) for row in rows]
    print(f"kvision {kvision.__version__}: compared in {time.perf_counter() - start:.0f} s\n")
    print(table(results))
    print(
        "\nA case is a box, a pair, a set of boxes or an image. Exceptions: what explains how many."
    )
    return report(results)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torchvision", help="Python with torchvision")
    parser.add_argument("--addons", help="Python with TensorFlow Addons")
    parser.add_argument("--keras-cv", help="Python with KerasCV")
    parser.add_argument("--imaging", help="Python with OpenCV, SciPy and edt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=20_000, help="pairs of boxes a row")
    parser.add_argument("--only", default="", help="part of a peer function's name")
    return parser.parse_args()


def draw(row, arguments):
    """As many calls as hold the cases wanted; a row's calls depend on the seed and its name."""
    rng = np.random.default_rng([arguments.seed, *row.function.encode()])
    calls, cases = [], 0
    while cases < arguments.cases / row.cost:
        calls.append(row.draw(rng))
        cases += row.size(calls[-1])
    return calls


def outcomes(row, calls, theirs):
    """The outcome by implementation."""
    results = {}
    for implementation, share in IMPLEMENTATIONS.items():
        answered = calls[: math.ceil(share * len(calls))]
        with native.implementation(implementation):
            ours = [np.asarray(row.ours(call)) for call in answered]
        results[implementation] = compare(row, answered, theirs[: len(ours)], ours)
    return results


def report(results):
    """Prints a few of the unexplained differences; returns the exit status."""
    failed = 0
    for row, outcomes in results:
        for implementation, outcome in outcomes.items():
            for line in outcome.unexplained[:3]:
                print(f"\n{row.function}, {implementation}: {line}")
            failed += len(outcome.unexplained)
    print(f"\n{failed} unexplained differences" if failed else "\nEvery difference is explained.")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
