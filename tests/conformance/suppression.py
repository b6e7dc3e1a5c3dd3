"""Non-maximum suppression, hard and soft, against torchvision and TensorFlow."""

import numpy as np

from kvision import ops
from tests.conformance import drawing
from tests.conformance.comparison import Deviation, Row
from tests.conformance.peers.serving import padded


def ious(box, boxes, sort_corners=False):
    """IoU of a box with others in their dtype; 0 where an area is not positive and finite."""
    if sort_corners:
        box, boxes = (np.concatenate([np.minimum(b[..., :2], b[..., 2:]),
                                      np.maximum(b[..., :2], b[..., 2:])], axis=-1)
                      for b in (box, boxes))  # fmt: skip
    area, areas = ((b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (box, boxes))
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    intersection = np.prod(np.maximum(sides, 0), axis=1)
    with np.errstate(all="ignore"):
        ratio = intersection / (area + areas - intersection)
    proper = (area > 0) & (areas > 0) & np.isfinite(area) & np.isfinite(areas)
    return np.where(proper, ratio, 0).astype(boxes.dtype)


def greedy(boxes, scores, threshold, sort_corners=False, ranks=None):
    """Indices kept: by descending score, then ascending rank or index, unless IoU > threshold."""
    ranks = np.arange(len(scores)) if ranks is None else ranks
    kept, left = [], list(np.lexsort([ranks, -scores.astype("float64")]))
    while left:
        best, *left = left
        kept.append(best)
        overlaps = ious(boxes[best], boxes[left], sort_corners)
        left = [index for index, overlap in zip(left, overlaps, strict=True)
                if not float(overlap) > threshold]  # fmt: skip
    return kept


# --- torchvision.ops.nms, batched_nms


def draw_nms(rng):
    size, dtype = (
        int(rng.choice([0, 1, 5, 24, 64])),
        rng.choice(["float32", "float64"], p=[0.8, 0.2]),
    )
    return {
        "boxes": drawing.boxes(rng, size, dtype=dtype),
        "scores": drawing.scores(rng, size, dtype=dtype),
        "iou_threshold": drawing.threshold(rng),
    }


def our_nms(call):
    kept = ops.nms(call["boxes"], call["scores"], iou_threshold=call["iou_threshold"])
    return padded(np.asarray(kept), len(call["scores"]))


def define_nms(call, dtype=None):
    boxes, scores = (np.asarray(call[name], dtype) for name in ("boxes", "scores"))
    return padded(greedy(boxes, scores, call["iou_threshold"]), len(scores))


def draw_batched_nms(rng):
    size = int(rng.choice([1, 24, 64, 1100], p=[0.1, 0.4, 0.48, 0.02]))
    return {
        "boxes": drawing.boxes(rng, size),
        "scores": drawing.scores(rng, size),
        "classes": rng.integers(0, 4, size),
        "iou_threshold": drawing.threshold(rng),
    }


def our_batched_nms(call):
    size, classes = len(call["scores"]), call["classes"]
    scores = np.full((1, size, 4), -np.inf, "float32")
    scores[0, np.arange(size), classes] = call["scores"]
    found = ops.batched_nms(
        call["boxes"][None], scores, iou_threshold=call["iou_threshold"], max_output_size=size
    )
    return np.asarray(found["indices"])


def define_batched_nms(call, shift=False, like=None):
    """With `like`, equal scores come as in that answer where they are in it."""
    boxes, scores, classes = call["boxes"], call["scores"], call["classes"]
    if shift and boxes.size <= 4000:
        shifted = boxes + classes.astype("float32")[:, None] * (boxes.max() + np.float32(1))
        return padded(greedy(shifted, scores, call["iou_threshold"]), len(scores))
    kept = []
    for label in range(4):
        mine = np.flatnonzero(classes == label)
        kept.extend(mine[greedy(boxes[mine], scores[mine], call["iou_threshold"])])
    ranks = np.arange(len(scores))
    if like is not None:
        answered = like[0][like[0] >= 0].astype(int)
        ranks[answered] = np.arange(len(answered)) - len(scores)
    return padded(sorted(kept, key=lambda index: (-scores[index], ranks[index])), len(scores))


# --- tf.image.non_max_suppression_with_scores, hard


def draw_scored_nms(rng):
    size = int(rng.choice([1, 5, 24, 64]))
    return {
        "boxes": drawing.boxes(rng, size),
        "scores": drawing.scores(rng, size),
        "iou_threshold": drawing.threshold(rng),
        "score_threshold": float(rng.choice([-1.0, 0.25, 0.3])),
        "max_output_size": int(rng.choice([1, 5, size])),
    }


def our_scored_nms(call):
    kept = ops.nms(call["boxes"], call["scores"], iou_threshold=call["iou_threshold"],
                   score_threshold=call["score_threshold"],
                   max_output_size=call["max_output_size"])  # fmt: skip
    return np.asarray(kept)[None]


def define_scored_nms(call, float32_threshold=False, sort_corners=False):
    threshold = call["iou_threshold"]
    threshold = float(np.float32(threshold)) if float32_threshold else threshold
    candidates = np.flatnonzero(call["scores"] > np.float32(call["score_threshold"]))
    boxes, scores = call["boxes"][candidates], call["scores"][candidates]
    kept = candidates[greedy(boxes, scores, threshold, sort_corners)]
    return padded(kept[: call["max_output_size"]], call["max_output_size"])


# --- tf.image.non_max_suppression_with_scores, soft


def draw_soft_nms(rng):
    size = int(rng.choice([1, 5, 24, 64]))
    return {
        "boxes": drawing.boxes(rng, size),
        "scores": (rng.permutation(size) + rng.uniform(0.1, 0.9)).astype("float32") / size,
        "sigma": float(rng.choice([0.1, 0.5, 2.0])),
        "score_threshold": float(rng.choice([0.001, 0.1, 0.25])),
        "max_output_size": int(rng.choice([1, 5, size])),
    }


def our_soft_nms(call):
    indices, scores = ops.soft_nms(call["boxes"], call["scores"], method="gaussian",
                                   sigma=call["sigma"], score_threshold=call["score_threshold"],
                                   max_output_size=call["max_output_size"])  # fmt: skip
    return np.stack([indices, scores], axis=-1, dtype="float64")[None]


def define_soft_nms(call, sort_corners=False):
    scores, left = call["scores"].astype("float64"), set(range(len(call["scores"])))
    boxes = call["boxes"].astype("float64")
    rows = np.tile([-1.0, 0.0], (call["max_output_size"], 1))
    for row in rows:
        best = min(left, key=lambda index: (-scores[index], index), default=None)
        if best is None or scores[best] <= call["score_threshold"]:
            break
        left.remove(best)
        row[:] = best, scores[best]
        for index, overlap in zip(left, ious(boxes[best], boxes[list(left)], sort_corners),
                                  strict=True):  # fmt: skip
            scores[index] *= np.exp(-(overlap**2) / call["sigma"])
    return rows[None]


# --- tf.image.combined_non_max_suppression


def draw_combined_nms(rng):
    batch, size, classes = 2, int(rng.choice([1, 12, 30])), int(rng.choice([1, 3]))
    own = int(rng.choice([1, classes]))
    scores = rng.permutation(batch * size * classes) / (batch * size * classes)
    if rng.random() < 0.3:
        scores = np.floor(scores * 8) / 8
    return {
        "boxes": drawing.boxes(rng, batch * size * own).reshape(batch, size, own, 4),
        "scores": scores.reshape(batch, size, classes).astype("float32"),
        "iou_threshold": drawing.threshold(rng),
        "score_threshold": float(rng.choice([0.0, 0.25, 0.3])),
        "max_output_size": int(rng.choice([1, 8, 100])),
        "max_output_size_per_class": int(rng.choice([1, 8, 100])),
    }


def our_combined_nms(call):
    call = dict(call)
    boxes, scores = call.pop("boxes"), call.pop("scores")
    found = ops.batched_nms(boxes[:, :, 0] if boxes.shape[2] == 1 else boxes, scores, **call)
    labels = np.maximum(found["labels"], 0)  # TensorFlow pads with 0.
    columns = [found["scores"], labels, *np.moveaxis(np.asarray(found["boxes"]), -1, 0)]
    return np.stack(columns, axis=-1)


def define_combined_nms(call, float32_threshold=False, sort_corners=False, like=None):
    """Rows of score, label, box; equal scores by ascending box, then class, or as in `like`."""
    threshold = call["iou_threshold"]
    threshold = float(np.float32(threshold)) if float32_threshold else threshold
    answer = np.zeros((len(call["scores"]), call["max_output_size"], 6))
    for image, (boxes, scores) in enumerate(zip(call["boxes"], call["scores"], strict=True)):
        found = []
        for label in range(scores.shape[1]):
            own = boxes[:, min(label, boxes.shape[1] - 1)]
            mine = np.flatnonzero(scores[:, label] > np.float32(call["score_threshold"]))
            rows = [(scores[index, label], label, *own[index]) for index in mine]
            ranks = np.array(
                [(rank_in(like, image, row), index) for row, index in zip(rows, mine, strict=True)]
            ).reshape(-1, 2)
            order = np.argsort(np.lexsort(ranks.T[::-1]))
            kept = greedy(own[mine], scores[mine, label], threshold, sort_corners, order)
            kept = kept[: call["max_output_size_per_class"]]
            found += [(-rows[k][0], *ranks[k], label, rows[k]) for k in kept]
        for place, (*_, row) in enumerate(sorted(found)[: call["max_output_size"]]):
            answer[image, place] = row
    return answer


def rank_in(answer, image, row):
    """The place of a detection in an answer, behind all if it has none there."""
    if answer is None:
        return 0
    places = np.flatnonzero((answer[image] == np.array(row)).all(axis=1))
    return places[0] if len(places) else len(answer[image])


IN_FLOAT32 = Deviation("ours", "float64 boxes are compared in float32", {"dtype": "float32"})
SHIFTED = Deviation(
    "theirs",
    "classes are shifted apart by the largest coordinate + 1, which rounds, and lets boxes of "
    "negative coordinates meet those of other classes",
    {"shift": True},
)
ROUNDED_THRESHOLD = Deviation(
    "theirs",
    "the threshold is rounded to float32, upwards for .3 and .6, so that an IoU above it is kept",
    {"float32_threshold": True},
)
SORTED_CORNERS = Deviation(
    "theirs", "reversed corners are swapped instead of overlapping nothing", {"sort_corners": True}
)
UNORDERED = Deviation(
    "theirs", "equal scores come in an order of its own", lambda answer: {"like": answer}
)

ROWS = (
    Row("torchvision", "torchvision.ops.nms", "nms", draw_nms, our_nms, define_nms, 0, "equal",
        (IN_FLOAT32,), cost=10),
    Row("torchvision", "torchvision.ops.batched_nms", "batched_nms", draw_batched_nms,
        our_batched_nms, define_batched_nms, 0, "equal", (SHIFTED, UNORDERED), cost=10),
    Row("tensorflow", "tf.image.combined_non_max_suppression", "batched_nms", draw_combined_nms,
        our_combined_nms, define_combined_nms, 0, "equal",
        (ROUNDED_THRESHOLD, SORTED_CORNERS, UNORDERED), cost=10,
        size=lambda call: len(call["scores"])),
    Row("tensorflow", "tf.image.non_max_suppression_with_scores, hard", "nms", draw_scored_nms,
        our_scored_nms, define_scored_nms, 0, "equal", (ROUNDED_THRESHOLD, SORTED_CORNERS),
        cost=10),
    Row("tensorflow", "tf.image.non_max_suppression_with_scores, soft", "soft_nms",
        draw_soft_nms, our_soft_nms, define_soft_nms, lambda call, answer: np.array([0, 2e-6]),
        "indices equal, scores 2e-6", (SORTED_CORNERS,), cost=10),
)  # fmt: skip
