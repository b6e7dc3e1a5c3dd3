"""What the scripts of this folder share: they know nothing of kvision, and run where it is not."""

import sys

import numpy as np


def serve(functions, modules):
    """Answers the calls in the file named first on the command line into the file named second."""
    with np.load(sys.argv[1]) as file:
        calls = {}
        for key in file.files:
            name, number, argument = key.split("/")
            value = file[key]
            calls.setdefault((name, int(number)), {})[argument] = (
                value.item() if value.ndim == 0 else value
            )
    versions = ", ".join(f"{module.__name__} {module.__version__}" for module in modules)
    answers = {
        f"{name}/{number}": np.asarray(functions[name](**call), "float64")
        for (name, number), call in calls.items()
    }
    np.savez(sys.argv[2], versions=versions, **answers)


def padded(indices, size):
    """Indices as one row of `size`, padded with -1."""
    row = np.full((1, size), -1)
    row[0, : len(indices)] = indices
    return row
