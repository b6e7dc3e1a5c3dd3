"""Pooling of boxes in plain `keras.ops`: the reference behind `roi_align` on one level or more.

It is separable: a sample's bilinear weights are a product of a row part and a column part, so the
mean over a bin's grid of samples is `rows @ features @ columns` with `rows (bins, H)` and
`columns (bins, W)` for each box. No shape in it depends on data, the number of samples of the
adaptive grid included.
"""

from keras import ops

_BOXES_PER_STEP = 32
# Samples of an adaptive grid are more than half a cell apart wherever a bin has several, and a
# cell is touched by samples less than one cell away: by 4 at most, and two for rounding.
_SAMPLES_PER_CELL = 6


def pool_levels(features, boxes, levels, spatial_scales, output_size, sampling_ratio, aligned):
    """Pools each box from its own level; arguments as those of `roi_align.align_levels`.

    Every box meets every level, with zero weight on all but its own, so that no shape depends on
    data: `height * width * channels * output_height` multiply-adds a box and level.
    """
    result = 0.0
    for index, (level_features, scale) in enumerate(zip(features, spatial_scales, strict=True)):
        height, width = ops.shape(level_features)[1:3]
        rows, columns = bin_weights(
            boxes, height, width, scale, output_size, sampling_ratio, aligned
        )
        on_level = ops.cast(levels == index, rows.dtype)
        rows = rows * on_level[:, :, None, None]
        result = result + _contract(ops.cast(level_features, rows.dtype), rows, columns)
    result = ops.cast(result, features[0].dtype)
    return ops.reshape(
        result,
        (*ops.shape(boxes)[:2], *output_size, ops.shape(features[0])[3]),
    )


def _contract(features, rows, columns):
    """`rows @ features @ columns` of each box.

    A few boxes are taken at a time: for all at once, the product after the first contraction
    would be `num_boxes * output_height / height` times the feature map.

    Args:
        features: Tensor `(batch, height, width, channels)`.
        rows: Tensor `(batch, num_boxes, output_height, height)`.
        columns: Tensor `(batch, num_boxes, output_width, width)`.

    Returns:
        Tensor `(batch, num_boxes, output_height, output_width, channels)`.
    """

    def contract_step(weights):
        step_rows, step_columns = weights
        partial = ops.einsum("bnih,bhwc->bniwc", step_rows, features)
        return ops.matmul(ops.expand_dims(step_columns, 2), partial)

    num_boxes = rows.shape[1]
    if num_boxes is not None and num_boxes <= _BOXES_PER_STEP:
        return contract_step((rows, columns))
    results = ops.map(contract_step, (_in_steps(rows), _in_steps(columns)))
    steps, batch, size, height, width, channels = ops.shape(results)
    results = ops.reshape(
        ops.transpose(results, (1, 0, 2, 3, 4, 5)),
        (batch, steps * size, height, width, channels),
    )
    return results[:, : ops.shape(rows)[1]]


def _in_steps(weights):
    """Splits `(batch, num_boxes, ...)` into `(steps, batch, boxes a step, ...)`, padded by 0."""
    batch, num_boxes, bins, size = ops.shape(weights)
    # Rounded up to at least one step: a loop of no steps has no result to take a shape from.
    steps = (num_boxes + _BOXES_PER_STEP) // _BOXES_PER_STEP
    padding = ops.zeros((batch, steps * _BOXES_PER_STEP - num_boxes, bins, size), weights.dtype)
    weights = ops.concatenate([weights, padding], axis=1)
    weights = ops.reshape(weights, (batch, steps, _BOXES_PER_STEP, bins, size))
    return ops.transpose(weights, (1, 0, 2, 3, 4))


def bin_weights(boxes, height, width, spatial_scale, output_size, sampling_ratio, aligned):
    """Weights of the rows and of the columns in each bin of each box.

    Returns:
        Two tensors, `(batch, num_boxes, output_height, height)` and
        `(batch, num_boxes, output_width, width)`. All are zero for a box that is not finite.
    """
    corners = boxes * spatial_scale - (0.5 if aligned else 0.0)
    start, extent = corners[..., :2], corners[..., 2:] - corners[..., :2]
    finite = ops.all(ops.isfinite(ops.concatenate([corners, extent], axis=-1)), axis=-1)
    start = ops.where(finite[..., None], start, 0.0)
    extent = ops.where(finite[..., None], extent, 0.0)
    if not aligned:
        extent = ops.maximum(extent, 1.0)
    columns = _axis_weights(start[..., 0], extent[..., 0], output_size[1], width, sampling_ratio)
    rows = _axis_weights(start[..., 1], extent[..., 1], output_size[0], height, sampling_ratio)
    finite = ops.cast(finite, rows.dtype)[..., None, None]
    return rows * finite, columns * finite


def _axis_weights(start, extent, bins, size, sampling_ratio):
    """Mean bilinear weight of every cell in every bin along one axis.

    Args:
        start: Tensor `(batch, num_boxes)`: where the first bin begins, in cells.
        extent: Tensor `(batch, num_boxes)`: the length of all bins together.
        bins: Number of bins.
        size: Number of cells.
        sampling_ratio: Samples of a bin, 0 for `ceil(extent / bins)`.

    Returns:
        Tensor `(batch, num_boxes, bins, size)`.
    """
    dtype = start.dtype
    cells = ops.cast(ops.arange(size), dtype)
    last_cell = ops.cast(size - 1, dtype)
    bin_extent = (extent / bins)[..., None, None]
    bin_start = start[..., None, None] + ops.cast(ops.arange(bins), dtype)[:, None] * bin_extent
    if sampling_ratio > 0:
        count = ops.cast(sampling_ratio, dtype)
        first, samples_per_cell = ops.zeros_like(bin_start), sampling_ratio
    else:
        # Only the samples that can touch a cell: `first` is the index of the first of them.
        count = ops.ceil(bin_extent)
        spacing = ops.maximum(bin_extent / ops.maximum(count, 1.0), 0.5)
        first = ops.floor((cells - 1.0 - bin_start) / spacing - 1.0)
        first = ops.where(count > 1.0, ops.maximum(first, 0.0), 0.0)
        samples_per_cell = _SAMPLES_PER_CELL
    weights = 0.0
    for offset in range(samples_per_cell):
        index = first + offset
        position = bin_start + (index + 0.5) * bin_extent / ops.maximum(count, 1.0)
        counted = (index < count) & (position >= -1.0) & (position <= last_cell + 1.0)
        distance = ops.abs(ops.clip(position, 0.0, last_cell) - cells)
        weights = weights + ops.where(counted, ops.maximum(1.0 - distance, 0.0), 0.0)
    return weights / ops.maximum(count, 1.0)
