"""The weight map of U-Net on the CPU, against what everybody uses: SciPy's distances, cell by cell.

A label map of 512 x 512 with 60 cells, and real nuclei where `../shared/data/dsb2018` (or
`$KVISION_DATA/dsb2018`) is. The other side computes a distance transform a cell, sorts them, and
takes the formula from the two least; its distances are to the same borders, and its weights have to
be equal. The sides take turns in one run, both in this process, kvision with two threads; SciPy has
one.

    python benchmarks/border_weight_map.py
"""

import argparse
import os
import statistics
from pathlib import Path

import numpy as np
from _versus import THREADS, timed


def drawn(side=512, number=60, seed=0):
    """A label map `(side, side)` of discs, later ones over earlier."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    instances = np.zeros((side, side), "int32")
    for i in range(number):
        centre, radius = rng.uniform(0, side, 2), rng.uniform(side / 50, side / 17)
        instances[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = i + 1
    return instances


def nuclei(number=3):
    """Label maps of photographs, each after its name; none where the data are missing."""
    root = Path(os.environ.get("KVISION_DATA", Path(__file__).parents[2] / "shared" / "data"))
    folder = root / "dsb2018"
    if not folder.exists():
        print(f"No {folder}: only the drawn map is measured.")
        return []
    from PIL import Image

    names = (folder / "train.txt").read_text().split()
    maps = [np.array(Image.open(folder / "labels" / f"{name}.png")) for name in names]
    maps = sorted(maps, key=lambda image: int(image.max()))
    chosen = [maps[len(maps) * k // number + len(maps) // (2 * number)] for k in range(number)]
    return [("dsb2018", image) for image in chosen]


def scipy(instances, border_weight=10.0, sigma=5.0):
    """The map by a distance transform a cell."""
    from scipy.ndimage import distance_transform_edt

    other = np.zeros(instances.shape, bool)
    for axis in (0, 1):
        here, there = np.moveaxis(instances, axis, 0), np.moveaxis(other, axis, 0)
        there[1:] |= here[1:] != here[:-1]
        there[:-1] |= here[1:] != here[:-1]
    cells = np.unique(instances[instances > 0])
    weights = np.ones(instances.shape)
    if len(cells) < 2:
        return weights
    distances = [distance_transform_edt(~((instances == cell) & other)) for cell in cells]
    nearest = np.sort(distances, axis=0)[:2].sum(axis=0)
    return weights + border_weight * np.exp(-(nearest**2) / (2 * sigma**2))


def main():
    """Prints a line a label map."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--peer", help="not needed here: every benchmark is given it")
    rounds = parser.parse_args().rounds
    from kvision import _C

    print("| work | kvision ms | SciPy ms | ratio |\n|---|---|---|---|")
    for name, instances in [("drawn", drawn()), *nuclei()]:
        images = instances[None].astype("int32")
        sides = {
            "kvision": lambda images=images: [_C.border_weight_map(images, num_threads=THREADS)[0]],
            "SciPy": lambda instances=instances: [scipy(instances)],
        }
        times = {side: [] for side in sides}
        for _ in range(rounds):
            results = {}
            for side, function in sides.items():
                milliseconds, (results[side],) = timed(function)
                times[side].append(milliseconds)
            np.testing.assert_allclose(results["kvision"], results["SciPy"], rtol=1e-5)
        own, other = (statistics.median(times[side]) for side in sides)
        size = " x ".join(map(str, instances.shape))
        name += f", {size}, {len(np.unique(instances[instances > 0]))} cells"
        print(f"| {name} | {own:.2f} | {other:.1f} | {other / own:.0f}x |", flush=True)


if __name__ == "__main__":
    main()
