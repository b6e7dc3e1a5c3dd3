"""Golden counts of StarDist's `matching` on label maps, of each image and of all.

Run in an environment with stardist: `python tests/golden/make_object_metrics.py`. StarDist takes an
IoU of exactly the threshold for a match and kvision does not, so the thresholds are raised by less
than two IoUs of such small objects can differ.
"""

from pathlib import Path

import numpy as np
import stardist
from stardist.matching import matching, matching_dataset

NUM_IMAGES, SIZE, NUM_OBJECTS = 16, (72, 96), 40
THRESHOLDS = np.arange(10, 20) / 20 + 1e-7
COUNTS = ("tp", "fp", "fn")
SCORES = ("f1", "accuracy", "panoptic_quality")


def label_map(rng):
    rows, columns = np.indices(SIZE)
    labels = np.zeros(SIZE, "int16")
    for label in range(1, NUM_OBJECTS + 1):
        y, x = rng.uniform(0, SIZE)
        height, width = rng.uniform(2, 9, 2)
        labels[((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 <= 1] = label
    return labels


def predicted(rng, truth):
    """Moved, with holes, split, merged, left out, and with new objects."""
    found = np.roll(truth, rng.integers(-1, 2, 2), (0, 1))
    found[rng.random(SIZE) < 0.04] = 0
    for label in range(1, NUM_OBJECTS + 1):
        own = found == label
        change = rng.integers(8)
        if change == 0:
            found[own] = 0
        elif change == 1:
            found[own & (np.indices(SIZE)[0] % 2 == 0)] = NUM_OBJECTS + label
        elif change == 2:
            found[own] = rng.integers(1, NUM_OBJECTS + 1)
    extra = label_map(rng)
    found[extra == 1] = 2 * NUM_OBJECTS + 1
    names = rng.permutation(2 * NUM_OBJECTS + 2).astype("int16") + 1
    return np.where(found > 0, names[found], 0).astype("int16")


def main():
    rng = np.random.default_rng(11)
    truth = np.stack([label_map(rng) for _ in range(NUM_IMAGES)])
    found = np.stack([predicted(rng, labels) for labels in truth])
    found[3] = 0  # nothing found
    truth[5] = 0  # nothing to be found
    by_image = [
        matching(t, f, thresh=THRESHOLDS, report_matches=False)
        for t, f in zip(truth, found, strict=True)
    ]
    together = matching_dataset(list(truth), list(found), thresh=THRESHOLDS, show_progress=False)
    np.savez_compressed(
        Path(__file__).with_name("object_metrics.npz"),
        stardist=stardist.__version__,
        truth=truth,
        found=found,
        **{
            name: np.array([[getattr(one, name) for one in image] for image in by_image])
            for name in (*COUNTS, *SCORES)
        },
        **{f"all_{name}": np.array([getattr(one, name) for one in together]) for name in SCORES},
    )


if __name__ == "__main__":
    main()
