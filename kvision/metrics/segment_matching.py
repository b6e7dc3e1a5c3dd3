"""Which predicted segment is which true one, at an intersection over union above one half.

Then a segment has one partner at most (Kirillov et al., "Panoptic Segmentation", CVPR 2019), and
more than half of the true segment's pixels lie in it. So it can be elected: each binary digit of
its id is the digit of the majority of those pixels. No table of all pairs is made, nothing is
sorted, and no shape depends on the ids.
"""

import numpy as np
from keras import ops


class Segments:
    """The segments of a batch, which have a row of one flat table each: `image * num_ids + id`.

    Id 0 is no segment, but has its rows.

    Args:
        ids: Int32 tensor `(B, P)`: for each pixel its segment, in `[0, num_ids)`.
        num_ids: Int, or scalar tensor where it is not known before the code runs.
    """

    def __init__(self, ids, num_ids):
        self.num_images = ops.shape(ids)[0]
        self.num_ids = num_ids
        self.ids = ops.reshape(ids, (-1,))
        self.first_rows = num_ids * ops.arange(self.num_images, dtype="int32")
        self.rows = ops.reshape(ids + self.first_rows[:, None], (-1,))
        self.areas = self.sum(ops.ones_like(self.rows))

    def sum(self, values, rows=None):
        """The values `(B * P,)` of the pixels, or of any `rows`, by segment: `(B * num_ids,)`."""
        rows = self.rows if rows is None else rows
        # One row more, which is cut off: PyTorch's sum takes a size of 0 for none.
        size = self.num_images * self.num_ids + 1
        return ops.segment_sum(values, rows, num_segments=size)[:-1]

    def at_pixels(self, values):
        """The values `(B * num_ids,)` of the segments, at their pixels: `(B * P,)`."""
        return ops.take(values, self.rows)

    def by_image(self, values):
        """The values `(B * num_ids,)` as `(B, num_ids)`."""
        return ops.reshape(values, (self.num_images, self.num_ids))

    def num_segments(self):
        """The number of segments that have a pixel, by image: int32 `(B,)`."""
        present = self.by_image(self.areas)[:, 1:] > 0
        return ops.sum(ops.cast(present, "int32"), axis=1)


def elect_partners(truth, found):
    """Finds the one segment that can overlap a true one by more than half.

    Args:
        truth: `Segments` of `num_ids` N.
        found: `Segments` of the same pixels.

    Returns:
        `(partners, intersections)`, int32 `(B * N,)`: rows of `found`, and how many pixels they
        share with the segments of `truth`. Where no segment has the majority, the partner is any;
        where it or the true one is id 0, they share nothing.
    """
    powers = ops.convert_to_tensor(2 ** np.arange(31, dtype="int32"))
    largest = ops.max(ops.pad(found.ids, ((0, 1),)))  # there may be no image
    num_digits = ops.sum(ops.cast(powers <= largest, "int32"))

    def elect_digit(place, elected):
        votes = ops.bitwise_and(ops.right_shift(found.ids, ops.cast(place, "int32")), 1)
        digit = ops.cast(2 * truth.sum(votes) > truth.areas, "int32")
        return elected + digit * powers[place]

    elected = ops.zeros_like(truth.areas)
    try:
        for place in range(int(num_digits)):
            elected = elect_digit(place, elected)
    except TypeError:  # from every backend, of a tensor without a value: the code is compiled
        elected = ops.fori_loop(0, num_digits, elect_digit, elected)
    elected = ops.minimum(elected, found.num_ids - 1)  # digits of no majority make up any number
    partners = truth.by_image(elected) + found.first_rows[:, None]
    partners = ops.reshape(partners, (-1,))
    real = ops.minimum(truth.ids, found.ids) > 0
    shared = ops.logical_and(truth.at_pixels(partners) == found.rows, real)
    return partners, truth.sum(ops.cast(shared, "int32"))


def read_instance_ids(owner, argument, value):
    """Converts what a metric was given to the ids of pixels.

    Args:
        owner: Name of the metric, for the messages.
        argument: Name of the argument, for the messages.
        value: Ids `(B, H, W)` or `(B, H, W, 1)`, or a dictionary that has them as `instance_ids`.

    Returns:
        Int32 tensor `(B, H * W)`.

    Raises:
        ValueError: If there are no ids, or of another shape.
    """
    if isinstance(value, dict):
        if "instance_ids" not in value:
            raise ValueError(
                f"{owner}: `{argument}` must have `instance_ids`. Received: {sorted(value)}."
            )
        value = value["instance_ids"]
    ids = ops.cast(ops.convert_to_tensor(value), "int32")
    if len(ids.shape) == 4 and ids.shape[-1] == 1:
        ids = ids[..., 0]
    if len(ids.shape) != 3:
        raise ValueError(
            f"{owner}: instance ids must have shape (B, H, W) or (B, H, W, 1). "
            f"Received: {tuple(ids.shape)} as `{argument}`."
        )
    num_images, height, width = ops.shape(ids)
    return ops.reshape(ids, (num_images, height * width))


def check_same_pixels(owner, truth, found):
    """Raises a `ValueError` where the true and the predicted ids `(B, P)` are not of one shape."""
    pairs = zip(truth.shape, found.shape, strict=True)
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise ValueError(
            f"{owner}: `y_true` and `y_pred` must have the same pixels. Received: "
            f"{tuple(truth.shape)} and {tuple(found.shape)}, as (images, pixels)."
        )


def check_range(owner, name, values, lowest, highest):
    """Tells whether ids or labels are in their range.

    Args:
        owner: Name of the metric, for the message.
        name: What the values are, for the message.
        values: Int32 tensor.
        lowest: The least value allowed.
        highest: The greatest value allowed.

    Returns:
        `(values, wrong)`: the values clipped to the range, and a scalar bool tensor: whether that
        changed any.

    Raises:
        ValueError: If one is outside and its value is known: eagerly.
    """
    within = ops.clip(values, lowest, highest)
    wrong = ops.any(within != values)
    try:
        known = bool(wrong)
    except TypeError:  # from every backend, of a tensor without a value: the code is compiled
        known = False
    if known:
        raise ValueError(
            f"{owner}: {name} must be from {lowest} to {int(highest)}. "
            f"Received: {int(ops.min(values))} to {int(ops.max(values))}."
        )
    return within, wrong


def weights_by_image(owner, sample_weight):
    """Converts weights.

    Args:
        owner: Name of the metric, for the message.
        sample_weight: Weights `(B,)`.

    Returns:
        Float32 tensor `(B,)`.

    Raises:
        ValueError: If they have another shape.
    """
    weights = ops.cast(ops.convert_to_tensor(sample_weight), "float32")
    if len(weights.shape) != 1:
        raise ValueError(
            f"{owner}: `sample_weight` must have shape (B,). Received: {tuple(weights.shape)}."
        )
    return weights
