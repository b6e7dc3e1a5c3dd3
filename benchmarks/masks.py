"""Masks of instances on the CPU, from images to boxes and back, against torchvision.

An image of 1024 x 1024 with 40 instances: 28 x 28 targets of 128 boxes, and 100 masks of 28 x 28
pasted. kvision is given a label map or run lengths, and gives such; torchvision takes and gives
masks of the size of the image, which it is given ready. Peak memory is compared too. How it is
measured: `_versus.py`.

    python benchmarks/masks.py --peer PATH/TO/PYTHON/WITH/TORCHVISION
"""

import functools

import numpy as np
from _versus import Workload, main

BINS = 28
# The side of an image, and its numbers of instances and of boxes; and of one of hardly any size.
LARGE, SMALL = (1024, 40, 128), (64, 4, 4)
DETECTIONS = (1024, 40, 100)


@functools.cache
def scene(side, instances, number):
    """A label map of ellipses, boxes around them, not quite, the row of each, and an image."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    label_map = np.zeros((1, side, side), "int32")
    boxes = []
    for i in range(instances):
        centre, radii = rng.uniform(0.1, 0.9, 2) * side, rng.uniform(0.02, 0.12, 2) * side
        inside = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 < 1
        label_map[0, inside] = i + 1
        boxes.append([*(centre - radii), *(centre + radii)])
    rows = rng.integers(0, instances, (1, number)).astype("int32")
    boxes = np.array(boxes)[rows] + rng.normal(0, 0.01 * side, (1, number, 4))
    boxes[..., 2:] = np.maximum(boxes[..., 2:], boxes[..., :2] + 2)
    return label_map, boxes.astype("float32"), rows, np.zeros((side, side), bool)


def masks_of(label_map):
    """Of each instance `(height, width)`; torchvision's form."""
    return (label_map[0] == np.arange(1, label_map.max() + 1)[:, None, None]).astype("uint8")


def with_run_lengths(label_map, *rest):
    """The scene with run lengths in place of the label map."""
    side = label_map.shape[1]
    runs = np.zeros((1, label_map.max(), 2 * side + 2), "int32")
    for row, mask in zip(runs[0], masks_of(label_map), strict=True):
        pixels = mask.T.ravel()
        ends = np.append(np.flatnonzero(np.diff(pixels, prepend=0)), side * side)
        row[: len(ends)] = np.diff(ends, prepend=0)
    return runs, *rest


def with_dense_masks(label_map, boxes, rows, image):
    """The scene as torchvision takes it."""
    return masks_of(label_map), boxes[0], rows[0].astype("int64"), image


def detections(*sizes):
    """Masks with one hump, their boxes, and an image."""
    _, boxes, _, image = scene(*sizes)
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:BINS, :BINS] / (BINS - 1) * 2 - 1
    radii = rng.uniform(0.6, 1, (*boxes.shape[:2], 1, 1))
    return (1 / (1 + np.exp(8 * (x**2 + y**2 - radii)))).astype("float32"), boxes, image


def crop_label_map(label_map, boxes, rows, image):
    """Targets `(1, boxes, BINS, BINS)`."""
    from kvision.ops import crop_masks

    return crop_masks(label_map, boxes, rows, output_size=BINS)


def crop_runs(runs, boxes, rows, image):
    """The same of run lengths."""
    from kvision.ops import crop_masks

    return crop_masks(runs, boxes, rows, output_size=BINS, image_size=tuple(image.shape))


def crop_by_torchvision(masks, boxes, rows, image):
    """The same of masks `(instances, height, width)`."""
    from torchvision.models.detection.roi_heads import project_masks_on_boxes

    return project_masks_on_boxes(masks, boxes, rows, BINS)


def paste(form):
    """The pixels of detections, in a form."""

    def pasted(masks, boxes, image):
        from kvision.ops import paste_masks

        size = tuple(image.shape)
        return paste_masks(masks, boxes, image_size=size, form=form, rule="torchvision")

    return pasted


def paste_by_torchvision(masks, boxes, image):
    """The same as masks `(detections, height, width)`."""
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    return paste_masks_in_image(masks[0, :, None], boxes[0], tuple(image.shape))[:, 0] >= 0.5


def pixels_of_image(results):
    """How many pixels are of an instance, in a label map or in masks."""
    (result,) = results
    return float(np.count_nonzero(result.any(axis=0) if result.dtype == bool else result))


def pixels_of_masks(results):
    """How many pixels masks have together, by themselves or in run lengths."""
    (result,) = results
    return float(result.sum() if result.dtype == bool else result[..., 1::2].sum())


if __name__ == "__main__":
    # torchvision makes its masks of the label map, whatever form kvision is given.
    targets = {
        "torchvision": crop_by_torchvision,
        "tolerance": {"torchvision": 1e-5},
    }
    pasted = {
        "inputs": lambda: detections(*DETECTIONS),
        "small_inputs": lambda: detections(*SMALL),
        "torchvision": paste_by_torchvision,
        "tolerance": {"torchvision": 1e-4},  # pixels at the threshold
    }
    main(
        __doc__.partition("\n")[0],
        {
            "targets of a label map": Workload(
                inputs=lambda: scene(*LARGE),
                small_inputs=lambda: scene(*SMALL),
                kvision=crop_label_map,
                for_torchvision=with_dense_masks,
                **targets,
            ),
            "targets of run lengths": Workload(
                inputs=lambda: with_run_lengths(*scene(*LARGE)),
                kvision=crop_runs,
                for_torchvision=lambda runs, *rest: with_dense_masks(*scene(*LARGE)),
                **targets,
            ),
            "paste into a label map": Workload(
                kvision=paste("label_map"), checksum=pixels_of_image, **pasted
            ),
            "paste to run lengths": Workload(
                kvision=paste("runs"), checksum=pixels_of_masks, **pasted
            ),
        },
    )
