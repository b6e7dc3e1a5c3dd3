"""The loss of a mask head, and how little of it is computed.

Source: He, Gkioxari, Dollár, Girshick, "Mask R-CNN", 2017, section 3.
"""

import functools

from keras import ops

from kvision.losses import sampled_mean


def mask_loss(logits, targets, num_positive):
    """Binary cross-entropy, averaged over the pixels and the positive regions of an image.

    Args:
        logits: Float tensor `(B, P, M, M)`, of each region the mask of its own class.
        targets: Float tensor `(B, P, M, M)`, in [0, 1].
        num_positive: Int32 tensor `(B,)`: as many regions of each image are positive, its first.

    Returns:
        Scalar: the mean over the images. An image without positive regions counts 0.
    """
    num_positive = ops.convert_to_tensor(num_positive, "int32")
    losses = ops.binary_crossentropy(targets, logits, from_logits=True)
    positive = ops.arange(logits.shape[1], dtype="int32")[None, :] < num_positive[:, None]
    return sampled_mean(ops.where(positive, ops.mean(losses, axis=(2, 3)), 0.0), num_positive)


def of_the_first(count, size, function, *, steps=8):
    """Calls a function with the smallest of a few numbers that is at least `count`.

    Regions stand in a fixed number of slots, and most of the slots are often empty. A mask head
    does more work on each than a box head by an order of magnitude; so it runs on a prefix that
    holds all regions there are, one of `steps` lengths: each is compiled once, one is run.

    Args:
        count: Int32 scalar tensor, at most `size`.
        size: Number of slots, a positive Python integer.
        function: Function of a Python integer to a tensor, of the same shape for all.
        steps: How many lengths there are, evenly spaced up to `size`.

    Returns:
        What the function gives.
    """
    lengths = sorted({-(-size * step // steps) for step in range(1, steps + 1)})
    index = ops.sum(ops.cast(count > ops.convert_to_tensor(lengths[:-1], "int32"), "int32"))
    return ops.switch(index, [functools.partial(function, length) for length in lengths])
