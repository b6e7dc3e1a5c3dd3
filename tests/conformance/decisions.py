"""Where two runs of a Faster R-CNN first decide differently, and by how little.

A run's numbers differ from another's in the last bits; what it decides with them (which anchors are
proposed, which regions are positive) does not, until a decision comes that stood on a knife's edge.
Here the decision is found, in float64 from what both runs recorded of a step, and so is its margin:
how far the first run's number was from deciding as the second did.
"""

import dataclasses
import math

import numpy as np

from kvision.boxes.coder import MAX_LOG_SCALE

SAME_BOX = 1e-3  # pixels between a proposal and what its anchor decodes to


@dataclasses.dataclass(frozen=True)
class Difference:
    """One decision.

    Attributes:
        image: Its place in the batch.
        what: The decision, in words.
        margin: Distance from the other decision, of a score, an IoU or a side in pixels.
    """

    image: int
    what: str
    margin: float


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the decisions follow from: arguments of `FasterRCNN`.

    Attributes:
        anchors: One array `(A_level, 4)` a level.
        image_size: `(height, width)`.
        pre_nms_size: Anchors of a level that are decoded.
        nms_threshold: IoU above which proposals of a level are suppressed.
        min_side: Shortest side of a proposal.
        positive_iou: IoU with a ground truth from which a region is positive.
    """

    anchors: tuple
    image_size: tuple
    pre_nms_size: int
    nms_threshold: float
    min_side: float
    positive_iou: float


def differences(first, second, boxes, labels, rules):
    """The first decision in every image of a step that two runs made differently.

    Args:
        first: Dictionary of a run's records of the step, as `door.Witness` keeps them.
        second: Likewise.
        boxes: Ground truth `(B, M, 4)`.
        labels: `(B, M)`, -1 as padding.
        rules: `Rules`.

    Returns:
        List of `Difference`.
    """
    found = []
    for image in range(len(boxes)):
        runs = [_Run(records, image, rules) for records in (first, second)]
        found.append(
            _anchor_samples(*runs)
            or _proposals(*runs, rules)
            or _regions(*runs, boxes[image][labels[image] >= 0], rules)
        )
    return [Difference(image, *answer) for image, answer in enumerate(found) if answer is not None]


class _Run:
    """A run's image in float64: all anchors' scores and boxes, and which of them are proposed."""

    def __init__(self, records, image, rules):
        self.records = {name: values[image] for name, values in records.items()}
        anchors = np.concatenate(rules.anchors).astype("float64")
        self.level = np.repeat(np.arange(len(rules.anchors)), [len(a) for a in rules.anchors])
        self.logits = self.records["rpn_logits"].astype("float64")
        self.scores = 1 / (1 + np.exp(-self.logits))
        deltas = self.records["rpn_deltas"].astype("float64")
        sizes = anchors[:, 2:] - anchors[:, :2]
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2 + deltas[:, :2] * sizes
        halves = sizes * np.exp(np.minimum(deltas[:, 2:], MAX_LOG_SCALE)) / 2
        height, width = rules.image_size
        self.boxes = np.concatenate([centres - halves, centres + halves], 1)
        self.boxes = self.boxes.clip(0, [width, height, width, height])
        self.side = (self.boxes[:, 2:] - self.boxes[:, :2]).min(1)
        self.proposals = self.records["proposals"][: self.records["num_proposals"]]
        self.proposed = self._identify()

    def _identify(self):
        """The anchor of each proposal: of those that decode to it, the best that is not taken."""
        taken = []
        for proposal in self.proposals.astype("float64"):
            same = np.flatnonzero(np.abs(self.boxes - proposal).max(1) < SAME_BOX)
            free = [anchor for anchor in same if anchor not in taken]
            if not free:
                raise ValueError(f"no anchor decodes to the proposal {proposal}")
            taken.append(max(free, key=lambda anchor: self.logits[anchor]))
        return taken

    def best(self, level, size):
        """The anchors of a level that are decoded."""
        own = np.flatnonzero(self.level == level)
        return own[np.argsort(-self.logits[own], kind="stable")[:size]]


def _anchor_samples(first, second):
    """Anchors and ground truth are the same, so that nothing may differ."""
    if np.array_equal(first.records["anchor_indices"], second.records["anchor_indices"]):
        return None
    return "the sample of the anchors", math.inf


def _proposals(first, second, rules):
    longest = max(len(first.proposed), len(second.proposed))
    for slot in range(longest):
        ours, theirs = (run.proposed[slot : slot + 1] for run in (first, second))
        if ours == theirs:
            continue
        if ours and ours[0] not in second.proposed:
            return _why_missing(ours[0], first, second, first, rules)
        if theirs and theirs[0] not in first.proposed:
            return _why_missing(theirs[0], second, first, first, rules)
        margin = abs(first.scores[ours[0]] - first.scores[theirs[0]])
        return "the order of two proposals' scores", margin
    return None


def _why_missing(anchor, holder, other, first, rules):
    """Why `other` does not propose an anchor that `holder` proposes; margins are `first`'s."""
    level = first.level[anchor]
    rivals = other.best(level, rules.pre_nms_size)
    if anchor not in rivals:
        rivals = np.setdiff1d(rivals, holder.best(level, rules.pre_nms_size))
        margin = np.abs(first.scores[anchor] - first.scores[rivals]).min()
        return f"which {rules.pre_nms_size} anchors of level {level} are decoded", margin
    if other.side[anchor] < rules.min_side:
        return "whether a proposal is large enough", abs(first.side[anchor] - rules.min_side)
    kept = [rival for rival in other.proposed if first.level[rival] == level]
    kept = np.array([rival for rival in kept if other.logits[rival] > other.logits[anchor]], int)
    suppressors = kept[_iou(other.boxes[kept], other.boxes[anchor]) > rules.nms_threshold - 1e-6]
    if not len(suppressors):
        last = other.proposed[-1]
        return "the last proposal", abs(first.scores[anchor] - first.scores[last])
    swapped = suppressors[holder.logits[suppressors] < holder.logits[anchor]]
    if len(swapped):
        margin = np.abs(first.scores[swapped] - first.scores[anchor]).min()
        return "which of two overlapping proposals scores more", margin
    overlaps = _iou(first.boxes[suppressors], first.boxes[anchor])
    return "whether a proposal is suppressed", np.abs(overlaps - rules.nms_threshold).min()


def _regions(first, second, truth, rules):
    """Positive or not, and of which object; what is sampled follows."""
    names = ("region_indices", "region_labels", "region_num_positive")
    if all(np.array_equal(first.records[name], second.records[name]) for name in names):
        return None
    ours, theirs = (
        _iou(run.proposals[:, None].astype("float64"), truth) for run in (first, second)
    )
    margins = np.abs(ours.max(1) - rules.positive_iou)
    decided = (ours.max(1) >= rules.positive_iou) != (theirs.max(1) >= rules.positive_iou)
    if decided.any():
        return "whether a region is positive", margins[decided].min()
    other = ours.argmax(1) != theirs.argmax(1)
    if other.any():
        runners_up = np.sort(ours[other], 1)
        return "of which object a region is", (runners_up[:, -1] - runners_up[:, -2]).min()
    return "whether a region is positive", margins.min()


def _iou(boxes1, boxes2):
    low = np.maximum(boxes1[..., :2], boxes2[..., :2])
    high = np.minimum(boxes1[..., 2:], boxes2[..., 2:])
    overlap = (high - low).clip(0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1) for boxes in (boxes1, boxes2)]
    return overlap / np.maximum(areas[0] + areas[1] - overlap, 1e-12)
