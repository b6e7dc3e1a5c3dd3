"""What the tests of `crop_masks` and `paste_masks` share: masks as run lengths, and back."""

import itertools

import numpy as np


def run_lengths(masks, num_runs=None):
    """The run lengths of masks `(number, height, width)`, as many as the longest one has."""
    rows = []
    for mask in masks:
        pixels = np.asarray(mask).T.reshape(-1).astype(bool)
        groups = [(value, len(list(group))) for value, group in itertools.groupby(pixels)]
        rows.append([0] * bool(groups and groups[0][0]) + [length for _, length in groups])
    longest = max(map(len, rows)) if num_runs is None else num_runs
    return np.array([row + [0] * (longest - len(row)) for row in rows], "int32")


def masks_of(runs, height, width):
    """Masks `(number, height, width)` of their run lengths."""
    number = len(runs)
    values = np.arange(runs.shape[1]) % 2 == 1
    pixels = np.stack([np.repeat(values, row) for row in runs])
    return pixels.reshape(number, width, height).transpose(0, 2, 1)
