"""The connected components of masks, numbered in raster order of their first pixels."""

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.label_maps import check_label_maps
from kvision.ops.operation import call_operation

_NAME = "connected_components"


def connected_components(mask, *, connectivity=8):
    """Numbers the connected components of masks.

    Neighbouring pixels of the mask belong to one component. Those of an image are numbered from 1
    in raster order of their first pixels, as `scipy.ndimage.label` and `skimage.measure.label`
    number those of a binary image.

    There is no gradient.

    Args:
        mask: Bool or integer tensor of shape `(batch, height, width)`: the foreground is where it
            is not 0. An image must have less than 2^31 pixels.
        connectivity: 4, where neighbours share a side, or 8, where they share a corner at least.

    Returns:
        Int32 tensor of shape `(batch, height, width)`: the number of the component, or 0 for
        background. The greatest number of an image is its number of components.

    Raises:
        TypeError: If the mask is neither bool nor of integers.
        ValueError: If `connectivity` is neither 4 nor 8, or the mask has a wrong rank or size.
    """
    return call_operation(ConnectedComponentsOperation, (mask,), connectivity=connectivity)


@keras.saving.register_keras_serializable("kvision")
class ConnectedComponentsOperation(keras.Operation):
    """`connected_components` as a node of a functional model. Arguments as there."""

    def __init__(self, *, connectivity=8, name=None):
        super().__init__(name=name)
        check_connectivity(_NAME, connectivity)
        self.connectivity = int(connectivity)

    def call(self, mask):
        mask = ops.convert_to_tensor(mask)
        check_label_maps(_NAME, "mask", mask)
        run = _native if native.use_native() else _reference
        return run(ops.cast(mask, "bool"), self.connectivity)

    def compute_output_spec(self, mask):
        check_label_maps(_NAME, "mask", mask)
        return keras.KerasTensor(mask.shape, dtype="int32")


def check_connectivity(op, connectivity):
    """Raises `ValueError` unless it is 4 or 8."""
    if isinstance(connectivity, bool) or connectivity not in (4, 8):
        raise ValueError(f"{op}: `connectivity` must be 4 or 8. Received: {connectivity!r}.")


def _native(mask, connectivity):
    return native.call(_NAME, mask, connectivity=connectivity)


def _reference(mask, connectivity):
    """As `_native`, in `keras.ops`."""
    return numbered(first_pixels(mask, connectivity), mask)


# Behind all pixels.
_NOWHERE = 2**31 - 1


def first_pixels(mask, connectivity):
    """Where the component of each pixel begins.

    Every pixel points to one of its component that is not behind it, at first to itself. It learns
    of better ones from its neighbours; what a pixel learns, the one that it points to learns, too;
    and all follow their pointers, until nothing changes. Pointers then lead to the first pixel of
    a component in one step.

    Args:
        mask: Bool tensor `(batch, height, width)`.
        connectivity: 4 or 8.

    Returns:
        Int32 tensor of the mask's shape, places in the flattened image; of pixels outside the mask,
        their own.
    """

    def learn(_, pointers):
        known = ops.where(mask, pointers, _NOWHERE)
        best = ops.where(mask, _least_around(known, connectivity), pointers)
        better = ops.minimum(best, least_of_groups(best, pointers))
        for _ in range(2):
            better = at(better, better)
        return ops.any(better != pointers), better

    return ops.while_loop(lambda changed, _: changed, learn, (ops.any(mask), places(mask)))[1]


def _least_around(values, connectivity):
    """The least of each pixel's and its neighbours'."""
    rows = ops.pad(values, [(0, 0), (1, 1), (0, 0)], constant_values=_NOWHERE)
    in_column = ops.minimum(ops.minimum(rows[:, :-2], rows[:, 2:]), values)
    seen = in_column if connectivity == 8 else values
    columns = ops.pad(seen, [(0, 0), (0, 0), (1, 1)], constant_values=_NOWHERE)
    in_row = ops.minimum(columns[:, :, :-2], columns[:, :, 2:])
    return ops.minimum(in_row, in_column)


def numbered(first, foreground):
    """Numbers from 1 an image, in the order of the first pixels.

    Args:
        first: As `first_pixels` returns it.
        foreground: Bool tensor of that shape; elsewhere the number is 0.
    """
    batch, height, width = ops.shape(first)
    begins = ops.cast((first == places(first)) & foreground, "int32")
    number = ops.cumsum(ops.reshape(begins, (batch, height * width)), axis=1)
    return ops.where(foreground, at(number, first), 0)


def places(images):
    """For every pixel its place in the flattened image."""
    _, height, width = ops.shape(images)
    own = ops.reshape(ops.arange(height * width, dtype="int32"), (1, height, width))
    return ops.zeros_like(images, dtype="int32") + own


def _in_batch(place):
    batch, height, width = ops.shape(place)
    start = ops.arange(batch, dtype="int32") * (height * width)
    return ops.reshape(place + ops.reshape(start, (-1, 1, 1)), (-1,))


def at(values, place):
    """What each image has where its pixels point to."""
    return ops.reshape(ops.take(ops.reshape(values, (-1,)), _in_batch(place)), ops.shape(place))


def least_of_groups(values, place):
    """At every place, the least value of the pixels that point to it; `2**31 - 1` if none does."""
    # Where none does, the greatest is the lowest of all numbers, which has no opposite.
    return -ops.maximum(_of_groups(ops.segment_max, -values, place), -_NOWHERE)


def sum_of_groups(values, place):
    """At every place, the sum of the values of the pixels that point to it."""
    return _of_groups(ops.segment_sum, values, place)


def _of_groups(reduce, values, place):
    batch, height, width = ops.shape(place)
    # PyTorch wants one group at least.
    number = batch * height * width + 1
    groups = reduce(ops.reshape(values, (-1,)), _in_batch(place), num_segments=number)
    return ops.reshape(groups[:-1], ops.shape(place))
