"""The mean over samples whose number differs from image to image."""

from keras import ops


def sampled_mean(losses, counts):
    """Divides each image's sum by its own number of samples, and averages over the images.

    No image weighs more than another, and a batch may be split in any way: the mean over its
    parts, weighted with their numbers of images, is the mean over the batch.

    Args:
        losses: Float tensor `(B, N)`, 0 where there is nothing to count.
        counts: Tensor `(B,)`: the number of samples of each image. An image with none counts 0.

    Returns:
        Scalar.
    """
    counts = ops.maximum(ops.cast(counts, losses.dtype), 1.0)
    return ops.mean(ops.sum(losses, axis=1) / counts)
