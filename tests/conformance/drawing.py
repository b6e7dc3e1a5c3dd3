"""Random boxes that meet the edges of every rule.

Each kind is drawn on purpose: small integers meet IoUs exactly at a threshold, and equal corners,
by the hundred; tenths of them do so with products that float32 rounds; relative boxes are small in
their unit; far and huge ones lose digits.
"""

import numpy as np

KINDS = ("integers", "tenths", "pixels", "relative", "far", "huge")
THRESHOLDS = (0.0, 0.25, 0.3, 1 / 3, 0.5, 0.6, 0.7, 1.0)


def boxes(rng, size, kinds=KINDS, degenerate=0.1, dtype="float32"):
    """`(size, 4)` boxes of one kind, a share of them empty or with reversed corners."""
    kind = rng.choice(kinds)
    if kind in ("integers", "tenths"):
        corner, extent = rng.integers(-5, 8, (size, 2)), rng.integers(1, 9, (size, 2))
        unit = 1.0 if kind == "integers" else 0.1
    else:
        corner, extent = rng.uniform(-20, 60, (size, 2)), rng.uniform(1, 40, (size, 2))
        unit = {"relative": 1e-3, "huge": 1e6}.get(kind, 1.0)
        corner = corner + (rng.choice([-1e4, 1e4]) if kind == "far" else 0.0)
    if degenerate:
        spoilt = rng.random((size, 2)) < degenerate / 2
        extent = np.where(spoilt, extent * rng.choice([0, -1], (size, 2)), extent)
    drawn = np.concatenate([corner, corner + extent], axis=1).astype(dtype)
    return drawn * np.asarray(unit, dtype)


def scores(rng, size, dtype="float32"):
    """`(size,)` scores in [0, 1), half of the time with many equal ones."""
    if rng.random() < 0.5:
        return (rng.integers(0, 8, size) / 8).astype(dtype)
    return (rng.permutation(size) / max(size, 1)).astype(dtype)


def threshold(rng):
    return float(rng.choice(THRESHOLDS))
