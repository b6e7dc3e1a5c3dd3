"""Watershed targets on the CPU, against what others need for the distance alone: OpenCV and edt.

Label maps of 1024 x 2048: 60 instances, and 6 large ones that touch; with the image's border
outside, and not. OpenCV transforms one instance after the other, precisely, each within its box,
which is known beforehand; a border that is outside is a frame of zeros there. edt takes the label
map. The sides take turns in one run: kvision in this process with two threads, the peers in one of
their own with two threads. The distances have to be equal to 1e-4. Printed are medians of the wall
clock and of the processors' time, which tells more where others work on the machine, too; ratios
are to the faster peer.

All results are allocated anew, on both sides: 40 MB for the four targets, 8 MB for a distance. What
that costs turns on malloc. `--memory` says what it does: "default"; "kept", on both sides, so that
no time goes into pages; or "fresh", on both sides: the system finds and clears pages for each
array, which takes as long as the targets.

    python benchmarks/watershed_targets.py [--imaging PATH/TO/PYTHON/WITH/OPENCV/AND/EDT]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _turns import turn

THREADS = 2
ROOT = Path(__file__).resolve().parents[1]
SHAPE = (1024, 2048)
PEERS = ("OpenCV", "edt")
# For malloc: from which size on memory is the system's, and how much is kept.
MEMORY = {
    "default": {},
    "kept": {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)},
    "fresh": {"MALLOC_MMAP_THRESHOLD_": str(2**17)},
}


def sixty(seed=0):
    """Ellipses, later ones over earlier."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    instances = np.zeros(SHAPE, "int32")
    for i in range(60):
        centre, radii = rng.uniform(0, SHAPE), rng.uniform(25, 125, 2)
        inside = ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1
        instances[inside] = i + 1
    return instances


def six():
    """Rectangles of half the height and a third of the width, a rim of background around all."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    instances = 1 + y * 2 // SHAPE[0] * 3 + x * 3 // SHAPE[1]
    rim = (np.minimum(y, SHAPE[0] - 1 - y) < 8) | (np.minimum(x, SHAPE[1] - 1 - x) < 8)
    return np.where(rim, 0, instances).astype("int32")


def opencv(instances, boxes, border_is_outside):
    """The distances, instance by instance; `boxes` are slices, a pixel wider than the instances."""
    import cv2

    result = np.zeros(instances.shape, "float32")
    for instance, box in boxes.items():
        mask = instances[box] == instance
        if border_is_outside:
            framed = np.pad(mask, 1).view("uint8")
            distance = cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            distance = distance[1:-1, 1:-1]
        else:
            distance = cv2.distanceTransform(mask.view("uint8"), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        np.copyto(result[box], distance, where=mask)
    return result


def boxes_of(instances):
    """The slices of each instance, with a pixel around them where there is one."""
    boxes = {}
    for instance in np.unique(instances[instances > 0]):
        axes = np.nonzero(instances == instance)
        boxes[instance] = tuple(slice(max(i.min() - 1, 0), i.max() + 2) for i in axes)
    return boxes


def serve():
    """The peers' side: asked for a library and a map, answers with times, and leaves its result."""
    import cv2
    import edt

    cv2.setNumThreads(THREADS)
    boxes = {}
    for line in sys.stdin:
        library, outside, folder, name = line.rstrip("\n").split("\t")
        instances, outside = np.load(f"{folder}/{name}.npy"), outside == "True"
        if name not in boxes:
            boxes[name] = boxes_of(instances)
        if library == "OpenCV":
            wall, processors, result = turn(
                lambda args=(instances, boxes[name], outside): opencv(*args)
            )
        else:
            wall, processors, result = turn(
                lambda i=instances, o=outside: edt.edt(i, black_border=o, parallel=THREADS)
            )
        np.save(f"{folder}/result.npy", result)
        print(wall, processors, flush=True)


def main():
    """Prints a line a map and border; or serves as the peers, with `--serve`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--imaging", default=ROOT / "build/peers/imaging/bin/python")
    parser.add_argument("--peer", help="not needed here: every benchmark is given it")
    parser.add_argument("--memory", choices=MEMORY, default="default", help="what malloc does")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    memory = MEMORY[arguments.memory]
    if memory.items() - os.environ.items():  # malloc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **memory})
    print("| map | border | side | ms | ratio | CPU ms | ratio |\n|---|---|---|---|---|---|---|")
    command = [arguments.imaging, __file__, "--serve"]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as peers,
    ):
        for name, instances in {"60 instances": sixty(), "6 large": six()}.items():
            np.save(f"{folder}/{name}.npy", instances)
            for outside in (False, True):
                times = measure(instances, name, outside, folder, peers, arguments.rounds)
                border = "outside" if outside else "no outside"
                print_rows(f"| {name} | {border} |", times)
        peers.stdin.close()
    return None


def measure(instances, name, outside, folder, peers, rounds):
    """`(wall, processors)` of every round, by side."""
    from kvision import _C
    from kvision.ops import DWT_EDGES

    border = {"image_border_is_outside": outside, "num_threads": THREADS}
    sides = {
        "kvision, distance": lambda: _C.distance_transform(instances[None], **border),
        "kvision, all four": lambda: _C.watershed_targets(
            instances[None], level_edges=list(DWT_EDGES), **border
        )[0],
    }
    times = {side: [] for side in (*sides, *PEERS)}
    for _ in range(rounds):
        for side, function in sides.items():
            wall, processors, result = turn(function)
            times[side].append((wall, processors))
        for peer in PEERS:
            print(peer, outside, folder, name, sep="\t", file=peers.stdin, flush=True)
            times[peer].append(tuple(map(float, peers.stdout.readline().split())))
            theirs = np.load(f"{folder}/result.npy")
            np.testing.assert_allclose(np.reshape(result, SHAPE), theirs, atol=1e-4)
    return times


def print_rows(start, times):
    """A row a side; ratios are medians of those of the rounds, of kvision's sides alone."""
    for side, own in times.items():
        cells = []
        for clock in (0, 1):
            peers = zip(*(times[peer] for peer in PEERS), strict=True)
            fastest = [min(one[clock] for one in both) for both in peers]
            ratio = statistics.median(b / a[clock] for a, b in zip(own, fastest, strict=True))
            cells.append(f"{statistics.median(one[clock] for one in own):.1f}")
            cells.append(f"{ratio:.1f}x" if side not in PEERS else "")
        print(f"{start} {side} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
