"""The Euclidean distance transform of a label map: each instance its own, in one call."""

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.operation import call_operation

_NAME = "distance_transform"
_MAX_SIDE = 23169
# More than the square of any distance in an image of that size; with such a square it fits in
# 32 bits.
_FAR = 2**30


def distance_transform(instances, *, image_border_is_outside=False):
    """The distance of each pixel to the nearest pixel outside its instance.

    Distances are Euclidean, between pixel centres, and exact. Every pixel of another id is outside,
    be it background or an instance, so that instances that touch are separated: the result is that
    of a distance transform for each instance alone. A mask of zeros and ones is one instance.

    - Pixels of one id are one instance, connected or not. The background has distance 0.
    - Beyond the image there is nothing, unless `image_border_is_outside`: then the nearest pixel
      outside may lie just beyond the border, as if a frame of background was drawn around the
      image. So it may for an instance that fills the image, and has no other pixel outside.

    There is no gradient.

    Args:
        instances: Integer or bool tensor of shape `(batch, height, width)`: an instance's id,
            greater than 0 and of any size that int32 holds, or background. At most 23169 pixels
            high and wide.
        image_border_is_outside: Whether what lies beyond the image is outside.

    Returns:
        Float32 tensor of shape `(batch, height, width)`, in pixels.

    Raises:
        TypeError: If the instances are not integers.
        ValueError: If the instances have a wrong rank or size.
    """
    return call_operation(
        DistanceTransformOperation,
        (instances,),
        image_border_is_outside=image_border_is_outside,
    )


@keras.saving.register_keras_serializable("kvision")
class DistanceTransformOperation(keras.Operation):
    """`distance_transform` as a node of a functional model. Arguments as there."""

    def __init__(self, *, image_border_is_outside=False, name=None):
        super().__init__(name=name)
        self.image_border_is_outside = bool(image_border_is_outside)

    def call(self, instances):
        instances = instance_ids(_NAME, instances)
        if native.use_native():
            return native.call(
                _NAME, instances, image_border_is_outside=self.image_border_is_outside
            )
        return reference_distance(instances, frames_of(instances, self.image_border_is_outside))

    def compute_output_spec(self, instances):
        check_instances(_NAME, instances)
        return keras.KerasTensor(instances.shape, dtype="float32")


def instance_ids(name, instances):
    """The instances as int32 tensor, checked in the name of an op."""
    instances = ops.convert_to_tensor(instances)
    check_instances(name, instances)
    return ops.cast(instances, "int32")


def check_instances(name, instances):
    """Raises unless the dtype and the static shape are those of a batch of label maps."""
    dtype, shape = keras.backend.standardize_dtype(instances.dtype), tuple(instances.shape)
    if "int" not in dtype and dtype != "bool":
        raise TypeError(f"{name}: `instances` must be integers. Received: {dtype}.")
    if len(shape) != 3:
        raise ValueError(
            f"{name}: `instances` must have shape (batch, height, width). Received: {shape}."
        )
    if max(size or 0 for size in shape[1:]) > _MAX_SIDE:
        raise ValueError(
            f"{name}: an image must be at most {_MAX_SIDE} pixels high and wide. "
            f"Received: {shape[1]} by {shape[2]}."
        )


def frames_of(instances, image_border_is_outside):
    """Of which images the border is outside: of all, or of those that one instance fills."""
    filled = ops.all(instances == instances[:, :1, :1], axis=(1, 2), keepdims=True)
    return ops.logical_or(filled, image_border_is_outside)


def reference_distance(instances, framed):
    """The distances in `keras.ops`; `framed` is what `frames_of` returns.

    A pixel first learns how far away in its column the next pixel of another id is. Then it looks
    farther and farther to both sides along its row, where a pixel of its own id knows one that is
    outside, and any other pixel is one itself.
    """

    def look(values, offset, axis):
        """What the pixels `offset` away know of the nearest pixel outside, squared."""
        near, inside = neighbours(instances, offset, axis)
        there = ops.where(near == instances, neighbours(values, offset, axis)[0], 0)
        return ops.where(inside, there, ops.where(framed, 0, _FAR)) + offset * offset

    squared = ops.full_like(instances, _FAR)
    for axis in (1, 2):
        known, size = squared, ops.shape(instances)[axis]

        def is_open(offset, squared, size=size):
            return (offset <= size) & ops.any((instances > 0) & (squared > offset * offset))

        def nearer(offset, squared, known=known, axis=axis):
            found = ops.minimum(look(known, offset, axis), look(known, -offset, axis))
            return offset + 1, ops.minimum(squared, found)

        _, squared = ops.while_loop(is_open, nearer, (ops.cast(1, "int32"), squared))
    return ops.sqrt(ops.cast(ops.where(instances > 0, squared, 0), "float32"))


def neighbours(values, offset, axis):
    """The values `offset` pixels down or to the right, and which of them lie in the image.

    For those that do not, the last ones that do.
    """
    size = ops.shape(values)[axis]
    wanted = ops.arange(size, dtype="int32") + offset
    source = ops.clip(wanted, 0, size - 1)
    inside = ops.reshape(source == wanted, [-1 if i == axis else 1 for i in range(3)])
    return ops.reshape(ops.take(values, source, axis=axis), ops.shape(values)), inside
