"""Cases of non-maximum suppression that any environment can draw again from a seed.

Coordinates are small integers, tenths of them, or continuous; the first two meet IoUs exactly at
the thresholds by the hundred, the second with products that float32 rounds. Scores tie in half of
the cases. A fourth kind draws corners independently: reversed, empty, NaN and infinite.
"""

import numpy as np

THRESHOLDS = (0.0, 0.25, 0.3, 1 / 3, 0.5, 0.6, 0.7, 1.0)
SIZES = (0, 1, 5, 24, 64)
NUM_CASES = 1000
NUM_BATCHED_CASES = 100
BATCHED_THRESHOLDS = (0.0, 0.3, 0.5)
BATCHED_SCORE_THRESHOLD = 0.25
BATCHED_OUTPUT_SIZE = 20


def nms_case(seed):
    """Boxes (N, 4), scores (N,) and the IoU threshold."""
    rng = np.random.default_rng(seed)
    size = int(rng.choice(SIZES, p=(0.02, 0.03, 0.15, 0.3, 0.5)))
    scores = rng.integers(0, 8, size) / 8 if seed % 2 else rng.permutation(size) / max(size, 1)
    return _boxes(rng, size, seed % 4), scores.astype("float32"), float(rng.choice(THRESHOLDS))


def batched_nms_case(seed):
    """Boxes (B, N, C or 1, 4), scores (B, N, C) without ties, and the IoU threshold."""
    rng = np.random.default_rng(seed)
    batch, size, classes = 2, int(rng.choice((1, 12, 30))), int(rng.choice((1, 3)))
    own = classes if seed % 2 else 1
    boxes = _boxes(rng, batch * size * own, seed % 4).reshape(batch, size, own, 4)
    scores = rng.permutation(batch * size * classes) / (batch * size * classes)
    scores = scores.reshape(batch, size, classes).astype("float32")
    return boxes, scores, float(rng.choice(BATCHED_THRESHOLDS))


def _boxes(rng, size, kind):
    if kind == 3:
        boxes = rng.integers(0, 10, (size, 4)).astype("float32")
        special = rng.choice([np.nan, np.inf, -np.inf], boxes.shape)
        return np.where(rng.random(boxes.shape) < 0.03, special, boxes).astype("float32")
    if kind == 2:
        corner, extent = rng.uniform(-20, 60, (size, 2)), rng.uniform(1, 40, (size, 2))
    else:
        corner, extent = rng.integers(-5, 8, (size, 2)), rng.integers(0, 9, (size, 2))
    boxes = np.concatenate([corner, corner + extent], axis=1).astype("float32")
    return boxes * np.float32(0.1) if kind == 1 else boxes
