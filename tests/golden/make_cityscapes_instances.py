"""Golden AP of Cityscapes' own script, `evalInstanceLevelSemanticLabeling`, on painted instances.

Run in an environment with cityscapesscripts: `python tests/golden/make_cityscapes_instances.py`.
The script calls `np.in1d`, which NumPy 2.4 has no more.

Objects of two classes and a third that is never found, groups, small objects, void, detections that
overlap each other, of several an object, and of equal scores.
"""

import tempfile
from importlib.metadata import version
from pathlib import Path

import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as script
import numpy as np
from PIL import Image

NUM_IMAGES, SIZE, NUM_OBJECTS, NUM_FOUND = 6, (64, 96), 9, 14
CLASSES = (24, 26, 33)  # person, car, bicycle
VOID = 4  # "static"


def ellipse(rng, centre=None, radii=None):
    rows, columns = np.indices(SIZE)
    y, x = rng.uniform(0, SIZE) if centre is None else centre
    height, width = rng.uniform(3, 16, 2) if radii is None else radii
    return ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 <= 1, (y, x), (height, width)


def paint(rng):
    """An instance map in Cityscapes' numbers, and detections `(masks, classes, scores)`."""
    truth = np.full(SIZE, 7, "int32")  # road
    truth[:6] = VOID
    shapes = []
    for number in range(NUM_OBJECTS):
        mask, centre, radii = ellipse(rng)
        label = CLASSES[rng.integers(2) if number else 2]
        is_group = rng.random() < 0.2
        truth[mask] = label if is_group else 1000 * label + number
        shapes.append((label, centre, radii))
    masks, labels, scores = [], [], []
    for _ in range(NUM_FOUND):
        label, centre, radii = shapes[rng.integers(1, NUM_OBJECTS)]
        if rng.random() < 0.2:
            centre = radii = None
        else:
            centre = np.array(centre) + rng.normal(0, 1, 2)
            radii = np.array(radii) * rng.uniform(0.85, 1.1, 2)
        masks.append(ellipse(rng, centre, radii)[0])
        labels.append(label if rng.random() < 0.9 else 24)
        scores.append(rng.integers(1, 30) / 32)
    return truth, np.stack(masks), np.array(labels), np.array(scores)


def evaluate(samples, folder):
    files = []
    for index, (truth, masks, labels, scores) in enumerate(samples):
        name = f"city_{index:06d}_000000"
        truth_file = folder / f"{name}_gtFine_instanceIds.png"
        Image.fromarray(truth.astype("uint16")).save(truth_file)
        lines = []
        for row, mask in enumerate(masks):
            Image.fromarray(mask.astype("uint8") * 255).save(folder / f"{name}_{row}.png")
            lines.append(f"{name}_{row}.png {labels[row]} {scores[row]}")
        found_file = folder / f"{name}_found.txt"
        found_file.write_text("\n".join(lines) + "\n")
        files.append((str(found_file), str(truth_file)))
    args = script.args
    args.predictionPath, args.quiet, args.JSONOutput = str(folder), True, False
    args.gtInstancesFile = str(folder / "truth.json")
    script.writeDict2JSON = lambda *_: None
    np.in1d = np.isin  # noqa: NPY201
    results = script.evaluateImgLists(*map(list, zip(*files, strict=True)), args)
    rows = [results["instLabels"].index(name) for name in ("person", "car", "bicycle")]
    return np.array(results["resultApMatrix"])[0, rows]


def main():
    rng = np.random.default_rng(5)
    samples = [paint(rng) for _ in range(NUM_IMAGES)]
    with tempfile.TemporaryDirectory() as folder:
        average_precision = evaluate(samples, Path(folder).resolve())
    truth, masks, labels, scores = (np.stack(x) for x in zip(*samples, strict=True))
    np.savez_compressed(
        Path(__file__).with_name("cityscapes_instances.npz"),
        cityscapesscripts=version("cityscapesscripts"),
        truth=truth,
        masks=np.packbits(masks, axis=-1),
        labels=labels,
        scores=scores,
        average_precision=average_precision,
    )


if __name__ == "__main__":
    main()
