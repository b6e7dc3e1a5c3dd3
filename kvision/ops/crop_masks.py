"""Crops the masks of instances to boxes: the targets of a mask head.

Source: He, Gkioxari, Dollár, Girshick, "Mask R-CNN", 2017, section 3; sampled as torchvision's
`project_masks_on_boxes`.
"""

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.arguments import standardize_pair
from kvision.ops.operation import call_operation
from kvision.ops.region import check_boxes, standardize_output_size
from kvision.ops.separable_pooling import bin_weights

_NAME = "crop_masks"
_MAX_PIXELS = 2**31 - 1


def crop_masks(masks, boxes, rows, *, output_size, image_size=None):
    """Crops, for each box, the mask of one instance to the box, on a fixed grid of bins.

    A value is the share of its bin that the mask covers: `roi_align` of the mask as an image of
    zeros and ones, not `aligned`, with the adaptive grid, as torchvision makes the targets of
    Mask R-CNN. It is not rounded to 0 or 1.

    The masks of an image come in one of two forms, and no mask is ever made of the size of the
    image:

    - a label map, where instances do not overlap: the pixels of the instance of row `r` are
      `r + 1`;
    - run lengths of COCO, where `image_size` is given: a mask's pixels, column after column, are
      so many zeros, so many ones, so many zeros, ... Zeros at the end pad a mask with few runs;
      pixels after the last run are background.

    Polygons become run lengths once, where data are read: `kvision.data.polygons_to_runs`.

    - A box of no or negative extent gives zeros. So do a box with a corner that is not finite, a
      row that there is none of, such as -1, and run lengths of which one is negative.
    - A box narrower than a pixel is raised to a pixel.
    - What of a box lies off the image counts as background, but for samples less than one pixel
      outside, which read the border pixel.

    There is no gradient.

    Args:
        masks: Integer tensor, a label map `(batch, height, width)`, or run lengths
            `(batch, num_instances, num_runs)`. Fewer than 2^31 pixels an image.
        boxes: Tensor of shape `(batch, num_boxes, 4)`, `xyxy` in pixels of the image; computed
            with in float32.
        rows: Integer tensor of shape `(batch, num_boxes)`: the row, among the instances of its
            image, of the one whose mask a box is to get; -1 for none. It is what matching gives.
        output_size: Number of bins, an int or a pair `(height, width)`.
        image_size: Pair `(height, width)`, or an int, of the image that run lengths are of;
            `None` if `masks` is a label map.

    Returns:
        Float32 tensor of shape `(batch, num_boxes, output_height, output_width)`, in [0, 1].

    Raises:
        TypeError: If the masks or the rows are not integers.
        ValueError: If an argument has a wrong value, or a tensor a wrong rank or size.
    """
    return call_operation(
        CropMasksOperation,
        (masks, boxes, rows),
        output_size=output_size,
        image_size=image_size,
    )


@keras.saving.register_keras_serializable("kvision")
class CropMasksOperation(keras.Operation):
    """`crop_masks` as a node of a functional model. Arguments as there."""

    def __init__(self, *, output_size, image_size=None, name=None):
        super().__init__(name=name)
        self.output_size = standardize_output_size(_NAME, output_size)
        self.image_size = image_size
        if image_size is not None:
            self.image_size = standardize_pair(_NAME, "image_size", image_size)
            _check_pixels(self.image_size)

    def call(self, masks, boxes, rows):
        masks, boxes, rows = map(ops.convert_to_tensor, (masks, boxes, rows))
        self._check(masks, boxes, rows)
        masks, rows = ops.cast(masks, "int32"), ops.cast(rows, "int32")
        boxes = ops.stop_gradient(ops.cast(boxes, "float32"))
        sizes = dict(zip(("output_height", "output_width"), self.output_size, strict=True))
        if native.use_native():
            if self.image_size is None:
                return native.call("crop_masks", masks, boxes, rows, **sizes)
            height, width = self.image_size
            return native.call(
                "crop_mask_runs", masks, boxes, rows, height=height, width=width, **sizes
            )
        if self.image_size is None:
            return _crop_label_map(masks, boxes, rows, self.output_size)
        return _crop_runs(masks, boxes, rows, self.output_size, self.image_size)

    def compute_output_spec(self, masks, boxes, rows):
        self._check(masks, boxes, rows)
        batch, number = (
            next((size for size in sizes if size is not None), None)
            for sizes in zip(boxes.shape[:2], rows.shape, strict=True)
        )
        if batch is None:
            batch = masks.shape[0]
        return keras.KerasTensor((batch, number, *self.output_size), dtype="float32")

    def _check(self, masks, boxes, rows):
        axes = "(batch, height, width)"
        if self.image_size is not None:
            axes = "(batch, num_instances, num_runs)"
        for name, tensor in {"masks": masks, "rows": rows}.items():
            dtype = keras.backend.standardize_dtype(tensor.dtype)
            if "int" not in dtype:
                raise TypeError(f"{_NAME}: `{name}` must be integers. Received: {dtype}.")
        if len(masks.shape) != 3:
            raise ValueError(
                f"{_NAME}: `masks` must have shape {axes}. Received: {tuple(masks.shape)}."
            )
        if self.image_size is None:
            _check_pixels(masks.shape[1:])
        check_boxes(_NAME, boxes)
        if len(rows.shape) != 2:
            raise ValueError(
                f"{_NAME}: `rows` must have shape (batch, num_boxes). "
                f"Received: {tuple(rows.shape)}."
            )
        shapes = tuple(masks.shape), tuple(boxes.shape), tuple(rows.shape)
        batches = {shape[0] for shape in shapes} - {None}
        numbers = {shape[1] for shape in shapes[1:]} - {None}
        if len(batches) > 1 or len(numbers) > 1:
            raise ValueError(
                f"{_NAME}: `masks`, `boxes` and `rows` must have the same batch size, and `boxes` "
                "and `rows` the same number of boxes. "
                f"Received: {shapes[0]}, {shapes[1]} and {shapes[2]}."
            )


def _check_pixels(size):
    height, width = size
    if height is not None and width is not None and height * width > _MAX_PIXELS:
        raise ValueError(
            f"{_NAME}: an image must have fewer than 2^31 pixels. Received: {height} by {width}."
        )


# The reference in `keras.ops`: one mask after the other, as an image of zeros and ones.


def _crop_label_map(label_map, boxes, rows, output_size):
    height, width = ops.shape(label_map)[1:]

    def crop(box_and_row):
        box, row = box_and_row
        # The greatest int32 is no row: its id is none.
        is_row = (row >= 0) & (row < _MAX_PIXELS)
        mask = (label_map == row[:, None, None] + 1) & is_row[:, None, None]
        rows_of_bins, columns_of_bins = _weights(box[:, None], height, width, output_size)
        return _contract(rows_of_bins[:, 0], mask, columns_of_bins[:, 0])

    # One box more than there are: a loop of no steps has no result to take a shape from.
    boxes = ops.pad(boxes, ((0, 0), (0, 1), (0, 0)))
    rows = ops.pad(rows, ((0, 0), (0, 1)))
    crops = ops.map(crop, (ops.swapaxes(boxes, 0, 1), ops.swapaxes(rows, 0, 1)))
    return ops.swapaxes(crops[:-1], 0, 1)


def _crop_runs(runs, boxes, rows, output_size, image_size):
    height, width = image_size
    batch, number = ops.shape(boxes)[:2]
    # Row 0 is now a mask of nothing, for boxes whose row is none.
    runs = ops.pad(runs, ((0, 0), (1, 0), (0, 0)))
    num_masks, num_runs = ops.shape(runs)[1:]
    is_row = (rows >= 0) & (rows < num_masks - 1)
    chosen = ops.where(is_row, rows + 1, 0) + num_masks * ops.arange(batch, dtype="int32")[:, None]
    runs = ops.reshape(runs, (batch * num_masks, num_runs))
    runs = ops.take(runs, ops.reshape(chosen, (batch * number,)), axis=0)

    def crop(box_and_runs):
        box, runs = box_and_runs
        mask = ops.transpose(ops.reshape(_decode(runs, height * width), (width, height)))
        rows_of_bins, columns_of_bins = _weights(box[None, None], height, width, output_size)
        return _contract(rows_of_bins[0, 0], mask, columns_of_bins[0, 0])

    boxes = ops.pad(ops.reshape(boxes, (batch * number, 4)), ((0, 1), (0, 0)))
    crops = ops.map(crop, (boxes, ops.pad(runs, ((0, 1), (0, 0)))))
    return ops.reshape(crops[:-1], (batch, number, *output_size))


def _decode(runs, pixels):
    """A mask's pixels in the order of its runs."""
    runs = ops.clip(runs, -1, pixels)
    ends = ops.cumsum(runs)
    # Once a sum is over the number of pixels, or over that of int32, all ends lie there.
    is_over = ops.cumsum(ops.cast((ends > pixels) | (ends < 0), "int32")) > 0
    ends = ops.where(is_over, pixels, ends)
    pixel = ops.arange(pixels, dtype="int32")
    ended = ops.cast(ops.searchsorted(ends, pixel, side="right"), "int32")
    is_mask = ops.all(runs >= 0)
    return (ended % 2 == 1) & (ended < ops.shape(runs)[0]) & is_mask


def _weights(boxes, height, width, output_size):
    has_extent = ops.all(boxes[..., 2:] > boxes[..., :2], axis=-1)[..., None, None]
    weights = bin_weights(boxes, height, width, 1.0, output_size, 0, False)
    return [ops.where(has_extent, axis_weights, 0.0) for axis_weights in weights]


def _contract(rows, mask, columns):
    """`rows @ mask @ columns` with the weights of rows `(..., bins, height)` and of columns."""
    return ops.matmul(ops.matmul(rows, ops.cast(mask, "float32")), ops.swapaxes(columns, -1, -2))
