"""What every op that pools the region of a feature map below a box asks of its arguments.

`name` is the op, for the error messages.
"""

import keras

from kvision.ops.arguments import check_number, standardize_pair


def standardize_output_size(name, output_size):
    """Returns `output_size`, an int or a pair, as a pair of positive ints."""
    return standardize_pair(name, "output_size", output_size)


def check_spatial_scale(name, spatial_scale):
    """Raises unless the scale is a number, positive and finite."""
    check_number(name, "spatial_scale", spatial_scale)
    if not 0 < spatial_scale < float("inf"):
        raise ValueError(
            f"{name}: `spatial_scale` must be positive and finite. Received: {spatial_scale}."
        )


def check_tensors(name, features, boxes, features_name="features"):
    """Raises `ValueError` for ranks, static sizes or dtypes that pooling does not take."""
    feature_shape, box_shape = tuple(features.shape), tuple(boxes.shape)
    if len(feature_shape) != 4:
        raise ValueError(
            f"{name}: `{features_name}` must have shape (batch, height, width, channels). "
            f"Received: {feature_shape}."
        )
    check_boxes(name, boxes)
    if None not in (feature_shape[0], box_shape[0]) and feature_shape[0] != box_shape[0]:
        raise ValueError(
            f"{name}: `{features_name}` and `boxes` must have the same batch size. "
            f"Received: {feature_shape} and {box_shape}."
        )
    dtype = keras.backend.standardize_dtype(features.dtype)
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(
            f"{name}: `{features_name}` must be float16, bfloat16, float32 or float64. "
            f"Received: {dtype}."
        )


def check_boxes(name, boxes):
    """Raises `ValueError` unless `boxes` has four corners a box, of a dtype that holds pixels."""
    shape = tuple(boxes.shape)
    if len(shape) != 3 or shape[2] not in (4, None):
        raise ValueError(
            f"{name}: `boxes` must have shape (batch, num_boxes, 4). Received: {shape}."
        )
    dtype = keras.backend.standardize_dtype(boxes.dtype)
    if dtype in ("float16", "bfloat16", "bool", "string") or dtype.startswith("complex"):
        raise ValueError(
            f"{name}: `boxes` must be float32 or float64: pixel coordinates lose their fractions "
            f"in half precision. Received: {dtype}."
        )


def output_shape(feature_shape, box_shape, output_size):
    """The one formula of the result's shape; `None` stands for what is unknown."""
    batch = box_shape[0] if box_shape[0] is not None else feature_shape[0]
    return (batch, box_shape[1], *output_size, feature_shape[3])
