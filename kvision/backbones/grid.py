"""What each layer does to the grid of a map: the window it slides, or its role without one."""

import dataclasses
import enum

import keras
from keras import layers


class Role(enum.Enum):
    """What a layer without a window of its own does to a map `(B, H, W, C)`."""

    POINTWISE = "each position is treated by itself"
    COLLAPSE = "the grid ends here: global pooling, flattening, reshaping"
    WHOLE = "it computes statistics over all positions"
    UNKNOWN = "whether it treats each position by itself is not known (see `pointwise_layers`)"


@dataclasses.dataclass(frozen=True)
class Window:
    """The window of a convolution, pooling, padding or cropping, one number an axis (y, x).

    Attributes:
        kernel: Number of taps.
        strides: Positions of the input between two windows.
        dilation: Positions of the input between two taps.
        padding: `"valid"`, `"same"` (TensorFlow's), `((top, bottom), (left, right))`, or a function
            `padding(size, axis)` that returns the padding before and after.
    """

    kernel: tuple = (1, 1)
    strides: tuple = (1, 1)
    dilation: tuple = (1, 1)
    padding: object = "valid"

    def extent(self, axis):
        """Positions from the first tap to the last, both counted."""
        return (self.kernel[axis] - 1) * self.dilation[axis] + 1

    def pads(self, size, axis):
        """Padding before and after a map of `size` positions, an int or a scalar tensor."""
        if self.padding == "valid":
            return 0, 0
        if self.padding == "same":
            overhang = self.extent(axis) - 1 - (size - 1) % self.strides[axis]
            is_number = isinstance(overhang, int)
            total = max(overhang, 0) if is_number else keras.ops.maximum(overhang, 0)
            return total // 2, total - total // 2
        if callable(self.padding):
            return self.padding(size, axis)
        return self.padding[axis]

    def output_size(self, size, axis):
        """Number of windows on a map of `size` positions."""
        before, after = self.pads(size, axis)
        return (size + before + after - self.extent(axis)) // self.strides[axis] + 1


# Layers of other packages are told by their names, so that none has to be imported.
_POINTWISE_LAYERS = (
    layers.Activation,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Identity,
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.AlphaDropout,
    layers.ActivityRegularization,
    layers.Rescaling,
    layers.Dense,
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
_OF_CHANNELS = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
    layers.Normalization,
    layers.Softmax,
    layers.Concatenate,
)
_POINTWISE_NAMES = {
    "FrozenBatchNormalization",
    "SyncBatchNormalization",
    "LayerScale",
    "StochasticDepth",
    "DropPath",
    "CustomScaleLayer",
    "Preprocessing",
}
_POINTWISE_OPERATIONS = {
    *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Power"),
    *("Abs", "Absolute", "Negative", "Square", "Sqrt", "Rsqrt", "Exp", "Log", "Clip", "Cast"),
    *(
        "ReLU",
        "Relu",
        "Relu6",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "HardSilu",
        "Silu",
        "Gelu",
        "Tanh",
    ),
    *("Softplus", "Softsign", "Elu", "Selu", "LeakyRelu", "Sin", "Cos"),
}
_COLLAPSING = (
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling2D,
    layers.AdaptiveAveragePooling2D,
    layers.AdaptiveMaxPooling2D,
    layers.Flatten,
    layers.Reshape,
)


def role(operation, args=(), pointwise_layers=()):
    """What an operation does to the grid of a map `(B, H, W, C)`.

    Args:
        operation: A layer, or another `keras.Operation` of a functional graph.
        args: The arguments it is called with; they tell how a map is sliced.
        pointwise_layers: Classes of further layers that treat each position by itself.

    Returns:
        A `Window` or a `Role`.
    """
    name = type(operation).__name__
    if getattr(operation, "data_format", "channels_last") != "channels_last":
        return Role.UNKNOWN
    if isinstance(operation, layers.Layer) and hasattr(operation, "grid_window"):
        return operation.grid_window()  # a layer of to_atrous
    if isinstance(operation, layers.Conv2D | layers.DepthwiseConv2D | layers.SeparableConv2D):
        return Window(
            _pair(operation.kernel_size),
            _pair(operation.strides),
            _pair(operation.dilation_rate),
            operation.padding,
        )
    if isinstance(operation, layers.MaxPooling2D | layers.AveragePooling2D):
        return Window(
            _pair(operation.pool_size), _pair(operation.strides), padding=operation.padding
        )
    if isinstance(operation, layers.ZeroPadding2D):
        return Window(padding=operation.padding)
    if isinstance(operation, layers.Cropping2D):
        return Window(padding=tuple((-a, -b) for a, b in operation.cropping))
    if isinstance(operation, layers.GroupNormalization):
        return Role.WHOLE
    if isinstance(operation, _COLLAPSING):
        return Role.COLLAPSE
    if isinstance(operation, layers.PReLU):
        shared = set(operation.shared_axes or ())
        return Role.POINTWISE if {1, 2} <= shared else Role.UNKNOWN
    if isinstance(operation, _OF_CHANNELS):
        axes = keras.tree.flatten(operation.axis)
        return Role.POINTWISE if set(axes) <= {-1, 3} else Role.UNKNOWN
    if isinstance(operation, (*_POINTWISE_LAYERS, *pointwise_layers)) or name in _POINTWISE_NAMES:
        return Role.POINTWISE
    if not isinstance(operation, layers.Layer):
        if name == "GetItem":
            return _slicing(*args[1:])
        if name in ("Concatenate", "Flip"):
            return Role.POINTWISE if operation.axis in (-1, 3) else Role.UNKNOWN
        if name in _POINTWISE_OPERATIONS:
            return Role.POINTWISE
    return Role.UNKNOWN


def _slicing(key):
    """`x[:, a::s, b::t, ...]` is a window of one tap; slices of the channels are pointwise."""
    key = tuple(key) if isinstance(key, tuple | list) else (key,)
    if Ellipsis in key:
        at = key.index(Ellipsis)
        key = (*key[:at], *[slice(None)] * (5 - len(key)), *key[at + 1 :])
    if len(key) > 4 or not all(isinstance(part, slice) for part in key):
        return Role.UNKNOWN
    batch, *grid, channels = (key + (slice(None),) * 4)[:4]
    starts = tuple(part.start or 0 for part in grid)
    steps = tuple(part.step or 1 for part in grid)
    if batch != slice(None) or any(part.stop is not None for part in grid):
        return Role.UNKNOWN
    if min(steps) < 1 or min(starts) < 0:
        return Role.UNKNOWN
    if steps == (1, 1) and not any(starts):
        return Role.POINTWISE
    if channels != slice(None):
        return Role.UNKNOWN
    if not any(starts):
        return Window(strides=steps)
    return Window(strides=steps, padding=tuple((-start, 0) for start in starts))


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)
