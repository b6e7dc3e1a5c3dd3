"""The calls that every op is checked with: ordinary, at its edges, and on nasty numbers.

They are calls of native ops by name, on NumPy arrays; a door (`doors.py`) turns those into its own.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np

NAN, INF = np.nan, np.inf
FLOATS = ("float32", "bfloat16", "float16", "float64")


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an op.

    Attributes:
        op: Name of the native op.
        label: What is peculiar about it.
        tensors: Arrays, or lists of them.
        attributes: Its attributes by name.
        tolerance: Greatest difference of a floating output from that of the CPU, relative to the
            greatest magnitude of that output; 0 demands equal values.
        gradient_tolerance: Likewise, of a gradient.
        nasty_upstream: Whether NaN and infinity arrive as gradients, too.
    """

    op: str
    label: str
    tensors: Sequence[object]
    attributes: Mapping[str, object]
    tolerance: float = 0.0
    gradient_tolerance: float = 0.0
    nasty_upstream: bool = False

    @property
    def name(self):
        """Of the op, with what is peculiar about the call."""
        return f"{self.op} {self.label}"


def rounded(values, dtype):
    """An array of a dtype, of bfloat16 too."""
    return np.asarray(values).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


# Sums of the same terms in another order, with and without fused multiplications: a few roundings
# of float32 or float64. Half types are summed in float32 and rounded once, which can fall to either
# side.
_SUMS = {"float32": 2e-6, "float64": 1e-12, "bfloat16": 2.0**-7, "float16": 2.0**-10}


def all_calls(small=False, seed=0):
    """Every call; only a few small ones of each op where every access is watched."""
    rng = np.random.default_rng(seed)
    for calls in (
        _roi_align,
        _roi_pool,
        _max_pool,
        _suppression,
        _decay,
        _match_boxes,
        _box_iou,
        _border_weight_map,
        _components,
        _crop_masks,
        _paste_masks,
        _watershed_targets,
        _atrous_pyramid_pooling,
        _depthwise_atrous_pyramid_pooling,
    ):
        yield from calls(rng, small)


def boxes_in(rng, shape, size, largest=0.6, dtype="float32"):
    """Boxes around anywhere in a square, small ones more often, some of them over its edge."""
    centre = rng.random((*shape, 2)) * size
    half = rng.random((*shape, 2)) ** 2 * (size * largest / 2)
    return np.concatenate([centre - half, centre + half], -1).astype(dtype)


def _nasty(boxes, size):
    """The boxes with some of them not finite, empty, reversed, huge, or off the map."""
    boxes = boxes.copy()
    rows = boxes.reshape(-1, 4)
    strange = [
        (NAN, 0, 5, 5), (0, 0, INF, 5), (-INF, -INF, INF, INF), (5, 5, 5, 5), (9, 9, 3, 3),
        (-1e30, -1e30, 1e30, 1e30), (0, 0, 3e38, 3e38), (-50, -50, 2 * size, 2 * size),
        (size - 0.5, size - 0.5, size + 3, size + 3), (1, 1, 1.001, 1.001),
        (-3.4e38, 0, 3.4e38, 9), (2, 2, 9, 2), (-9, -9, -1, -1),
    ]  # fmt: skip
    for i, box in enumerate(strange[: len(rows)]):
        rows[(i * 7 + 1) % len(rows)] = box
    return boxes


def _box_dtype(dtype):
    return "float64" if dtype == "float64" else "float32"


def _roi_align(rng, small):
    # Channels, bins, sampling ratio: packs of 4 channels and single ones, tall and wide grids.
    cases = [(20, (7, 7), 2), (8, (3, 5), 0), (5, (9, 33), 2)]
    if not small:
        cases += [(256, (7, 7), 0), (256, (7, 7), 2), (72, (14, 14), 2), (1, (2, 3), 0)]
        cases += [(8, (7, 7), 20), (4, (1, 30), 1), (5, (2, 3), 0)]
    for dtype in FLOATS[: 2 if small else 4]:
        for channels, (height, width), ratio in cases:
            yield _roi_align_call(rng, dtype, channels, height, width, ratio)
    if small:
        return
    # A position on a map 300 wide is a float32 to 3e-5 of a cell, and so are the weights; some of
    # that averages out.
    features = rng.random((1, 300, 300, 4), "float32")
    boxes = np.array([[(0, 0, 299, 299), (5, 5, 250, 280)]], "float32")
    for ratio in (0, 20, 128):
        label = f"huge boxes, ratio {ratio}"
        yield _on_one_map(features, boxes, (1, 2), ratio, label, 3e-5)
    features = rng.normal(size=(1, 20, 20, 8)).astype("float32")
    # 1700 boxes add up in each cell.
    yield _on_one_map(features, boxes_in(rng, (1, 1700), 20), (7, 7), 2, "boxes in heaps", 1e-5)
    for batch, number in ((0, 3), (2, 0)):
        features = np.zeros((batch, 5, 5, 8), "float32")
        boxes = np.zeros((batch, number, 4), "float32")
        yield _on_one_map(features, boxes, (2, 2), 0, f"{number} boxes on {batch} images", 0)


def _roi_align_call(rng, dtype, channels, height, width, ratio):
    sizes, scales = [(50, 61), (25, 31), (0, 7), (1, 1)], [1 / 4, 1 / 8, 1 / 16, 1 / 128]
    maps = [rounded(rng.normal(size=(2, h, w, channels)), dtype) for h, w in sizes]
    boxes = boxes_in(rng, (2, 37), 220, 1.5 if channels == 20 else 0.6, _box_dtype(dtype))
    levels = rng.integers(-1, 6, (2, 37)).astype("int32")
    not_finite = channels == 5
    if channels != 20:
        boxes = _nasty(boxes, 220)
    if not_finite:
        maps[0][0, 3, 3], maps[1][1, 2, 2] = NAN, INF
        # A weight of 1e-60 is 0 in float32, and 0 times infinity is not 0.
        boxes[np.abs(boxes) > 1e6] = 3
    attributes = {
        "spatial_scales": scales,
        "output_height": height,
        "output_width": width,
        "sampling_ratio": ratio,
        "aligned": bool(channels % 8),
    }
    label = f"{dtype}, {channels} channels, {height} x {width}, ratio {ratio}"
    limits = _SUMS[dtype], 2 * _SUMS[dtype]
    return Call("roi_align", label, [maps, boxes, levels], attributes, *limits, not_finite)


def _on_one_map(features, boxes, bins, ratio, label, tolerance):
    attributes = {
        "spatial_scales": [1.0],
        "output_height": bins[0],
        "output_width": bins[1],
        "sampling_ratio": ratio,
        "aligned": True,
    }
    tensors = [[features], boxes, np.zeros(boxes.shape[:2], "int32")]
    return Call("roi_align", label, tensors, attributes, tolerance, tolerance)


def _roi_pool(rng, small):
    for dtype in FLOATS:
        for channels in (20,) if small else (256, 20, 5):
            for bins in ((7, 7), (3, 40)):
                for height, width in ((33, 50), (1, 1), (0, 4)):
                    if channels == 256 and height < 33:
                        continue
                    features = rounded(rng.normal(size=(2, height, width, channels)), dtype)
                    if channels == 5 and height > 9:
                        features[0, :9], features[1, 3] = NAN, INF
                    if channels == 20:
                        features = rounded(np.round(features.astype("float32")), dtype)  # ties
                    boxes = _nasty(boxes_in(rng, (2, 41), 200, dtype=_box_dtype(dtype)), 200)
                    size = dict(zip(("output_height", "output_width"), bins, strict=True))
                    label = f"{dtype}, {height} x {width} x {channels} to {bins[0]} x {bins[1]}"
                    yield Call(
                        "roi_pool", label, [features, boxes], {"spatial_scale": 0.25, **size},
                        0, 2 * _SUMS[dtype],
                    )  # fmt: skip


def _max_pool(rng, small):
    # Map, channels, size of a window, stride, offset: in packs and single channels; apart, with a
    # rest, overlapping, with gaps.
    cases = [((9, 14), 20, 2, 2, 0), ((9, 7), 5, 3, 2, 1), ((0, 4), 4, 2, 2, 0)]
    if not small:
        cases += [((128, 96), 64, 2, 2, 0), ((45, 60), 72, 2, 2, 0), ((56, 56), 64, 3, 2, 1)]
        cases += [((33, 17), 130, 3, 1, 1), ((20, 20), 1, 2, 5, 0), ((40, 30), 8, 40, 40, 5)]
    for dtype in FLOATS:
        for (height, width), channels, length, stride, offset in cases:
            x = rng.normal(size=(3, height, width, channels))
            if channels % 4 == 0:
                x = np.round(x)  # ties
            if channels == 5:
                x[0, :4], x[1, 3] = NAN, INF
            rows, columns = (-(-(size + offset) // stride) for size in (height, width))
            shape = (3, rows, columns, channels) if height else (3, 0, 0, channels)
            label = f"{dtype}, {height} x {width} x {channels}, {length} by {stride}"
            yield Call(
                "max_pool_with_argmax",
                label,
                [rounded(x, dtype)],
                {"pool_size": [length] * 2, "strides": [stride] * 2, "offset": [offset] * 2,
                 "output_shape": shape},
                0, 2 * _SUMS[dtype],
            )  # fmt: skip
            if not height:
                continue
            # The places of blocks, and any places at all.
            blocks = (3, height // 2, width // 2, channels)
            y, x = (
                2 * np.arange(n).reshape(s) + rng.integers(0, 2, blocks)
                for n, s in ((blocks[1], (-1, 1, 1)), (blocks[2], (-1, 1)))
            )
            anywhere = rng.integers(0, height * width, shape)
            for kind, argmax in (("blocks", y * width + x), ("any places", anywhere)):
                tensors = [rounded(rng.normal(size=argmax.shape), dtype), argmax.astype("int32")]
                attributes = {"output_shape": (3, height, width, channels)}
                yield Call("max_unpool", f"{label}, {kind}", tensors, attributes, 2 * _SUMS[dtype])


def _scored(rng, number, spread, side, ties):
    half = rng.random((number, 2)) * (side / 2)
    centre = rng.random((number, 2)) * spread
    scores = rng.normal(size=number)
    scores = np.round(scores * 4) / 4 if ties else scores
    return np.concatenate([centre - half, centre + half], -1).astype("float32"), scores.astype(
        "float32"
    )


def _suppression(rng, small):
    def nms(label, boxes, scores, iou, score=-INF, size=-1):
        attributes = {"iou_threshold": iou, "score_threshold": score, "max_output_size": size}
        label = f"{label}, over {iou}, scores over {score}, at most {size}"
        return Call("nms", label, [boxes.astype("float32"), scores], attributes)

    settings = [(0.5, -INF, -1), (0.7, 0.0, -1), (0.0, -0.5, 50), (1.0, -INF, 3000), (0.3, 0.2, 7)]
    # Around the 64 bits of a mask's word, and around the chunks of boxes that are worked through.
    numbers = (0, 1, 65, 700) if small else (0, 1, 63, 64, 65, 700, 2047, 2049, 6200, 30000)
    for i, number in enumerate(numbers):
        for j, (spread, side, ties) in enumerate(((100, 60, 0), (2000, 60, 1), (8, 8, 1))):
            boxes, scores = _scored(rng, number, spread, side, ties)
            yield nms(f"{number} boxes", boxes, scores, *settings[(i + j) % 5])
            if number >= 64:
                boxes, scores = _nasty(boxes, spread), scores.copy()
                scores[[3, 5, 9, 11, 12]] = NAN, INF, -INF, 0.0, -0.0
                boxes[20] = boxes[21]
                yield nms(f"{number} nasty boxes", boxes, scores, *settings[(i + j + 2) % 5])
    number = 500 if small else 9000
    left = np.arange(number) * 3.0
    chain = np.stack([left, 0 * left, left + 9, 0 * left + 1], -1)
    for scale in (1.0,) if small else (1.0, 1e-18, 1e-22, 1e18):
        yield nms(f"a chain at {scale}", chain * scale, -np.arange(number, dtype="float32"), 0.4)
    corner = rng.integers(0, 12, (number // 3, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 6, corner.shape)], -1)
    for iou in (0.5, 1 / 3):  # quotients at the threshold
        yield nms("small integers", boxes, rng.random(len(boxes), "float32"), iou)
    yield from _batched_nms(rng, small)


def _batched_nms(rng, small):
    layouts = [(2, 50, 3, 1), (3, 200, 5, 5), (2, 0, 3, 1), (1, 1, 1, 1)]
    if not small:
        layouts += [(2, 5000, 2, 1), (4, 1000, 20, 20), (1, 2500, 3, 3), (0, 5, 2, 1)]
    for batch, number, classes, with_boxes in layouts:
        boxes, _ = _scored(rng, batch * number * with_boxes, 100, 50, 1)
        boxes = boxes.reshape(batch, number, with_boxes, 4)
        scores = np.round(rng.normal(size=(batch, number, classes)) * 8) / 8
        if number == 200:
            boxes, scores[0, :5] = _nasty(boxes, 100), NAN
        for iou, score, size, size_per_class in (
            (0.5, 0.0, 100, 100),
            (0.3, -INF, 3000, 7),
            (0.7, 5.0, 10, 10),
        ):
            attributes = {
                "iou_threshold": iou,
                "score_threshold": score,
                "max_output_size": size,
                "max_output_size_per_class": size_per_class,
            }
            label = f"{batch} x {number} x {classes}, {with_boxes} boxes each, at most {size}"
            yield Call("batched_nms", label, [boxes, scores.astype("float32")], attributes)


def _decay(rng, small):
    for op, sigma in (("soft_nms", 0.5), ("matrix_nms", 2.0)):
        for number in (0, 1, 64, 300) if small else (0, 1, 64, 500, 3000):
            boxes, scores = _scored(rng, number, 100, 50, 1)
            if number >= 64:
                boxes, scores[3], scores[5] = _nasty(boxes, 100), NAN, INF
            labels = rng.integers(0, 3, number).astype("int32")
            for size in (-1, 20):
                attributes = {
                    "method": "linear",
                    "sigma": sigma,
                    "score_threshold": 0.05,
                    "max_output_size": size,
                }
                if op == "soft_nms":
                    attributes["iou_threshold"] = 0.3
                label = f"{number} boxes, at most {size}"
                tensors = [boxes, scores, labels]
                yield Call(op, f"linear, {label}", tensors, attributes)
                # Two exponential functions: the order of near ties is not held to the CPU's, but
                # the scores are.
                attributes = {**attributes, "method": "gaussian"}
                yield Call(op, f"gaussian, {label}", tensors, attributes, 1e-5)


def _match_boxes(rng, small):
    # Images, candidates, boxes, sets of candidates.
    layouts = [(2, 100, 7, 1), (3, 1000, 0, 3), (2, 0, 3, 1), (1, 257, 129, 1)]
    if not small:
        layouts += [(0, 5, 3, 0), (2, 3000, 300, 1), (5, 5000, 100, 5)]
    for batch, candidates, number, sets in layouts:
        boxes = boxes_in(rng, (batch, number), 100)
        others = boxes_in(rng, (sets, candidates), 100)
        if candidates >= 1000:
            boxes, others = _nasty(boxes, 100), _nasty(others, 100)
        if candidates and number and batch:
            others[0, 0] = others[0, -1] = boxes[0, 0]
        if batch == 5:
            boxes, others = np.round(boxes), np.round(others)  # ties
        valid = rng.random((batch, number)) > 0.2
        crowd = rng.random((batch, number)) > 0.9
        for positive, negative, overlap, low in (
            (0.7, 0.3, 0.5, True),
            (0.5, 0.5, 0.7, False),
            (0.5, 0.4, 0.0, True),
        ):
            attributes = {
                "positive_threshold": positive,
                "negative_threshold": negative,
                "allow_low_quality": low,
                "crowd_overlap": overlap,
            }
            label = f"{batch} x {candidates} x {number}, {sets} sets, over {positive}"
            yield Call("match_boxes", label, [boxes, valid, crowd, others], attributes)


def _box_iou(rng, small):
    # Quotients of sums of products; the gradients are sums over the other boxes of such.
    for dtype, tolerance in (("float32", 3e-6), ("float64", 1e-13)):
        for kind in ("iou", "giou", "diou", "ciou"):
            for batch, first, second in ((2, 33, 70), (1, 200, 129), (2, 0, 5), (2, 5, 0)):
                if small and first == 200:
                    continue
                boxes1 = boxes_in(rng, (batch, first), 50, dtype=dtype)
                boxes2 = boxes_in(rng, (batch, second), 50, dtype=dtype)
                if first == 33:
                    boxes1, boxes2 = _nasty(boxes1, 50), _nasty(boxes2, 50)
                if first and second:
                    boxes1[0, 0] = boxes2[0, 0]
                limits = tolerance, 10 * tolerance
                label = f"{kind} {dtype}, {batch} x {first} x {second}"
                yield Call("pairwise_iou", label, [boxes1, boxes2], {"kind": kind}, *limits)
                same = _nasty(boxes_in(rng, (batch, first), 50, dtype=dtype), 50)
                yield Call("elementwise_iou", label, [boxes1, same], {"kind": kind}, *limits)


def _border_weight_map(rng, small):
    # Images, height, width; the side of the patches that are drawn.
    layouts = [(2, 33, 70, 4), (1, 1, 50, 1), (1, 50, 1, 2), (2, 0, 5, 1), (1, 40, 40, 50)]
    if not small:
        layouts += [(3, 256, 255, 9), (1, 700, 300, 40), (0, 5, 5, 1)]
    for batch, height, width, side in layouts:
        ids = rng.integers(-2, 6, (batch, height // side + 1, width // side + 1))
        ids = ids.repeat(side, 1).repeat(side, 2)[:, :height, :width].astype("int32")
        for background, border, sigma in ((1.0, 10.0, 5.0), (0.0, 3.0, 30.0), (0.0, 1.0, 0.5)):
            attributes = {
                "background_weight": background,
                "foreground_weight": 2 * background,
                "border_weight": border,
                "sigma": sigma,
            }
            label = f"{batch} x {height} x {width}, patches of {side}, sigma {sigma}"
            # Two exponential functions.
            yield Call("border_weight_map", label, [ids], attributes, 2e-6)


def _watershed_targets(rng, small):
    # Images, height, width; the side of the patches that are drawn: of one pixel, of several, and
    # of all of the image.
    layouts = [(2, 33, 70, 4), (1, 1, 50, 1), (1, 50, 1, 2), (2, 0, 5, 1), (2, 40, 41, 50)]
    if not small:
        layouts += [(3, 256, 255, 9), (1, 700, 1300, 250), (0, 5, 5, 1), (1, 90, 90, 1)]
    for batch, height, width, side in layouts:
        ids = rng.integers(-1, 6, (batch, height // side + 1, width // side + 1))
        if batch == 3:
            ids = 2**31 - 1 - rng.integers(0, 10**6, ids.shape)
        ids = ids.repeat(side, 1).repeat(side, 2)[:, :height, :width].astype("int32")
        for outside, min_area in ((False, 0), (True, 30)):
            label = f"{batch} x {height} x {width}, patches of {side}, border outside {outside}"
            border = {"image_border_is_outside": outside}
            yield Call("distance_transform", label, [ids], border)
            edges = [0.0, 1.0, 1.5, 4.0, 9.0, 100.0]
            attributes = {"level_edges": edges, "min_area": min_area, **border}
            # The norm of a direction.
            yield Call("watershed_targets", label, [ids], attributes, 1e-6)


def _patches(rng, shape, number, side):
    """Whole numbers below `number` in patches of one size."""
    batch, height, width = shape
    values = rng.integers(0, number, (batch, height // side + 1, width // side + 1))
    return values.repeat(side, 1).repeat(side, 2)[:, :height, :width].astype("int32")


def _components(rng, small):
    # Images of noise and of patches, of less than a warp, of no size.
    layouts = [((2, 33, 70), 1), ((1, 1, 50), 1), ((3, 50, 1), 2), ((2, 0, 5), 1), ((1, 40, 40), 9)]
    if not small:
        layouts += [((3, 256, 255), 1), ((1, 700, 1300), 3), ((2, 300, 300), 40), ((0, 5, 5), 1)]
    for shape, side in layouts:
        mask = _patches(rng, shape, 2, side).astype(bool)
        energy, semantic = _patches(rng, shape, 4, side), _patches(rng, shape, 5, 2 * side)
        within = _patches(rng, shape, 4, side).astype(bool)
        nothing = np.zeros((shape[0], 0, 0))
        for connectivity in (4, 8):
            label = f"{shape}, patches of {side}, {connectivity}-connected"
            numbers = {"connectivity": connectivity}
            yield Call("connected_components", label, [mask], numbers)
            numbers |= {"cut": [0, 1, 2], "min_area": [0, 5, 9], "grow": [1, 0, 12]}
            tensors = [energy, semantic, within]
            yield Call("watershed_instances", label, tensors, numbers | {"fill_holes": 9})
            numbers |= {"cut": [1], "min_area": [3], "grow": [2]}
            tensors = [energy, nothing.astype("int32"), nothing.astype(bool)]
            label += ", one class"
            yield Call("watershed_instances", label, tensors, numbers | {"fill_holes": 64})


def _crop_masks(rng, small):
    # Images, height, width, boxes; the side of the patches that are drawn.
    layouts = [(2, 33, 70, 20, 4), (1, 1, 50, 5, 1), (1, 50, 1, 5, 2), (2, 9, 9, 0, 3)]
    if not small:
        layouts += [(3, 256, 255, 100, 9), (1, 700, 300, 64, 40), (0, 5, 5, 3, 1)]
    for batch, height, width, number, side in layouts:
        ids = rng.integers(0, 6, (batch, height // side + 1, width // side + 1))
        ids = ids.repeat(side, 1).repeat(side, 2)[:, :height, :width].astype("int32")
        boxes = boxes_in(rng, (batch, number), max(height, width))
        if number == 20:
            boxes = _nasty(boxes, 70)
        rows = rng.integers(-1, 6, (batch, number)).astype("int32")
        runs = rng.integers(0, 3 * height // 2 + 1, (batch, 5, 2 * width)).astype("int32")
        if batch and side > 1:
            runs[0, 0, 1], runs[0, 1, :2] = -1, 2**31 - 1
        bins = {"output_height": 14, "output_width": 28}
        label = f"{batch} x {height} x {width}, {number} boxes"
        # Sums in another order.
        yield Call("crop_masks", label, [ids, boxes, rows], bins, 4e-6)
        size = {"height": height, "width": width}
        yield Call("crop_mask_runs", label, [runs, boxes, rows], {**size, **bins}, 4e-6)


def _paste_masks(rng, small):
    # Images, height, width, boxes, cells.
    layouts = [(2, 33, 70, 20, (28, 28)), (1, 1, 50, 5, (3, 7)), (1, 50, 1, 5, (1, 1))]
    layouts += [(2, 9, 9, 0, (2, 2)), (1, 20, 20, 3, (0, 4))]
    if not small:
        layouts += [(3, 256, 255, 100, (14, 28)), (1, 700, 300, 64, (28, 28))]
    for batch, height, width, number, cells in layouts:
        masks = rng.random((batch, number, *cells)).astype("float32")
        boxes = boxes_in(rng, (batch, number), max(height, width), 1.2)
        if number == 20:
            boxes = _nasty(boxes, 70)
            masks[0, 0, 3], masks[0, 0, 4] = NAN, INF
        for rule, num_runs in (("detectron2", 4 * width + 1), ("torchvision", 50)):
            attributes = {"height": height, "width": width, "threshold": 0.5, "rule": rule}
            label = f"{batch} x {height} x {width}, {number} boxes, {rule}"
            yield Call("paste_masks", label, [masks, boxes], attributes)
            attributes = {**attributes, "num_runs": num_runs}
            yield Call("paste_mask_runs", label, [masks, boxes], attributes)


def _atrous_pyramid_pooling(rng, small):
    # Images, height, width, channels; sizes, filters and rates of the kernels. Packs and single
    # numbers, tiles and what is left over, taps that reach nothing, empty maps.
    layouts = [
        ((1, 9, 11, 48), (1, 3), (16, 72), (1, 4)),
        ((2, 5, 6, 7), (3, 5), (3, 9), (2, 30)),
    ]
    if not small:
        layouts += [
            ((2, 33, 33, 256), (1, 3, 3, 3), (64, 64, 64, 64), (1, 6, 12, 18)),
            ((1, 17, 40, 130), (3, 1), (33, 64), (6, 1)),
            ((3, 70, 20, 8), (3,), (8,), (1,)),
            ((1, 0, 5, 8), (3,), (8,), (1,)),
            ((1, 4, 5, 0), (3,), (8,), (1,)),
        ]
    for dtype in FLOATS:
        for shape, sizes, filters, rates in layouts:
            x = rounded(rng.normal(size=shape), dtype)
            kernels = [
                rounded(rng.normal(size=(size, size, shape[3], number)), dtype)
                for size, number in zip(sizes, filters, strict=True)
            ]
            biases = rounded(rng.normal(size=sum(filters)), dtype)
            attributes = {"dilation_rates": list(rates), "relu": len(sizes) == 2}
            label = f"{dtype}, {' x '.join(map(str, shape))} to {sum(filters)}"
            # Sums of thousands of products.
            limits = 5 * _SUMS[dtype], 5 * _SUMS[dtype]
            yield Call("atrous_pyramid_pooling", label, [x, kernels, biases], attributes, *limits)


def _depthwise_atrous_pyramid_pooling(rng, small):
    # Height, width, channels, kernel sizes, rates: whole images in a tile, several tiles, tiles too
    # large for shared memory, taps off the image; groups of channels that are not whole.
    cases = [
        (33, 33, 20, (3, 3, 3), (6, 12, 18)),
        (9, 70, 5, (1, 5), (1, 3)),
        (1, 1, 1, (3,), (1,)),
    ]
    if not small:
        cases += [(65, 65, 72, (3, 3, 3), (6, 12, 18)), (130, 90, 8, (3, 7), (1, 20))]
        cases += [(0, 7, 8, (3,), (2,)), (40, 40, 3, (3, 1), (2**31, 9))]
    for dtype in FLOATS[: 2 if small else 4]:
        for height, width, channels, sizes, rates in cases:
            for activation in ("none", "relu"):
                x = rounded(rng.normal(size=(2, height, width, channels)), dtype)
                taps = sum(size * size for size in sizes)
                kernels = rounded(rng.normal(size=taps * channels), dtype)
                # Far from zero, where ReLU would decide by a rounding.
                biases = rounded(rng.choice([-1e3, 1e3], len(sizes) * channels), dtype)
                attributes = {
                    "kernel_sizes": list(sizes),
                    "dilation_rates": list(rates),
                    "activation": activation,
                }
                label = f"{dtype}, {height} x {width} x {channels}, sizes {sizes}, {activation}"
                yield Call(
                    "depthwise_atrous_pyramid_pooling", label, [x, kernels, biases], attributes,
                    _SUMS[dtype], 8 * _SUMS[dtype],
                )  # fmt: skip
