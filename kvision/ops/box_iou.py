"""Overlaps of boxes: IoU, GIoU, DIoU and CIoU of every pair, or of the boxes at equal places.

Sources: Rezatofighi, Tsoi, Gwak, Sadeghian, Reid, Savarese, "Generalized Intersection over Union",
2019; Zheng, Wang, Liu, Li, Ye, Ren, "Distance-IoU Loss", 2020.
"""

import functools
import math

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.operation import call_operation

IOU_KINDS = ("iou", "giou", "diou", "ciou")
_MUST_BROADCAST = "the leading axes of `boxes1` and `boxes2` must broadcast."


def pairwise_iou(boxes1, boxes2, *, kind="iou"):
    """How much every box of one set overlaps every box of another.

    With `I` the area of the intersection, `U` of the union and `C` the smallest box around both:

    - `"iou"`: `I / U`, in [0, 1].
    - `"giou"`: `iou - (|C| - U) / |C|`, in [-1, 1].
    - `"diou"`: `iou - d^2 / c^2`, with the distance `d` of the centres and the diagonal `c` of `C`;
      in [-1, 1].
    - `"ciou"`: `diou - a v`, where `v = 4 / pi^2 (atan(w2 / h2) - atan(w1 / h1))^2` and
      `a = v / (1 - iou + v)` is held constant in the gradient; in [-1.5, 1].

    A reversed side has length 0. A fraction whose denominator is 0 counts as 0: there is no epsilon
    in them. A box with a corner that is NaN or infinite, or with an area that overflows, gives NaN
    and no gradient. Gradients flow to both boxes; where two edges coincide each has half of it.

    Args:
        boxes1: Float tensor of shape `(..., num_boxes1, 4)`, `xyxy` in any unit.
        boxes2: Float tensor of shape `(..., num_boxes2, 4)` in the same unit. Leading axes
            broadcast.
        kind: `"iou"`, `"giou"`, `"diou"` or `"ciou"`.

    Returns:
        Tensor of shape `(..., num_boxes1, num_boxes2)`, float64 if either is, else float32.

    Raises:
        TypeError: If boxes are not floating point.
        ValueError: If `kind` is unknown, or a shape does not fit.
    """
    return call_operation(BoxIoUOperation, (boxes1, boxes2), kind=kind, pairwise=True)


def elementwise_iou(boxes1, boxes2, *, kind="iou"):
    """How much each box of one set overlaps the box at the same place of another.

    Args:
        boxes1: Float tensor of shape `(..., 4)`, `xyxy` in any unit.
        boxes2: Float tensor of shape `(..., 4)` in the same unit; the two shapes broadcast.
        kind: As of `pairwise_iou`.

    Returns:
        Tensor of shape `(...)`, float64 if either is, else float32. Rules and gradients as those of
        `pairwise_iou`.

    Raises:
        TypeError: If boxes are not floating point.
        ValueError: If `kind` is unknown, or a shape does not fit.
    """
    return call_operation(BoxIoUOperation, (boxes1, boxes2), kind=kind, pairwise=False)


@keras.saving.register_keras_serializable("kvision")
class BoxIoUOperation(keras.Operation):
    """`pairwise_iou`, or `elementwise_iou`, as a node of a functional model. Arguments as there."""

    def __init__(self, *, kind="iou", pairwise=True, name=None):
        super().__init__(name=name)
        if kind not in IOU_KINDS:
            raise ValueError(
                f"{_name(pairwise)}: `kind` must be one of {IOU_KINDS}. Received: {kind!r}."
            )
        self.kind = kind
        self.pairwise = bool(pairwise)

    def call(self, boxes1, boxes2):
        boxes1, boxes2 = (
            _as_boxes(_name(self.pairwise), name, boxes)
            for name, boxes in (("boxes1", boxes1), ("boxes2", boxes2))
        )
        shape = self._output_shape(boxes1.shape, boxes2.shape)
        dtype = _wider(boxes1, boxes2)
        boxes1, boxes2 = ops.cast(boxes1, dtype), ops.cast(boxes2, dtype)
        if not native.use_native():
            return _reference(boxes1, boxes2, self.kind, self.pairwise)
        output = _native(boxes1, boxes2, self.kind, self.pairwise)
        if None in (*boxes1.shape, *boxes2.shape):
            output.set_shape(shape)
        return output

    def compute_output_spec(self, boxes1, boxes2):
        shape = self._output_shape(boxes1.shape, boxes2.shape)
        return keras.KerasTensor(shape, dtype=_wider(boxes1, boxes2))

    def _output_shape(self, shape1, shape2):
        shape1, shape2 = tuple(shape1), tuple(shape2)
        name = _name(self.pairwise)
        axes = "(..., num_boxes, 4)" if self.pairwise else "(..., 4)"
        for argument, shape in (("boxes1", shape1), ("boxes2", shape2)):
            if len(shape) < 1 + self.pairwise or shape[-1] not in (4, None):
                raise ValueError(f"{name}: `{argument}` must have shape {axes}. Received: {shape}.")
        kept = 2 if self.pairwise else 1
        leading = _broadcast(shape1[:-kept], shape2[:-kept])
        if leading is None:
            raise ValueError(f"{name}: {_MUST_BROADCAST} Received: {shape1} and {shape2}.")
        return (*leading, shape1[-2], shape2[-2]) if self.pairwise else tuple(leading)


def _broadcast(axes1, axes2):
    """The axes that both broadcast to, where `None` is not known; `None` if they do not."""
    rank = max(len(axes1), len(axes2))
    axes1, axes2 = ((1,) * (rank - len(axes)) + axes for axes in (axes1, axes2))
    broadcast = []
    for size1, size2 in zip(axes1, axes2, strict=True):
        if size1 == 1 or size2 == 1:
            broadcast.append(size2 if size1 == 1 else size1)
        elif None not in (size1, size2) and size1 != size2:
            return None
        else:
            broadcast.append(size1 if size2 is None else size2)
    return tuple(broadcast)


def _name(pairwise):
    return "pairwise_iou" if pairwise else "elementwise_iou"


def _as_boxes(name, argument, boxes):
    """Boxes as a float32 or float64 tensor: halves cannot hold pixel coordinates."""
    dtype = getattr(boxes, "dtype", None)
    if dtype is None:
        return ops.convert_to_tensor(boxes, dtype="float32")
    if "float" not in str(dtype):
        raise TypeError(f"{name}: `{argument}` must be floating point. Received: {dtype}.")
    return ops.convert_to_tensor(boxes)


def _wider(boxes1, boxes2):
    dtypes = [keras.backend.standardize_dtype(boxes.dtype) for boxes in (boxes1, boxes2)]
    return "float64" if "float64" in dtypes else "float32"


def _native(boxes1, boxes2, kind, pairwise):
    """Broadcasts, folds leading axes to one, and runs the native op."""
    if None in (*boxes1.shape, *boxes2.shape):
        return _native_of_unknown_sizes(boxes1, boxes2, kind, pairwise)
    kept = 2 if pairwise else 1
    shape1, shape2 = tuple(boxes1.shape), tuple(boxes2.shape)
    leading = _broadcast(shape1[:-kept], shape2[:-kept])
    own = (shape1[-2], shape2[-2]) if pairwise else ()
    batch = math.prod(leading)

    def fold(boxes, shape):
        whole = (*leading, *shape[-kept:])
        boxes = boxes if shape == whole else ops.broadcast_to(boxes, whole)
        return ops.reshape(boxes, (batch, shape[-2] if pairwise else 1, 4))

    output = native.call(_name(pairwise), fold(boxes1, shape1), fold(boxes2, shape2), kind=kind)
    return ops.reshape(output, (*leading, *own))


def _native_of_unknown_sizes(boxes1, boxes2, kind, pairwise):
    """The same in a TensorFlow graph that knows some sizes only when it runs."""
    import tensorflow as tf

    kept = 2 if pairwise else 1
    shape1, shape2 = tf.shape(boxes1), tf.shape(boxes2)
    with tf.control_dependencies(_check_leading_axes(boxes1, boxes2, pairwise)):
        leading = tf.broadcast_dynamic_shape(shape1[:-kept], shape2[:-kept])
    batch = tf.reduce_prod(leading)
    sizes1, sizes2 = (shape1[-2:], shape2[-2:]) if pairwise else ([1, 4], [1, 4])

    def fold(boxes, sizes):
        whole = tf.concat([leading, sizes[-kept:]], axis=0)
        return tf.reshape(tf.broadcast_to(boxes, whole), tf.stack([batch, sizes[0], 4]))

    output = native.call(_name(pairwise), fold(boxes1, sizes1), fold(boxes2, sizes2), kind=kind)
    own = tf.stack([sizes1[0], sizes2[0]]) if pairwise else tf.zeros([0], tf.int32)
    return tf.reshape(output, tf.concat([leading, own], axis=0))


def _check_leading_axes(boxes1, boxes2, pairwise):
    """The check, in the graph, of leading axes that only the running graph knows."""
    import tensorflow as tf

    if boxes1.shape.is_fully_defined() and boxes2.shape.is_fully_defined():
        return []
    kept = 2 if pairwise else 1
    axes = [tf.shape(boxes)[:-kept] for boxes in (boxes1, boxes2)]
    rank = max(boxes1.shape.rank, boxes2.shape.rank) - kept
    axes1, axes2 = (tf.pad(own, [[rank - own.shape[0], 0]], constant_values=1) for own in axes)
    broadcast = tf.reduce_all((axes1 == axes2) | (axes1 == 1) | (axes2 == 1))
    message = f"{_name(pairwise)}: {_MUST_BROADCAST} Received: "
    return [tf.debugging.Assert(broadcast, [message, tf.shape(boxes1), " and ", tf.shape(boxes2)])]


def _gradients(name, call, output_gradient):
    boxes = call.tensors["boxes1"], call.tensors["boxes2"]
    gradient1, gradient2 = native.call(
        f"{name}_gradient", output_gradient, *boxes, kind=call.attributes["kind"]
    )
    return {"boxes1": gradient1, "boxes2": gradient2}


for _op in ("pairwise_iou", "elementwise_iou"):
    native.gradient(_op, keeps=("boxes1", "boxes2"))(functools.partial(_gradients, _op))


def _reference(boxes1, boxes2, kind, pairwise):
    """As `_native`, in `keras.ops`."""
    if pairwise:
        boxes1, boxes2 = ops.expand_dims(boxes1, -2), ops.expand_dims(boxes2, -3)
    finite1, finite2 = _is_finite(boxes1), _is_finite(boxes2)
    # Without them no infinity meets the zero gradient of what `where` does not take.
    boxes1 = ops.where(finite1[..., None], boxes1, 0.0)
    boxes2 = ops.where(finite2[..., None], boxes2, 0.0)
    corners1, corners2 = _corners(boxes1), _corners(boxes2)
    (x1, y1, x2, y2), (u1, v1, u2, v2) = corners1, corners2
    left, top, right, bottom = (
        _greater(x1, u1),
        _greater(y1, v1),
        _smaller(x2, u2),
        _smaller(y2, v2),
    )
    meet = (right > left) & (bottom > top)
    intersection = ops.where(meet, (right - left) * (bottom - top), 0.0)
    union = _area(*corners1) + _area(*corners2) - intersection
    iou = _fraction(intersection, union)
    around_width = _side(_smaller(x1, u1), _greater(x2, u2))
    around_height = _side(_smaller(y1, v1), _greater(y2, v2))
    result = iou
    if kind == "giou":
        around = around_width * around_height
        result = iou - _fraction(around - union, around)
    elif kind in ("diou", "ciou"):
        distance = ops.square((x1 + x2 - u1 - u2) * 0.5) + ops.square((y1 + y2 - v1 - v2) * 0.5)
        diagonal = ops.square(around_width) + ops.square(around_height)
        result = iou - _fraction(distance, diagonal)
    if kind == "ciou":
        v = 4.0 / math.pi**2 * ops.square(_angle(*corners1) - _angle(*corners2))
        result = result - ops.stop_gradient(_fraction(v, 1.0 - iou + v)) * v
    return ops.where(finite1 & finite2, result, math.nan)


def _corners(boxes):
    return [boxes[..., i] for i in range(4)]


def _smaller(a, b):
    """The minimum; equal ones have half of the gradient each, which differs among backends."""
    return ops.where(a == b, 0.5 * a + 0.5 * b, ops.where(a < b, a, b))


def _greater(a, b):
    return -_smaller(-a, -b)


def _side(low, high):
    return ops.where(high > low, high - low, 0.0)


def _area(x1, y1, x2, y2):
    return _side(x1, x2) * _side(y1, y2)


def _angle(x1, y1, x2, y2):
    width, height = _side(x1, x2), _side(y1, y2)
    some = (width > 0) | (height > 0)
    # No size, no angle, and no gradient, which would be 0 / 0.
    return ops.where(some, ops.arctan2(width, ops.where(some, height, 1.0)), 0.0)


def _fraction(a, b):
    positive = b > 0
    return ops.where(positive, a / ops.where(positive, b, 1.0), 0.0)


def _is_finite(boxes):
    area = _area(*_corners(boxes))
    return ops.isfinite(ops.sum(boxes - boxes, axis=-1) + (area - area))
