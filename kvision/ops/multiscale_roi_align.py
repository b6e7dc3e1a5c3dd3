"""RoIAlign over a feature pyramid: every box is pooled from the level that suits its size.

Source: Lin, Dollár, Girshick, He, Hariharan, Belongie, "Feature Pyramid Networks for Object
Detection", 2017, equation 1.
"""

import keras
from keras import ops

from kvision.ops.operation import call_operation
from kvision.ops.region import check_tensors, output_shape, standardize_output_size
from kvision.ops.roi_align import align_levels, check_sampling

_NAME = "multiscale_roi_align"
# Of the native kernel; the reference keeps to it too.
_MAX_LEVELS = 8


def multiscale_roi_align(
    pyramid,
    boxes,
    *,
    output_size,
    strides=None,
    sampling_ratio=0,
    aligned=True,
    canonical_size=224,
    canonical_level=4,
):
    """Pools each box from the pyramid level that its size calls for.

    The level is `floor(canonical_level + log2(sqrt(area) / canonical_size) + 1e-6)`, at least the
    lowest and at most the highest level of `pyramid`. A box of no area takes the lowest.

    Args:
        pyramid: Dict of float tensors `(batch, height, width, channels)` of one dtype and number
            of channels, named `"P<level>"` with successive levels, at most 8. All of them are
            used: leave out a level that boxes are not to be pooled from.
        boxes: Tensor of shape `(batch, num_boxes, 4)`, `xyxy` in pixels of the image.
        output_size: Number of bins, an int or a pair `(height, width)`.
        strides: Dict from a level's name to the pixels per cell of its map. Defaults to
            `2 ** level`.
        sampling_ratio: As in `kvision.ops.roi_align`.
        aligned: As in `kvision.ops.roi_align`.
        canonical_size: Side in pixels of the square box that belongs to `canonical_level`.
        canonical_level: Level of a box of `canonical_size`.

    Returns:
        Tensor of shape `(batch, num_boxes, output_height, output_width, channels)` of the dtype
        of the pyramid. Boxes that are not finite or lie off the map: see `kvision.ops.roi_align`.

    Raises:
        ValueError: If an argument has a wrong value, or a tensor a wrong rank, batch or dtype.
    """
    if not isinstance(pyramid, dict) or not (strides is None or isinstance(strides, dict)):
        raise TypeError(
            f"{_NAME}: `pyramid` and `strides` must be dictionaries of levels. "
            f"Received: {type(pyramid).__name__} and {type(strides).__name__}."
        )
    return call_operation(
        MultiscaleRoIAlignOperation,
        (pyramid, boxes),
        output_size=output_size,
        strides=strides,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        canonical_size=canonical_size,
        canonical_level=canonical_level,
    )


@keras.saving.register_keras_serializable("kvision")
class MultiscaleRoIAlignOperation(keras.Operation):
    """`multiscale_roi_align` as a node of a functional model. Arguments as there."""

    def __init__(
        self,
        *,
        output_size,
        strides=None,
        sampling_ratio=0,
        aligned=True,
        canonical_size=224,
        canonical_level=4,
        name=None,
    ):
        super().__init__(name=name)
        self.output_size = standardize_output_size(_NAME, output_size)
        for stride in (strides or {}).values():
            if not stride > 0:
                raise ValueError(f"{_NAME}: `strides` must be positive. Received: {strides}.")
        if not canonical_size > 0:
            raise ValueError(
                f"{_NAME}: `canonical_size` must be positive. Received: {canonical_size}."
            )
        check_sampling(_NAME, 1.0, sampling_ratio)
        self.strides = strides
        self.sampling_ratio = int(sampling_ratio)
        self.aligned = bool(aligned)
        self.canonical_size = float(canonical_size)
        self.canonical_level = int(canonical_level)

    def call(self, pyramid, boxes):
        pyramid = {name: ops.convert_to_tensor(features) for name, features in pyramid.items()}
        boxes = ops.convert_to_tensor(boxes)
        levels = self._check(pyramid, boxes)
        strides = self.strides or {f"P{level}": 2**level for level in levels}
        return align_levels(
            [pyramid[f"P{level}"] for level in levels],
            boxes,
            self._route(boxes, levels),
            spatial_scales=[1.0 / strides[f"P{level}"] for level in levels],
            output_size=self.output_size,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )

    def compute_output_spec(self, pyramid, boxes):
        levels = self._check(pyramid, boxes)
        features = pyramid[f"P{levels[0]}"]
        return keras.KerasTensor(
            output_shape(features.shape, boxes.shape, self.output_size),
            dtype=features.dtype,
        )

    def _check(self, pyramid, boxes):
        """Returns the levels of the pyramid in ascending order, or raises `ValueError`."""
        try:
            levels = sorted(int(name.removeprefix("P")) for name in pyramid)
        except ValueError:
            levels = []
        expected = range(levels[0], levels[0] + len(pyramid)) if levels else []
        if not levels or set(pyramid) != {f"P{level}" for level in expected}:
            raise ValueError(
                f'{_NAME}: `pyramid` must have successive levels "P<level>". '
                f"Received: {sorted(pyramid)}."
            )
        if len(levels) > _MAX_LEVELS:
            raise ValueError(
                f"{_NAME}: `pyramid` must have at most {_MAX_LEVELS} levels. "
                f"Received: {len(levels)}."
            )
        if self.strides is not None and not set(pyramid) <= set(self.strides):
            raise ValueError(
                f"{_NAME}: `strides` must name every level of the pyramid. "
                f"Received: {self.strides} for {sorted(pyramid)}."
            )
        for name, features in pyramid.items():
            check_tensors(_NAME, features, boxes, f"pyramid[{name!r}]")
        kinds = {(features.shape[3], str(features.dtype)) for features in pyramid.values()}
        if len(kinds) > 1:
            raise ValueError(
                f"{_NAME}: all levels must have the same channels and dtype. "
                f"Received: {sorted(kinds, key=str)}."
            )
        return levels

    def _route(self, boxes, levels):
        """Returns the position in `levels` of each box's level, int32 `(batch, num_boxes)`."""
        dtype = (
            "float64" if keras.backend.standardize_dtype(boxes.dtype) == "float64" else "float32"
        )
        boxes = ops.cast(boxes, dtype)
        sizes = boxes[..., 2:] - boxes[..., :2]
        area = sizes[..., 0] * sizes[..., 1]
        side = ops.sqrt(ops.where(area > 0, area, 0.0))
        # A box is on a level or above when its side reaches that level's smallest: a comparison
        # decides the same on every backend, where logarithms may differ in the last bit.
        smallest = [
            self.canonical_size * 2.0 ** (level - self.canonical_level - 1e-6)
            for level in levels[1:]
        ]
        position = ops.zeros(ops.shape(side), dtype="int32")
        for size in smallest:
            position = position + ops.cast(side >= size, "int32")
        return position
