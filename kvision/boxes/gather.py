"""Picking rows of a batched tensor."""

from keras import ops


def gather_rows(values, indices):
    """Row `indices[b, k]` of each item `b` of a batch.

    Args:
        values: Tensor `(B, N, ...)`.
        indices: Int32 tensor `(B, K)`, or `(1, K)` for the same of every item, in [0, N).

    Returns:
        Tensor `(B, K, ...)`.
    """
    batch, length, *rest = ops.shape(values)
    offsets = ops.arange(batch, dtype="int32")[:, None] * length
    return ops.take(ops.reshape(values, (-1, *rest)), indices + offsets, axis=0)
