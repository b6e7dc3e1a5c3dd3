"""Pastes the masks of detected boxes into an image: what a mask head says, in pixels.

Sources: He, Gkioxari, Dollár, Girshick, "Mask R-CNN", 2017, section 3; the rules of detectron2's
`paste_masks_in_image` and of torchvision's.
"""

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.arguments import check_number, is_int, standardize_pair
from kvision.ops.operation import call_operation
from kvision.ops.region import check_boxes

FORMS = ("label_map", "runs", "dense")
RULES = ("detectron2", "torchvision")
_NAME = "paste_masks"
_MAX_PIXELS = 2**31 - 1


def paste_masks(
    masks,
    boxes,
    *,
    image_size,
    form="label_map",
    threshold=0.5,
    rule="detectron2",
    num_runs=None,
):
    """Pastes the masks of boxes, each stretched to its box, into images.

    A mask is interpolated between its cells, and a pixel belongs to the instance where it is at
    least `threshold`. The forms are

    - `"label_map"`, `(batch, height, width)` int32: `r + 1` where a pixel belongs to the instance
      of row `r`, 0 for none. Where instances overlap, the first row is on top: detections come
      with their scores descending.
    - `"runs"`, `(batch, num_boxes, num_runs)` int32: run lengths of COCO, of each instance by
      itself. The pixels, column after column, are so many zeros, so many ones, so many zeros, ...;
      zeros at the end are padding. A mask that takes more runs than `num_runs` is not cut: all of
      its row is -1.
    - `"dense"`, `(batch, num_boxes, height, width)`: bool, or with `threshold=None` the
      interpolated values themselves, float32. As large as it looks; computed in `keras.ops`.

    No form but the last makes anything of the size `num_boxes * height * width`. The rules, in
    which pixel `x` has its centre at `x + 1/2`:

    - `"detectron2"`: the cells of a mask are equal parts of its box, values are interpolated
      between their centres at the centres of pixels, and beyond them falls to 0 within half a
      cell outside the box.
    - `"torchvision"`: the mask gets a border of zeros, and the box grows by as much; its corners
      are truncated to integers, and count as pixels of it. Use it to get the pixels of
      torchvision's Mask R-CNN.

    A box of no or negative extent, or with a corner that is not finite, gives nothing, under
    either rule; a value that is NaN is in no instance. There is no gradient.

    Args:
        masks: Float tensor of shape `(batch, num_boxes, mask_height, mask_width)`: probabilities
            of the pixels of each box; computed with in float32.
        boxes: Tensor of shape `(batch, num_boxes, 4)`, `xyxy` in pixels of the image; computed
            with in float32.
        image_size: Pair `(height, width)`, or an int; fewer than 2^31 pixels.
        form: One of `FORMS`.
        threshold: Least probability of a pixel of the instance, greater than 0 and finite.
        rule: One of `RULES`.
        num_runs: Capacity of a row of run lengths, by default `4 * width + 1`: enough for a mask
            that meets every column of the image twice. Of the form `"runs"` alone.

    Returns:
        Tensor of the shape and dtype of the form.

    Raises:
        TypeError: If the masks are not floats, or the threshold no number.
        ValueError: If an argument has a wrong value, or a tensor a wrong rank or size.
    """
    return call_operation(
        PasteMasksOperation,
        (masks, boxes),
        image_size=image_size,
        form=form,
        threshold=threshold,
        rule=rule,
        num_runs=num_runs,
    )


@keras.saving.register_keras_serializable("kvision")
class PasteMasksOperation(keras.Operation):
    """`paste_masks` as a node of a functional model. Arguments as there."""

    def __init__(
        self,
        *,
        image_size,
        form="label_map",
        threshold=0.5,
        rule="detectron2",
        num_runs=None,
        name=None,
    ):
        super().__init__(name=name)
        self.image_size = standardize_pair(_NAME, "image_size", image_size)
        height, width = self.image_size
        if height * width > _MAX_PIXELS:
            raise ValueError(
                f"{_NAME}: an image must have fewer than 2^31 pixels. "
                f"Received: {height} by {width}."
            )
        for argument, value, allowed in (("form", form, FORMS), ("rule", rule, RULES)):
            if value not in allowed:
                raise ValueError(
                    f"{_NAME}: `{argument}` must be one of {allowed}. Received: {value!r}."
                )
        self.form, self.rule = form, rule
        if threshold is not None or form != "dense":
            check_number(_NAME, "threshold", threshold)
            if not 2.0**-126 <= threshold <= 2.0**127:
                raise ValueError(
                    f"{_NAME}: `threshold` must be positive and finite. Received: {threshold!r}."
                )
        self.threshold = threshold if threshold is None else float(threshold)
        if num_runs is not None and not (form == "runs" and is_int(num_runs) and num_runs >= 1):
            raise ValueError(
                f"{_NAME}: `num_runs` must be a positive int, and `form` be 'runs'. "
                f"Received: {num_runs!r} and {form!r}."
            )
        self.num_runs = num_runs if num_runs is None else int(num_runs)

    def call(self, masks, boxes):
        masks, boxes = ops.convert_to_tensor(masks), ops.convert_to_tensor(boxes)
        _check(masks, boxes)
        masks = ops.stop_gradient(ops.cast(masks, "float32"))
        boxes = ops.stop_gradient(ops.cast(boxes, "float32"))
        height, width = self.image_size
        if self.form != "dense" and native.use_native():
            attributes = {"height": height, "width": width, "threshold": self.threshold}
            attributes["rule"] = self.rule
            if self.form == "label_map":
                return native.call("paste_masks", masks, boxes, **attributes)
            num_runs = self._num_runs()
            return native.call("paste_mask_runs", masks, boxes, **attributes, num_runs=num_runs)
        pasted = _Pasted(masks, boxes, self.image_size, self.rule)
        if self.form == "label_map":
            return pasted.label_map(self.threshold)
        if self.form == "runs":
            return pasted.runs(self.threshold, self._num_runs())
        return pasted.dense(self.threshold)

    def _num_runs(self):
        return 4 * self.image_size[1] + 1 if self.num_runs is None else self.num_runs

    def compute_output_spec(self, masks, boxes):
        _check(masks, boxes)
        batch, number = (
            next((size for size in sizes if size is not None), None)
            for sizes in zip(boxes.shape[:2], masks.shape[:2], strict=True)
        )
        if self.form == "label_map":
            return keras.KerasTensor((batch, *self.image_size), dtype="int32")
        if self.form == "runs":
            return keras.KerasTensor((batch, number, self._num_runs()), dtype="int32")
        dtype = "float32" if self.threshold is None else "bool"
        return keras.KerasTensor((batch, number, *self.image_size), dtype=dtype)


def _check(masks, boxes):
    dtype, shape = keras.backend.standardize_dtype(masks.dtype), tuple(masks.shape)
    if "float" not in dtype:
        raise TypeError(f"{_NAME}: `masks` must be floats. Received: {dtype}.")
    if len(shape) != 4:
        raise ValueError(
            f"{_NAME}: `masks` must have shape (batch, num_boxes, mask_height, mask_width). "
            f"Received: {shape}."
        )
    check_boxes(_NAME, boxes)
    for size, box_size in zip(shape, boxes.shape[:2], strict=False):
        if None not in (size, box_size) and size != box_size:
            raise ValueError(
                f"{_NAME}: `masks` and `boxes` must have the same batch size and number of boxes. "
                f"Received: {shape} and {tuple(boxes.shape)}."
            )


class _Pasted:
    """The reference in `keras.ops`: one mask after the other, in the order of the kernels' sums."""

    def __init__(self, masks, boxes, image_size, rule):
        # Zeros around each mask, two rows and columns of them in front, where pixels off the mask
        # read. And in front a mask of nothing, whose box has no extent: a loop needs a step.
        self._masks = ops.pad(masks, ((0, 0), (1, 0), (2, 1), (2, 1)))
        self._boxes = ops.pad(boxes, ((0, 0), (1, 0), (0, 0)))
        self._image_size, self._rule = image_size, rule

    def label_map(self, threshold):
        batch, number = ops.shape(self._boxes)[:2]

        def paste(step, pasted):
            index = number - step  # the last row first, so that the first one lies on top
            values = self._values(ops.take(self._masks, index, 1), ops.take(self._boxes, index, 1))
            return step + 1, ops.where(values >= threshold, index, pasted)

        start = ops.cast(1, "int32"), ops.zeros((batch, *self._image_size), "int32")
        return ops.while_loop(lambda step, pasted: step < number, paste, start)[1]

    def runs(self, threshold, num_runs):
        return self._map(lambda values: _encode(values[0] >= threshold, num_runs))

    def dense(self, threshold):
        return self._map(lambda values: values[0] if threshold is None else values[0] >= threshold)

    def _map(self, function):
        """What a function of the values `(1, height, width)` gives, for all boxes."""
        batch, number, height, width = ops.shape(self._masks)
        masks = ops.reshape(self._masks, (batch * number, 1, height, width))
        boxes = ops.reshape(self._boxes, (batch * number, 1, 4))
        # One more, in case there is no image.
        mask_and_box = (
            ops.pad(masks, ((0, 1), (0, 0), (0, 0), (0, 0))),
            ops.pad(boxes, ((0, 1), (0, 0), (0, 0))),
        )
        results = ops.map(lambda pair: function(self._values(*pair)), mask_and_box)
        return ops.reshape(results[:-1], (batch, number, *ops.shape(results)[1:]))[:, 1:]

    def _values(self, masks, boxes):
        """Masks `(batch, ...)` with their zeros around, one an image, at all pixels of images."""
        height, width = self._image_size
        extents = boxes[:, 2:] - boxes[:, :2]
        has_extent = ops.all(ops.isfinite(extents) & (extents > 0), axis=-1)[:, None]
        boxes = ops.where(has_extent, boxes, ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0]))
        rows = self._taps(boxes[:, 1::2], height, ops.shape(masks)[1] - 3, has_extent)
        columns = self._taps(boxes[:, 0::2], width, ops.shape(masks)[2] - 3, has_extent)
        return _interpolate(_interpolate(masks, *columns, axis=2), *rows, axis=1)

    def _taps(self, ends, size, cells, has_extent):
        """Of each pixel along an axis of `size`, the cell it reads, and the weight of the next.

        Args:
            ends: Tensor `(batch, 2)`: where the boxes begin and end.
            size: Number of pixels.
            cells: Number of cells of a mask.
            has_extent: Bool tensor `(batch, 1)`.

        Returns:
            Two tensors `(batch, size)`, an index into the mask with its zeros and a weight.
        """
        pixels = ops.cast(ops.arange(size), "float32")
        start, end = ends[:, :1], ends[:, 1:]
        cells = ops.cast(cells, "float32")
        # Positions are counted from the centre of the zero before the first cell.
        if self._rule == "detectron2":
            position = (pixels + 0.5 - start) / (end - start) * cells + 0.5
            inside = has_extent
        else:
            half, centre = (end - start) * 0.5 * ((cells + 2.0) / cells), (end + start) * 0.5
            start, end = ops.trunc(centre - half), ops.trunc(centre + half)
            position = (pixels - start + 0.5) * ((cells + 2.0) / (end - start + 1.0)) - 0.5
            inside = has_extent & (pixels >= start) & (pixels <= end)
        inside = inside & (position > 0.0) & (position < cells + 1.0)
        cell = ops.floor(ops.where(inside, position, 0.0))
        weight = ops.where(inside, position - cell, 0.0)
        return ops.cast(ops.where(inside, cell + 1.0, 0.0), "int32"), weight


def _interpolate(values, index, weight, axis):
    """Values `(batch, rows, columns)` at other places along an axis, `(batch, places)`."""
    index, weight = ops.expand_dims(index, 3 - axis), ops.expand_dims(weight, 3 - axis)
    low = ops.take_along_axis(values, index, axis=axis)
    high = ops.take_along_axis(values, index + 1, axis=axis)
    return low * (1.0 - weight) + high * weight


def _encode(mask, num_runs):
    """The run lengths of a mask `(height, width)`; -1 where there are more than `num_runs`."""
    pixels = ops.reshape(ops.transpose(mask), (-1,))
    is_change = pixels != ops.pad(pixels, ((1, 0),))[:-1]
    changes = ops.cumsum(ops.cast(is_change, "int32"))
    ends = ops.searchsorted(changes, ops.arange(1, num_runs + 1, dtype=changes.dtype))
    runs = ops.diff(ops.pad(ops.cast(ends, "int32"), ((1, 0),)))
    # The last run ends without a change.
    return ops.where(changes[-1] >= num_runs, -1, runs)
