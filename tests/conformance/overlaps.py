"""Overlaps of boxes, and their losses with gradients, against everyone who has them."""

import numpy as np
import tensorflow as tf

from kvision import losses, ops
from tests.conformance import drawing
from tests.conformance.comparison import Deviation, Row
from tests.conformance.overlap import overlap

# --- Calls: every pair of two sets, or one pair after another


KINDS = ("integers", "pixels", "relative", "far", "huge")


def draw(size, kinds=KINDS, dtypes=("float32", "float32", "float32", "float64")):
    """Two sets of boxes of one kind; some of the second share corners with one of the first."""

    def drawn(rng):
        dtype, kind = str(rng.choice(dtypes)), str(rng.choice(kinds))
        first, second = (drawing.boxes(rng, size, [kind], 0.04, dtype) for _ in range(2))
        mixed = np.where(rng.random((size, 4)) < 0.6, first, second)
        proper = (mixed[:, :2] < mixed[:, 2:]).all(axis=1) & (rng.random(size) < 0.5)
        return {"boxes1": first, "boxes2": np.where(proper[:, None], mixed, second)}

    return drawn


MATRIX, MATRIX_32, PAIRS_32 = draw(12), draw(12, dtypes=["float32"]), draw(50, dtypes=["float32"])
LOSSES = draw(50)


def cross(call):
    """The pairs of a call to a pairwise function."""
    first, second = call["boxes1"], call["boxes2"]
    return np.repeat(first, len(second), 0), np.tile(second, (len(first), 1))


def pairs(call):
    return call["boxes1"], call["boxes2"]


def our_matrix(kind):
    def answer(call):
        return np.asarray(ops.pairwise_iou(*pairs(call), kind=kind)).reshape(-1, 1)

    return answer


def our_pairs(kind):
    return lambda call: np.asarray(ops.elementwise_iou(*pairs(call), kind=kind))[:, None]


def our_loss(kind):
    """Per pair the loss and its gradients with respect to both boxes."""

    def answer(call):
        predictions, targets = map(tf.constant, pairs(call))
        with tf.GradientTape() as tape:
            tape.watch((predictions, targets))
            loss = losses.iou_loss(targets, predictions, kind=kind)
        return np.concatenate([loss[:, None], *tape.gradient(loss, (predictions, targets))], axis=1)

    return answer


def defined(kind, of=pairs):
    def answer(call, **rule):
        with np.errstate(all="ignore"):
            return overlap(*of(call), kind, **rule).value[:, None]

    return answer


def defined_loss(kind):
    def answer(call, **rule):
        with np.errstate(all="ignore"):
            result = overlap(*pairs(call), kind, **rule)
        return np.concatenate([1 - result.value[:, None], -result.slope], axis=1)

    return answer


def tolerance(kind, of=pairs):
    """Rounding; of centres it weighs by how far out they lie; four times for gradients."""

    def value(call, answer):
        first, second = (boxes.astype("float64") for boxes in of(call))
        outer = np.maximum(first, second)[:, 2:] - np.minimum(first, second)[:, :2]
        corner = np.abs(np.concatenate([first, second], axis=1)).max(axis=1)
        ratio = np.minimum(corner / np.maximum(np.hypot(*outer.T), 1e-12), 1e6)
        ratio = ratio if kind in ("diou", "ciou") else 0 * ratio
        result = 16 * np.finfo(call["boxes1"].dtype).eps * (1 + ratio)
        return result[:, None] * [1.0, *[4.0] * (answer.shape[1] - 1)]

    return value


def loss_unit(call):
    """Gradients are of the order of one over the shortest side of a pair."""
    sides = np.abs([boxes[:, 2:] - boxes[:, :2] for boxes in pairs(call)]).astype("float64")
    shortest = np.where(sides == 0, np.inf, sides).min(axis=(0, 2))
    return np.stack([np.ones(len(shortest)), *[1 / shortest] * 8], axis=1)


STATED = "16 eps; of centres times 1 + corner / diagonal of the pair"
STATED_LOSS = STATED + "; 4 times that for gradients, in units of 1 / shortest side"
SIGNED = Deviation("theirs", "reversed sides count, as negative lengths", {"signed": True})
NAN = Deviation("theirs", "an empty pair is 0 / 0 = NaN", {"nan": True})
TIES = Deviation("theirs", "of equal corners the first has all of the gradient", {"ties": 1.0})


SQUARED = Deviation("theirs", "the factor 4 / pi^2 of v is squared, too", {"squared": True})
OPEN = Deviation(
    "theirs", "the box around reversed boxes may be reversed itself", {"open_enclosing": True}
)
KERAS_CIOU = {"union": 2e-7, "diagonal": 1e-7, "alpha": 1e-7, "height": 1e-7}


def added(**terms):
    reason = "1e-7 added to denominators, which counts in float64 and for boxes of a small unit"
    return Deviation("theirs", reason, terms)


def matrix_row(peer, function, kind, *deviations, draw=MATRIX):
    return Row(peer, function, "pairwise_iou", draw, our_matrix(kind), defined(kind, cross),
               tolerance(kind, cross), STATED, deviations,
               size=lambda call: len(cross(call)[0]))  # fmt: skip


def loss_row(peer, function, kind, *deviations):
    return Row(peer, f"{function} and gradients", "iou_loss", LOSSES, our_loss(kind),
               defined_loss(kind), tolerance(kind), STATED_LOSS, deviations, cost=2,
               size=lambda call: len(call["boxes1"]), unit=loss_unit)  # fmt: skip


def ciou_row(peer, function, *deviations):
    return Row(peer, function, "elementwise_iou", PAIRS_32, our_pairs("ciou"), defined("ciou"),
               tolerance("ciou"), STATED, (added(**KERAS_CIOU), SIGNED, OPEN, *deviations),
               size=lambda call: len(call["boxes1"]))  # fmt: skip


TORCHVISION, KERAS = "torchvision.ops", "keras.utils.bounding_boxes"
ROWS = (
    matrix_row("torchvision", f"{TORCHVISION}.box_iou", "iou", SIGNED, NAN),
    matrix_row("torchvision", f"{TORCHVISION}.generalized_box_iou", "giou", SIGNED, NAN),
    matrix_row("torchvision", f"{TORCHVISION}.distance_box_iou", "diou",
               added(diagonal=1e-7), SIGNED, NAN),
    matrix_row("torchvision", f"{TORCHVISION}.complete_box_iou", "ciou",
               added(diagonal=1e-7, alpha=1e-7), SIGNED, NAN),
    loss_row("torchvision", f"{TORCHVISION}.generalized_box_iou_loss", "giou",
             added(union=1e-7, enclosing=1e-7), SIGNED, OPEN),
    loss_row("torchvision", f"{TORCHVISION}.distance_box_iou_loss", "diou",
             added(union=1e-7, diagonal=1e-7), SIGNED, OPEN),
    loss_row("torchvision", f"{TORCHVISION}.complete_box_iou_loss", "ciou",
             added(union=1e-7, diagonal=1e-7, alpha=1e-7), SIGNED, OPEN, NAN),
    loss_row("addons", "tfa.losses.GIoULoss", "giou", TIES),
    loss_row("addons", "tfa.losses.GIoULoss(mode='iou')", "iou", TIES),
    matrix_row("keras", f"{KERAS}.compute_iou", "iou", added(union=1e-7), SIGNED, draw=MATRIX_32),
    ciou_row("keras", f"{KERAS}.compute_ciou"),
    matrix_row("keras_cv", "keras_cv.bounding_box.compute_iou", "iou", added(union=1e-7), SIGNED,
               draw=MATRIX_32),
    ciou_row("keras_cv", "keras_cv.bounding_box.compute_ciou", SQUARED),
)  # fmt: skip
