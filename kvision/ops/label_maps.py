"""Checks of label maps and masks `(batch, height, width)`, for every op that takes them."""

import keras


def check_label_maps(op, name, maps, *, max_side=None):
    """Raises unless dtype and static shape are those of a batch of label maps or masks.

    Args:
        op: Name of the op, for the message.
        name: Of the argument.
        maps: The tensor.
        max_side: The most pixels along a side; `None` for any.

    Raises:
        TypeError: If the maps are neither bool nor of integers.
        ValueError: If they have a wrong rank or size.
    """
    dtype = keras.backend.standardize_dtype(maps.dtype)
    if dtype != "bool" and "int" not in dtype:
        raise TypeError(f"{op}: `{name}` must be bool or integers. Received: {dtype}.")
    check_image_shape(op, name, tuple(maps.shape), max_side=max_side)


def check_image_shape(op, name, shape, *, max_side=None):
    """Raises `ValueError` unless it is of a batch of images whose pixels int32 can number."""
    if len(shape) != 3:
        raise ValueError(
            f"{op}: `{name}` must have shape (batch, height, width). Received: {shape}."
        )
    height, width = (size or 0 for size in shape[1:])
    if max_side is not None and max(height, width) > max_side:
        raise ValueError(
            f"{op}: an image must be at most {max_side} pixels high and wide. "
            f"Received: {shape[1]} by {shape[2]}."
        )
    if height * width >= 2**31:
        raise ValueError(
            f"{op}: an image must have less than 2^31 pixels. Received: {shape[1]} by {shape[2]}."
        )
