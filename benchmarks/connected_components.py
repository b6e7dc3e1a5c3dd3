"""Connected components on the CPU, against OpenCV and cc3d.

A mask of 1024 x 2048 with 60 instances, one of noise, and real nuclei where
`../shared/data/dsb2018` (or `$KVISION_DATA/dsb2018`) is. The sides take turns in one run: kvision
in this process with two threads, the peers in one of their own, OpenCV with two threads, cc3d has
one. All label 8-connected components of arrays of bytes into int32, and the labels have to be
equal, those of OpenCV once they are renamed in raster order. Printed are medians of the wall clock
and of the processors' time, which tells more where others work on the machine, too.

    python benchmarks/connected_components.py [--imaging PATH/TO/PYTHON/WITH/OPENCV/AND/CC3D]
"""

import argparse
import os
import statistics
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
from _turns import turn

THREADS = 2
ROOT = Path(__file__).resolve().parents[1]


def instances(height=1024, width=2048, number=60, seed=0):
    """Discs, no two of them in touch."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    drawn = 0
    while drawn < number:
        centre, radius = rng.uniform(0, [height, width]), rng.uniform(15, 75)
        squares = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
        if not mask[squares < (radius + 2) ** 2].any():
            mask[squares < radius**2] = True
            drawn += 1
    return mask


def noise(height=1024, width=2048, seed=0):
    """Every other pixel, by chance."""
    return np.random.default_rng(seed).random((height, width)) < 0.5


def masks():
    """Masks after their names."""
    yield "60 instances", instances()
    yield "noise of 50 %", noise()
    root = Path(os.environ.get("KVISION_DATA", ROOT.parent / "shared" / "data"))
    names = root / "dsb2018" / "train.txt"
    if names.exists():
        from PIL import Image

        name = names.read_text().split()[0]
        labels = np.array(Image.open(root / "dsb2018" / "labels" / f"{name}.png"))
        yield "nuclei of dsb2018", labels > 0


def checksum(labels):
    """Of labels in raster order of their first pixels."""
    labels = np.ascontiguousarray(labels, "int32")
    names, first = np.unique(labels, return_index=True)
    renamed = np.zeros(names.max() + 1, "int32")
    renamed[names[np.argsort(np.where(names > 0, first, -1))]] = np.arange(len(names))
    return zlib.crc32(renamed[labels].tobytes())


def serve():
    """The peers' side: asked for a library and a mask, answers with times and a checksum."""
    import cc3d
    import cv2

    cv2.setNumThreads(THREADS)
    libraries = {
        "OpenCV": lambda mask: cv2.connectedComponents(mask, connectivity=8)[1],
        "cc3d": lambda mask: cc3d.connected_components(mask, connectivity=8),
    }
    for line in sys.stdin:
        library, path = line.rstrip("\n").split(" ", 1)
        mask = np.load(path).view("uint8")
        wall, processors, labels = turn(lambda m=mask, name=library: libraries[name](m))
        print(wall, processors, checksum(labels), flush=True)


def main():
    """Prints a line a mask and peer; or serves as the peers, with `--serve`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--imaging", default=ROOT / "build/peers/imaging/bin/python")
    parser.add_argument("--peer", help="not needed here: every benchmark is given it")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    import tempfile

    from kvision import _C

    print("| mask | peer | kvision ms | peer ms | ratio | kvision CPU ms | peer CPU ms | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    command = [arguments.imaging, __file__, "--serve"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as peers,
    ):
        for name, mask in masks():
            path = Path(folder) / "mask.npy"
            np.save(path, mask)
            sides = {"kvision": [], "OpenCV": [], "cc3d": []}
            for _ in range(arguments.rounds):
                sums = {}
                wall, processors, labels = turn(
                    lambda images=mask[None]: _C.connected_components(images, num_threads=THREADS)
                )
                sums["kvision"] = checksum(np.reshape(labels, mask.shape))
                sides["kvision"].append((wall, processors))
                for peer in ("OpenCV", "cc3d"):
                    print(peer, path, file=peers.stdin, flush=True)
                    wall, processors, sums[peer] = map(float, peers.stdout.readline().split())
                    sides[peer].append((wall, processors))
                if len(set(sums.values())) > 1:
                    raise AssertionError(f"{name}: the labels differ: {sums}")
            print_rows(f"{name}, {mask.shape[0]} x {mask.shape[1]}", sides)
        peers.stdin.close()
    return None


def print_rows(name, sides):
    """A row a peer; ratios are medians of those of the rounds."""
    for peer in ("OpenCV", "cc3d"):
        cells = []
        for clock in (0, 1):
            own, theirs = ([times[clock] for times in sides[side]] for side in ("kvision", peer))
            ratio = statistics.median(b / a for a, b in zip(own, theirs, strict=True))
            cells += [f"{statistics.median(times):.2f}" for times in (own, theirs)]
            cells.append(f"{ratio:.1f}x")
        print(f"| {name} | {peer} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
