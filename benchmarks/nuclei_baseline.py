"""Nuclei by the classical pipeline, for what is learned to be compared with.

Otsu's threshold, the distance transform, and the watershed from its peaks, all of scikit-image, on
the images of the Data Science Bowl 2018 in `../shared/data/dsb2018` (or `$KVISION_DATA/dsb2018`).
The settings are those of a small grid that find the most objects of the validation split (F1 at an
IoU of 0.5 over all objects); with `--test` they are measured on the test split. Printed is the
table of `kvision.metrics.ObjectMetrics`.

    pip install scikit-image
    python benchmarks/nuclei_baseline.py --test
"""

import argparse
import itertools
import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# In pixels: blur of the image, least distance of two peaks, least area of a nucleus.
GRID = {"blur": (0.5, 1.0, 2.0), "separation": (5, 7, 10), "min_area": (20, 40, 80)}
REPORTED = ("f1_50", "f1_75", "f1", "ap_50", "ap_75", "ap")


def segment(image, *, blur, separation, min_area):
    """Labels the nuclei of an image.

    Args:
        image: `(H, W, 3)` uint8, nuclei bright or dark: they are what covers less than half.
        blur: Standard deviation of the Gaussian before the threshold, in pixels.
        separation: Least distance of two peaks of the distance transform, in pixels.
        min_area: Smaller parts of the foreground are left out, in pixels.

    Returns:
        Int array `(H, W)`: ids of nuclei, 0 for background.
    """
    from scipy import ndimage
    from skimage import feature, filters, segmentation

    grey = filters.gaussian(image.mean(axis=-1), blur)
    foreground = grey > filters.threshold_otsu(grey)
    if foreground.mean() > 0.5:
        foreground = ~foreground
    foreground = ndimage.binary_fill_holes(foreground)
    parts, _ = ndimage.label(foreground)
    large = np.bincount(parts.ravel()) >= min_area
    large[0] = False
    foreground, parts = large[parts], np.where(large[parts], parts, 0)
    distance = filters.gaussian(ndimage.distance_transform_edt(foreground), 1.0)
    peaks = feature.peak_local_max(
        distance, min_distance=separation, labels=parts, exclude_border=False
    )
    markers = np.zeros(parts.shape, "int32")
    markers[tuple(peaks.T)] = np.arange(len(peaks)) + 1
    return segmentation.watershed(-distance, markers, mask=foreground)


def read(folder, split):
    """Images `(H, W, 3)` of a split with their true label maps `(H, W)`."""
    from PIL import Image

    for name in (folder / f"{split}.txt").read_text().split():
        image = Image.open(folder / "images" / f"{name}.png").convert("RGB")
        labels = Image.open(folder / "labels" / f"{name}.png")
        yield np.asarray(image), np.asarray(labels).astype("int32")


def measure(samples, **settings):
    """The metrics of all samples at these settings."""
    from kvision.metrics import ObjectMetrics

    metric = ObjectMetrics()
    for image, labels in samples:
        metric.update_state(labels[None], segment(image, **settings)[None])
    return {name: float(value) for name, value in metric.result().items()}


def print_row(split, results):
    """Prints the values over all objects and averaged over images."""
    for kind in ("object", "image"):
        values = "".join(f"{results[f'{kind}_{name}']:9.4f}" for name in REPORTED)
        print(f"{split:12}{kind:8}{values}")


def main():
    """Chooses the settings on the validation split and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    root = Path(os.environ.get("KVISION_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=root / "dsb2018")
    parser.add_argument("--test", action="store_true", help="measure the test split as well")
    arguments = parser.parse_args()

    samples = list(read(arguments.data, "val"))
    start = time.perf_counter()
    candidates = [
        dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())
    ]
    results = [measure(samples, **settings) for settings in candidates]
    best = max(range(len(results)), key=lambda index: results[index]["object_f1_50"])
    print(
        f"{len(candidates)} settings, {time.perf_counter() - start:.0f} s; best: {candidates[best]}"
    )
    print(" " * 20 + "".join(f"{name:>9}" for name in REPORTED))
    print_row("validation", results[best])
    if arguments.test:
        print_row("test", measure(read(arguments.data, "test"), **candidates[best]))


if __name__ == "__main__":
    main()
