"""Pooling of regions from one map against torchvision."""

import numpy as np
import tensorflow as tf

from kvision import ops
from tests.conformance.comparison import Deviation, Row

HALF = ("float16", "bfloat16")


# --- torchvision.ops.roi_align, roi_pool


def draw_call(rng, dtypes):
    """Features, boxes and what both kinds of pooling take.

    Boxes reach from far outside the map to a single point; NaN and infinite corners are left out,
    for torchvision's kernels index memory with them.
    """
    dtype = str(rng.choice(dtypes))
    batch, height, width, channels = 2, *rng.integers(1, 24, 2), int(rng.choice([1, 3, 8]))
    scale = float(rng.choice([1.0, 0.5, 0.25, 1 / 16, 0.1]))
    count = 10
    centre = rng.uniform(-0.3, 1.3, (batch, count, 2)) * [width, height]
    extent = rng.uniform(0, 1.2, (batch, count, 2)) * [width, height]
    boxes = np.concatenate([centre - extent / 2, centre + extent / 2], axis=-1)
    kind = rng.choice(["continuous", "halves", "degenerate"], p=[0.4, 0.3, 0.3])
    if kind != "continuous":
        boxes = np.round(boxes * 2) / 2
    if kind == "degenerate":
        boxes = np.take_along_axis(boxes, rng.integers(0, 4, (batch, count, 4)), axis=-1)
        boxes[:, 0] = 1e4 * np.array([-1, -1, 1, 1]) * rng.choice([0.001, 1])
    # Both sides are given the same numbers, so whatever half precision cannot hold is left out.
    held = "float16" if dtype in HALF else dtype
    return {
        "features": rng.normal(size=(batch, height, width, channels)).astype(held).astype(dtype),
        "boxes": np.clip(boxes / scale, -6e4, 6e4)
        .astype(held)
        .astype("float64" if dtype == "float64" else "float32"),
        "dtype": dtype,
        "output_size": rng.integers(1, 8, 2),
        "spatial_scale": scale,
    }


def draw_align(rng, dtypes):
    call = draw_call(rng, dtypes)
    call |= {"sampling_ratio": int(rng.integers(0, 4)), "aligned": bool(rng.integers(2))}
    if call["sampling_ratio"] == 0:  # torchvision visits every sample of the largest boxes.
        limit = (15 if call["dtype"] == "float16" else 200) / call["spatial_scale"]
        call["boxes"] = np.clip(call["boxes"], -limit, limit)
    return call


def draw_gradient(draw):
    def drawn(rng):
        call = draw(rng, ("float32", "float64"))
        start, end = np.split(call["boxes"], 2, axis=2)  # torchvision's forward may raise.
        call["boxes"] = np.concatenate([np.minimum(start, end), np.maximum(start, end)], axis=2)
        shape = (*call["boxes"].shape[:2], *call["output_size"], call["features"].shape[3])
        return call | {"gradient": rng.normal(size=shape).astype(call["dtype"])}

    return drawn


def pooled(op):
    """Per box; with an upstream gradient, per image the gradient of the features."""

    def answer(call):
        call = dict(call)
        features, gradient = tf.constant(call.pop("features")), call.pop("gradient", None)
        dtype, output_size = call.pop("dtype"), tuple(call.pop("output_size").tolist())
        assert features.dtype == dtype
        with tf.GradientTape() as tape:
            tape.watch(features)
            output = getattr(ops, op)(features, call.pop("boxes"), output_size=output_size, **call)
        if gradient is None:
            return output.numpy().reshape(-1, *output.shape[2:])
        return tape.gradient(output, features, gradient).numpy()

    return answer


def round_half_away(values):
    return np.sign(values) * np.floor(np.abs(values) + 0.5)


def defined(pool):
    """The definition of one box, for every box of a call; of gradients, their sum."""

    def answer(call, arithmetic=None, **rule):
        dtype = call["dtype"]
        geometry = arithmetic or ("float32" if dtype in HALF else dtype)
        features = call["features"].astype(arithmetic or "float64")
        result = []
        gradient = np.zeros(features.shape)
        for image, boxes in enumerate(call["boxes"]):
            for index, box in enumerate(boxes):
                box = box.astype(geometry) * np.asarray(call["spatial_scale"], geometry)
                if "gradient" in call:
                    upstream = call["gradient"][image, index].astype("float64")
                    gradient[image] += pool(features[image], box, call, upstream)
                else:
                    with np.errstate(over="ignore"):  # In half precision it does.
                        result.append(pool(features[image], box, call, **rule))
        return gradient if "gradient" in call else np.stack(result)

    return answer


def pool_box(features, box, call, upstream=None):
    """RoIPool of one box: Girshick, "Fast R-CNN", 2015, with the rounding of its code."""
    height, width, channels = features.shape
    rows, columns = call["output_size"]
    start, end = round_half_away(box[:2]).astype(int), round_half_away(box[2:]).astype(int)
    extent = np.maximum(end - start + 1, 1)
    edges = []
    for bins, first, cells, size in zip(
        (columns, rows), start, extent, (width, height), strict=True
    ):
        bin_size = box.dtype.type(cells) / box.dtype.type(bins)
        steps = np.arange(bins + 1).astype(box.dtype) * bin_size
        low, high = np.floor(steps[:-1]).astype(int), np.ceil(steps[1:]).astype(int)
        edges.append(np.clip(np.stack([low, high], 1) + first, 0, size))
    output, gradient = np.zeros((rows, columns, channels)), np.zeros(features.shape)
    for i, (top, bottom) in enumerate(edges[1]):
        for j, (left, right) in enumerate(edges[0]):
            window = features[top:bottom, left:right].reshape(-1, channels)
            if len(window):
                output[i, j] = window.max(axis=0)
                place = np.argmax(window, axis=0)
                row, column = top + place // (right - left), left + place % (right - left)
                if upstream is not None:
                    gradient[row, column, np.arange(channels)] += upstream[i, j]
    return output if upstream is None else gradient


def align_box(features, box, call, upstream=None, raises=False):
    """RoIAlign of one box: He et al., "Mask R-CNN", 2017. Sums in the features' dtype."""
    kind = box.dtype.type
    height, width, channels = features.shape
    box = box - kind(0.5 if call["aligned"] else 0.0)
    extent = box[2:] - box[:2]
    if not call["aligned"]:
        extent = np.maximum(extent, kind(1))
    if raises and call["sampling_ratio"] == 0:
        counts = np.ceil(extent / call["output_size"][::-1].astype(box.dtype))
        if counts[0] * counts[1] < 0:
            return np.full((*call["output_size"], channels), np.nan)
    samples = []
    for bins, first, length, size in zip(
        call["output_size"][::-1], box[:2], extent, (width, height), strict=True
    ):
        bin_size = length / kind(bins)
        count = call["sampling_ratio"] or max(int(np.ceil(bin_size)), 0)
        steps = (np.arange(count) + 0.5).astype(box.dtype) * bin_size / kind(max(count, 1))
        positions = (first + np.arange(bins).astype(box.dtype) * bin_size)[:, None] + steps
        inside = (positions >= -1) & (positions <= size)
        positions = np.where(inside, np.maximum(positions, kind(0)), kind(0))
        low = np.minimum(np.floor(positions).astype(int), size - 1)
        high = np.minimum(low + 1, size - 1)
        fraction = np.where(low == high, kind(0), positions - low.astype(box.dtype))
        samples.append((low, high, fraction.astype(features.dtype), inside))
    (left, right, lx, in_x), (top, bottom, ly, in_y) = samples
    one = features.dtype.type(1)
    output = np.zeros((*call["output_size"], channels), features.dtype)
    gradient = np.zeros(features.shape, features.dtype)
    area = features.dtype.type(max(left.shape[1] * top.shape[1], 1))
    for v in range(top.shape[1]):
        for u in range(left.shape[1]):
            value = 0
            inside = in_y[:, v, None] & in_x[None, :, u]
            for y, wy in ((top, one - ly), (bottom, ly)):
                for x, wx in ((left, one - lx), (right, lx)):
                    weight = np.where(inside, wy[:, v, None] * wx[None, :, u], 0)
                    cells = y[:, v, None], x[None, :, u]
                    value = value + weight[..., None] * features[cells]
                    if upstream is not None:
                        np.add.at(gradient, cells, weight[..., None] * upstream / area)
            output += value
    return output / area if upstream is None else gradient


def pooling_tolerance(call, answer):
    """Rounding of sums of features, relative to the largest; results of half types round once."""
    unit = {"float64": 1e-12, "float32": 5e-6}.get(call["dtype"], 5e-6)
    terms = call["boxes"].shape[1] if "gradient" in call else 1
    rounding = np.spacing(np.abs(answer)).astype("float64") if call["dtype"] in HALF else 0
    return unit * terms * max(1, np.abs(call["features"].astype("float64")).max()) + rounding


IN_HALF = Deviation(
    "theirs",
    "coordinates, weights and sums of float16 features are float16",
    {"arithmetic": "float16"},
)
RAISES = Deviation(
    "theirs",
    "raises for a box reversed along one axis, its number of adaptive samples being negative",
    {"raises": True},
)


def boxes_of(call):
    return call["boxes"].shape[0] * call["boxes"].shape[1]


def images_of(call):
    return len(call["features"])


def rows(op, draw, define, deviations, stated):
    """Of a kind of pooling: its values, its values in half precision, and its gradient."""
    function, ours = f"torchvision.ops.{op}", pooled(op)
    return (
        Row("torchvision", function, op, lambda rng: draw(rng, ("float32", "float64")), ours,
            defined(define), pooling_tolerance, stated, deviations, cost=5, size=boxes_of),
        Row("torchvision", f"{function}, float16", op, lambda rng: draw(rng, ("float16",)), ours,
            defined(define), pooling_tolerance, "1 unit in the last place", (IN_HALF, *deviations),
            cost=10, size=boxes_of),
        Row("torchvision", f"{function}, gradient", op, draw_gradient(draw), ours,
            defined(define), pooling_tolerance, "5e-6 of the largest feature times boxes",
            cost=50, size=images_of),
    )  # fmt: skip


ROWS = (
    *rows("roi_align", draw_align, align_box, (RAISES,), "5e-6, in float64 1e-12, of the largest"),
    *rows("roi_pool", draw_call, pool_box, (), "5e-6, in float64 1e-12, of the largest feature"),
)  # fmt: skip
