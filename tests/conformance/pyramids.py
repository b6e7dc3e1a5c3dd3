"""Pooling of regions from a pyramid against KerasCV."""

import numpy as np

from kvision import ops
from tests.conformance.comparison import Deviation, Row
from tests.conformance.regions import align_box, boxes_of


def draw_pyramid(rng):
    """KerasCV knows square outputs, levels from P2 upwards and one sample a bin."""
    height, width = 8 * rng.integers(4, 14, 2)
    channels = int(rng.choice([1, 3], p=[0.9, 0.1]))
    image = 4 * np.array([width, height])
    extent = rng.choice([56, 112, 224, 448], (2, 10, 1)) * 2 ** rng.normal(0, 0.5, (2, 10, 2))
    if rng.random() < 0.3:  # Sides at which the level changes.
        extent = np.exp2(np.round(np.log2(extent / 7))) * 7
    corner = rng.uniform(0, 1, (2, 10, 2)) * np.maximum(image - extent, 0)
    if rng.random() < 0.3:
        corner += rng.normal(0, 50, (2, 10, 2))
    boxes = np.concatenate([corner, corner + extent], axis=-1).astype("float32")
    return {"boxes": boxes, "output_size": int(rng.integers(1, 8))} | {
        f"P{level}": rng.normal(
            size=(2, height >> (level - 2), width >> (level - 2), channels)
        ).astype("float32")
        for level in range(2, 6)
    }


def our_aligner(call):
    call = dict(call)
    boxes, output_size = call.pop("boxes"), call.pop("output_size")
    output = ops.multiscale_roi_align(call, boxes, output_size=output_size, sampling_ratio=1,
                                      aligned=False)  # fmt: skip
    return np.asarray(output).reshape(-1, *output.shape[2:])


def define_aligner(call, extrapolate=False, raises=False, margin=1e-6):
    """RoIAlign with one sample a bin on the level floor(4 + log2(sqrt(area) / 224) + margin)."""
    result = []
    for image, boxes in enumerate(call["boxes"]):
        for box in boxes:
            side = float(np.sqrt(np.prod(np.maximum(box[2:] - box[:2], 0))))
            level = 4 + np.log2(max(side, 1e-9) / 224) + margin
            level = int(np.clip(np.floor(level), 2, 5))
            features = call[f"P{level}"][image].astype("float64")
            bins = np.full(2, call["output_size"])
            if raises and features.shape[-1] > 1:
                result.append(np.full((*bins, features.shape[-1]), np.nan))
            elif extrapolate:
                size = np.array(call["P2"].shape[1:3]) / 2 ** (level - 2)
                result.append(extrapolated(features, box / 2**level, bins, size - 1))
            else:
                rule = {"output_size": bins, "sampling_ratio": 1, "aligned": False}
                result.append(align_box(features, box / np.float32(2**level), rule))
    return np.stack(result)


def extrapolated(features, box, bins, last):
    """KerasCV's samples: continued linearly before the first cell, held at the last of P2's."""
    axes = []
    for axis in (1, 0):  # y, x
        bin_size = (box[axis + 2] - box[axis]) / bins[axis]
        position = box[axis] + (np.arange(bins[axis]) + 0.5) * bin_size
        low = np.minimum(np.maximum(np.floor(position), 0), last[1 - axis])
        axes.append((low, np.minimum(low + 1, last[1 - axis]), position - low))
    result = 0
    (top, bottom, ly), (left, right, lx) = axes
    for y, wy in ((top, 1 - ly), (bottom, ly)):
        for x, wx in ((left, 1 - lx), (right, lx)):
            weight = wy[:, None, None] * wx[None, :, None]
            result = result + weight * features[y.astype(int)[:, None], x.astype(int)[None]]
    return result


EXTRAPOLATES = Deviation(
    "theirs",
    "samples off the map continue it linearly or hold its last cell, instead of zero",
    {"extrapolate": True},
)
ONE_CHANNEL = Deviation(
    "theirs", "raises for more than one channel under Keras 3", {"raises": True}
)
NO_MARGIN = Deviation(
    "theirs",
    "a side short of a level's by rounding alone belongs to the level below",
    {"margin": 0.0},
)

ROWS = (
    Row("keras_cv", "keras_cv.layers._ROIAligner", "multiscale_roi_align", draw_pyramid,
        our_aligner, define_aligner, lambda call, answer: 1e-4, "1e-4",
        (EXTRAPOLATES, ONE_CHANNEL, NO_MARGIN), cost=10, size=boxes_of),
)  # fmt: skip
