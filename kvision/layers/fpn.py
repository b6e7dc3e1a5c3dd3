"""Feature pyramid network."""

import keras
from keras import ops

from kvision.layers.feature_spec import FeatureSpec, level_number


@keras.saving.register_keras_serializable("kvision")
class FPN(keras.layers.Layer):
    """Top-down feature pyramid (Lin, Dollár, Girshick, He, Hariharan, Belongie, CVPR 2017).

    A 1x1 convolution takes every level to `filters` channels; from the coarsest level down, each
    map is enlarged by nearest neighbour, cut to the size of the next finer one and added to it; a
    3x3 convolution of each sum is the output. There is neither normalisation nor activation.
    Extra levels are the coarsest output subsampled by 2, again and again.

    Input: `{"P2": (B, H/4, W/4, C2), ...}`, the levels of `feature_specs`. Where a size is odd,
    the coarser map has the larger half (25 -> 13), as padded convolutions of stride 2 give it.
    Output: the same levels with `filters` channels, and the extra ones, finest first.

    Args:
        feature_specs: Mapping of level names (`"P2"`, ...) to `FeatureSpec(channels, stride)` of
            the input, as a backbone's `feature_specs`. Each stride must be a multiple of the
            next finer level's.
        filters: Channels of every output level, positive.
        num_extra_levels: Number of subsampled levels beyond the coarsest, at least 0.
        **kwargs: Of `keras.layers.Layer`.

    Attributes:
        feature_specs: `FeatureSpec` of every output level, finest first.

    Raises:
        ValueError: For an argument out of its range.
    """

    def __init__(self, feature_specs, *, filters=256, num_extra_levels=1, **kwargs):
        super().__init__(**kwargs)
        if not feature_specs:
            raise ValueError("FPN: `feature_specs` must hold at least one level.")
        if filters < 1 or num_extra_levels < 0:
            raise ValueError(
                "FPN: `filters` must be positive and `num_extra_levels` at least 0. "
                f"Received: filters={filters}, num_extra_levels={num_extra_levels}."
            )
        self.input_specs = {
            name: FeatureSpec(*feature_specs[name])
            for name in sorted(feature_specs, key=level_number)
        }
        self.filters = filters
        self.num_extra_levels = num_extra_levels
        self.upsampling = _upsampling_factors(self.input_specs)
        self.extra_levels = _extra_levels(self.input_specs, num_extra_levels)
        self.feature_specs = {
            name: FeatureSpec(filters, stride)
            for name, stride in (
                *((name, spec.stride) for name, spec in self.input_specs.items()),
                *self.extra_levels.items(),
            )
        }
        self.laterals = {name: self._conv(f"lateral_{name}", 1) for name in self.input_specs}
        self.outputs = {name: self._conv(f"output_{name}", 3) for name in self.input_specs}

    def _conv(self, name, kernel_size):
        return keras.layers.Conv2D(
            self.filters,
            kernel_size,
            padding="same",
            kernel_initializer=keras.initializers.VarianceScaling(1.0, "fan_in", "uniform"),
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, input_shape):
        missing = sorted(set(self.input_specs) - set(input_shape))
        if missing:
            raise ValueError(
                f"FPN: the input must hold the levels {list(self.input_specs)}. Missing: {missing}."
            )
        for name, spec in self.input_specs.items():
            if input_shape[name][-1] != spec.channels:
                raise ValueError(
                    f"FPN: level {name} must have {spec.channels} channels. "
                    f"Received: shape {tuple(input_shape[name])}."
                )
            self.laterals[name].build(input_shape[name])
            self.outputs[name].build((*input_shape[name][:-1], self.filters))
        self.built = True

    def call(self, inputs):
        merged = {}
        coarser = None
        for name in reversed(self.input_specs):
            lateral = self.laterals[name](inputs[name])
            if coarser is not None:
                lateral = lateral + _enlarge(coarser, self.upsampling[name], ops.shape(lateral))
            merged[name] = coarser = lateral
        pyramid = {name: self.outputs[name](merged[name]) for name in self.input_specs}
        coarsest = pyramid[next(reversed(pyramid))]
        for name in self.extra_levels:
            coarsest = pyramid[name] = coarsest[:, ::2, ::2, :]
        return pyramid

    def compute_output_shape(self, input_shape):
        shapes = {name: (*input_shape[name][:-1], self.filters) for name in self.input_specs}
        batch, height, width, _ = shapes[next(reversed(shapes))]
        for name in self.extra_levels:
            height = None if height is None else -(-height // 2)
            width = None if width is None else -(-width // 2)
            shapes[name] = (batch, height, width, self.filters)
        return shapes

    def get_config(self):
        return {
            **super().get_config(),
            "feature_specs": {name: list(spec) for name, spec in self.input_specs.items()},
            "filters": self.filters,
            "num_extra_levels": self.num_extra_levels,
        }


def _upsampling_factors(specs):
    """Factor by which the next coarser level is enlarged, for each level but the coarsest."""
    names = list(specs)
    factors = {}
    for finer, coarser in zip(names[:-1], names[1:], strict=True):
        factor, remainder = divmod(specs[coarser].stride, specs[finer].stride)
        if remainder or factor < 1:
            raise ValueError(
                "FPN: each stride in `feature_specs` must be a multiple of the next finer "
                f"level's. Received: {finer} {specs[finer]}, {coarser} {specs[coarser]}."
            )
        factors[finer] = factor
    return factors


def _extra_levels(specs, count):
    """Names and strides of the subsampled levels."""
    name, spec = next(reversed(specs.items()))
    number = level_number(name)
    return {f"P{number + i}": spec.stride * 2**i for i in range(1, count + 1)}


def _enlarge(features, factor, target_shape):
    """Nearest-neighbour enlargement by an integer factor, cut to the target's height, width."""
    if factor == 1:
        return features
    for axis in (1, 2):
        features = ops.repeat(features, factor, axis=axis)
    return features[:, : target_shape[1], : target_shape[2], :]
