"""The anchors and the regions that the losses of Faster R-CNN look at.

Source: Ren, He, Girshick, Sun, "Faster R-CNN", 2015, section 3.1.3; Girshick, "Fast R-CNN", 2015,
section 2.3.
"""

from typing import Any, NamedTuple

from keras import ops

from kvision.boxes import encode_boxes, gather_rows, sample_candidates, sampling_keys
from kvision.ops import NEGATIVE, POSITIVE, match_boxes

ANCHOR_STREAM, REGION_STREAM = 1, 2
"""Streams of `kvision.boxes.sampling_keys`."""


class Samples(NamedTuple):
    """Sampled candidates of each image: positives first, then negatives, then padding.

    Attributes:
        indices: `(B, S)` int32, which candidates.
        boxes: `(B, S, 4)` float32, the candidates themselves.
        labels: `(B, S)` int32, the class of the ground truth; -1 for negatives and padding.
        targets: `(B, P, 4)` float32, offsets from candidate to ground truth of the first P
            samples, among which are all positives.
        matches: `(B, P)` int32, the row of the ground truth that each of these is matched with.
        num_positive: `(B,)` int32.
        num_sampled: `(B,)` int32.
    """

    indices: Any
    boxes: Any
    labels: Any
    targets: Any
    matches: Any
    num_positive: Any
    num_sampled: Any

    @property
    def max_positive(self):
        """P, a Python integer."""
        return self.targets.shape[1]

    @property
    def positive(self):
        """`(B, P)` bool."""
        return self._first(self.max_positive, self.num_positive)

    @property
    def sampled(self):
        """`(B, S)` bool: false for padding."""
        return self._first(self.indices.shape[1], self.num_sampled)

    def _first(self, size, count):
        return ops.arange(size, dtype="int32")[None, :] < count[:, None]


def sample_boxes(
    candidates,
    ground_truth,
    *,
    available=None,
    seed,
    step,
    stream,
    num_samples,
    positive_fraction,
    code_weights=(1.0, 1.0, 1.0, 1.0),
    crowd_overlap,
    **thresholds,
):
    """Matches candidates with the ground truth and draws a sample of each image.

    Args:
        candidates: Float tensor `(N, 4)`, the same for all images, or `(B, N, 4)`; xyxy pixels.
        ground_truth: A `GroundTruth`.
        available: Bool tensor `(B, N)` or `None`: false marks padding among the candidates.
        seed: Python integer.
        step: Int32 scalar tensor.
        stream: `ANCHOR_STREAM` or `REGION_STREAM`.
        num_samples: Positive int.
        positive_fraction: Number in [0, 1].
        code_weights: Of `kvision.boxes.encode_boxes`.
        crowd_overlap: Of `kvision.ops.match_boxes`.
        **thresholds: Of `kvision.ops.match`.

    Returns:
        `Samples`, without gradient.
    """
    candidates = ops.stop_gradient(ops.convert_to_tensor(candidates))
    matches, status = match_boxes(
        candidates,
        ground_truth.boxes,
        ground_truth.valid,
        ground_truth.crowd,
        crowd_overlap=crowd_overlap,
        **thresholds,
    )
    positive, negative = status == POSITIVE, status == NEGATIVE
    if available is not None:
        positive, negative = positive & available, negative & available
    indices, num_positive, num_sampled = sample_candidates(
        positive,
        negative,
        sampling_keys(ground_truth.images, seed, step, stream),
        num_samples=num_samples,
        positive_fraction=positive_fraction,
    )
    if len(candidates.shape) == 2:
        boxes = ops.take(candidates, indices, axis=0)
    else:
        boxes = gather_rows(candidates, indices)
    matches = gather_rows(matches, indices)
    size = indices.shape[1]
    is_positive = ops.arange(size, dtype="int32")[None, :] < num_positive[:, None]
    labels = ops.where(is_positive, gather_rows(ground_truth.labels, matches), -1)
    first = min(int(num_samples * positive_fraction), size)
    matches = matches[:, :first]
    targets = encode_boxes(gather_rows(ground_truth.boxes, matches), boxes[:, :first], code_weights)
    targets = ops.where(is_positive[:, :first, None], targets, 0.0)
    return Samples(indices, boxes, labels, targets, matches, num_positive, num_sampled)
