"""Layers of dense nets, which work on the map of a strided net and on all positions between.

A dense map holds `spacing` positions for each position of the strided net's map, whose n positions
are its positions 0, spacing, ..., (n - 1) spacing. So n is its size divided by the spacing, rounded
up, whatever the size of the image, and every layer can pad as the strided one would.
"""

import functools

import keras
from keras import layers, ops

from kvision.backbones.grid import Window


class _AtrousLayer(layers.Layer):
    """A window of the strided net on the dense map; all pairs are `(height, width)`.

    Args:
        window_size: Taps of the strided net's window.
        window_strides: Its strides in the strided net.
        window_dilation: Its dilation there.
        window_padding: `"valid"` or `"same"` there.
        spacing: Positions of the dense map for one of the strided net's.
        strides: The strides that are left in the dense net.
        full_size: Whether the output has all positions up to the next one of the strided net, which
            is not there; else it ends where the last whole window does.
        **kwargs: Of `keras.layers.Layer`.
    """

    def __init__(
        self,
        window_size,
        window_strides,
        *,
        window_dilation=(1, 1),
        window_padding="valid",
        spacing=(1, 1),
        strides=(1, 1),
        full_size=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.window_size = tuple(window_size)
        self.window_strides = tuple(window_strides)
        self.window_dilation = tuple(window_dilation)
        self.window_padding = window_padding
        self.spacing = tuple(spacing)
        self.strides = tuple(strides)
        self.full_size = full_size
        self._strided = Window(
            self.window_size, self.window_strides, self.window_dilation, window_padding
        )

    def build(self, input_shape):
        self.built = True

    def pads(self, size, axis):
        """Padding before and after a dense map of `size` positions along an axis, 0 or 1."""
        spacing = self.spacing[axis]
        strided_size = (size + spacing - 1) // spacing
        before, after = (pad * spacing for pad in self._strided.pads(strided_size, axis))
        if self.full_size:
            windows = self._strided.output_size(strided_size, axis)
            reach = windows * self.window_strides[axis] + self._strided.extent(axis) - 1
            after = reach * spacing - size - before
        return before, after

    def grid_window(self):
        """The `Window` that slides over the dense map."""
        dilation = tuple(
            own * spacing for own, spacing in zip(self.window_dilation, self.spacing, strict=True)
        )
        return Window(self.window_size, self.strides, dilation, self.pads)

    def compute_output_shape(self, input_shape):
        batch, *sizes, channels = input_shape
        window = self.grid_window()
        sizes = [size and window.output_size(size, axis) for axis, size in enumerate(sizes)]
        return (batch, *sizes, channels)

    def get_config(self):
        return {
            **super().get_config(),
            "window_size": list(self.window_size),
            "window_strides": list(self.window_strides),
            "window_dilation": list(self.window_dilation),
            "window_padding": self.window_padding,
            "spacing": list(self.spacing),
            "strides": list(self.strides),
            "full_size": self.full_size,
        }


@keras.saving.register_keras_serializable("kvision")
class AtrousPadding2D(_AtrousLayer):
    """Zeros around a dense map `(B, H, W, C)` for a convolution that follows, itself unpadded."""

    def grid_window(self):
        return Window(padding=self.pads)

    def call(self, inputs):
        pads = [self.pads(size, axis) for axis, size in enumerate(ops.shape(inputs)[1:3])]
        return inputs if _are_none(pads) else ops.pad(inputs, [(0, 0), *pads, (0, 0)])


class _AtrousPooling2D(_AtrousLayer):
    """Pooling of shifted slices, one axis after the other: Keras pools no dilated windows."""

    def _pooled(self, x, axes, combine, padding_value):
        """Combines the taps of every window along the axes `{axis of x: axis of the grid}`."""
        sizes = ops.shape(x)
        pads = [(0, 0)] * len(sizes)
        for axis, grid_axis in axes.items():
            pads[axis] = self.pads(sizes[axis], grid_axis)
        if not _are_none(pads):
            x = ops.pad(x, pads, constant_values=padding_value)
        window = self.grid_window()
        for axis, grid_axis in axes.items():
            last, step = window.kernel[grid_axis] - 1, window.dilation[grid_axis]
            x = functools.reduce(
                combine,
                (
                    x[
                        (slice(None),) * axis
                        + (slice(tap * step, (tap - last) * step or None, self.strides[grid_axis]),)
                    ]
                    for tap in range(last + 1)
                ),
            )
        return x

    def _counts(self, inputs):
        """How many taps of each window lie on the map, `(H', W', 1)` float32."""
        sizes = ops.shape(inputs)[1:3]
        rows, columns = (
            self._pooled(ops.ones((size,)), {0: axis}, ops.add, 0.0)
            for axis, size in enumerate(sizes)
        )
        return rows[:, None, None] * columns[:, None]


@keras.saving.register_keras_serializable("kvision")
class AtrousMaxPooling2D(_AtrousPooling2D):
    """Largest value of each window of a dense map `(B, H, W, C)`; 0 where none lies on the map."""

    def call(self, inputs):
        outputs = self._pooled(inputs, {1: 0, 2: 1}, ops.maximum, float("-inf"))
        if self.full_size:
            outputs = ops.where(self._counts(inputs) > 0, outputs, ops.zeros_like(outputs))
        return outputs


@keras.saving.register_keras_serializable("kvision")
class AtrousAveragePooling2D(_AtrousPooling2D):
    """Mean of the values of each window of a dense map `(B, H, W, C)`, padding left out."""

    def call(self, inputs):
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        sums = self._pooled(x, {1: 0, 2: 1}, ops.add, 0.0)
        counts = ops.maximum(self._counts(inputs), 1)
        return ops.cast(sums / ops.cast(counts, x.dtype), inputs.dtype)


@keras.saving.register_keras_serializable("kvision")
class CropToSmallest2D(layers.Layer):
    """Cuts the first of several maps `(B, H, W, C)` to the smallest, at right and bottom."""

    def build(self, input_shape):
        self.built = True

    def call(self, inputs):
        heights, widths = zip(*(ops.shape(x)[1:3] for x in inputs), strict=True)
        return inputs[0][:, : _smallest(heights), : _smallest(widths)]

    def compute_output_shape(self, input_shape):
        _, heights, widths, _ = zip(*input_shape, strict=True)
        sizes = [None if None in each else min(each) for each in (heights, widths)]
        return (input_shape[0][0], *sizes, input_shape[0][-1])

    def grid_window(self):
        """Every position stays where it is."""
        return Window()


def _are_none(pads):
    return all(isinstance(pad, int) and pad == 0 for pad in keras.tree.flatten(pads))


def _smallest(sizes):
    if all(isinstance(size, int) for size in sizes):
        return min(sizes)
    return functools.reduce(ops.minimum, sizes)
