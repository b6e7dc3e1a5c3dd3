"""What a functional Keras model computes, node by node, and what each layer does to the grid.

`interpret` runs a model's graph on values of any kind; `Window` is the geometry of one layer;
`role` says which geometry a layer has.
"""

import copy
import dataclasses
import enum
import itertools

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


def followable(caller, model):
    """A model of the same layers whose graph can be followed.

    Args:
        caller: Name of the function that errors are raised for.
        model: A functional or sequential model of one image, which is returned itself, or a model
            whose `call(images)` is made of layers and of `keras.ops`.

    Returns:
        A functional or sequential `keras.Model`.

    Raises:
        ValueError: If there is no such graph, or the input is not one image.
    """
    if not isinstance(model, keras.Sequential) and not _is_functional(model):
        images = keras.Input((None, None, 3), name="images")
        try:
            model = keras.Model(images, model.call(images), name=model.name)
        except Exception as error:
            raise ValueError(
                f"{caller}: `model` must be a functional or sequential model, or one whose `call` "
                f"is made of layers and of `keras.ops`. Received: {type(model).__name__}."
            ) from error
    shapes = [tuple(tensor.shape) for tensor in model.inputs] if model.built else []
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ValueError(
            f"{caller}: `model` must have one input (batch, height, width, channels). "
            f"Received: {shapes}."
        )
    return model


def interpret(model, inputs, visit, pointwise_layers=()):
    """Runs the graph of a functional or sequential model on values of any kind.

    Models inside the model are entered: their layers are visited as the model's own. So are layers
    that are not known but made of layers, and `Lambda`.

    Args:
        model: A functional or sequential `keras.Model`.
        inputs: List of one value for each input of the model. A value may be of any type that
            `keras.tree` does not take apart.
        visit: `visit(operation, args, kwargs)`, called for every call of a layer or operation in
            an order in which its inputs come first, with values in the place of tensors. Returns
            a value, or a structure of values, for its outputs.
        pointwise_layers: Classes of layers that are not entered.

    Returns:
        The values of the model's outputs, in the structure of `model.output`.
    """
    if isinstance(model, keras.Sequential):
        model = model._functional
    values = {id(tensor): value for tensor, value in zip(model.inputs, inputs, strict=True)}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.is_input or any(id(tensor) not in values for tensor in node.input_tensors):
                continue
            inner = _inner_model(node, pointwise_layers)
            if inner is None:
                args, kwargs = node.arguments.fill_in(values)
                outputs = visit(node.operation, args, kwargs)
            else:
                taken = [values[id(tensor)] for tensor in node.input_tensors]
                outputs = interpret(inner, taken, visit, pointwise_layers)
            values.update(
                (id(tensor), value)
                for tensor, value in zip(node.outputs, keras.tree.flatten(outputs), strict=True)
            )
    return keras.tree.map_structure(lambda tensor: values[id(tensor)], model.output)


def _inner_model(node, pointwise_layers):
    """The model that a call enters, or `None` if it is a call of a single layer."""
    layer = node.operation
    if isinstance(layer, keras.Sequential) or _is_functional(layer):
        return layer
    has_parts = isinstance(layer, layers.Layer) and (
        layer._layers or isinstance(layer, layers.Lambda)
    )
    if not has_parts or role(layer, (), pointwise_layers) is not Role.UNKNOWN:
        return None
    inputs = {
        id(tensor): keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)
        for tensor in node.input_tensors
    }
    args, kwargs = node.arguments.fill_in(inputs)
    try:
        return keras.Model(list(inputs.values()), layer.call(*args, **kwargs))
    except Exception:  # its `call` is not made of layers and of `keras.ops` alone
        return None


def _is_functional(model):
    return isinstance(model, keras.Model) and hasattr(model, "_nodes_by_depth")


class Copies:
    """New layers in the place of a model's, each under a name that no other has.

    A layer that is called several times has one copy. Weights are copied at the end, when all
    layers are built.
    """

    def __init__(self, caller):
        self._caller = caller
        self._made = {}
        self._originals = []
        self._names = set()

    def of(self, operation, **changes):
        """The copy of a layer, or of another operation, with some of its configuration changed."""

        def make(name):
            if isinstance(operation, layers.Layer):
                config = {**operation.get_config(), **changes, "name": name}
                new = type(operation).from_config(config)
                self._originals.append((operation, new))
                return new
            new = copy.copy(operation)
            new._inbound_nodes, new._outbound_nodes, new.name = [], [], name
            return new

        return self._once(operation, "", make, changes)

    def beside(self, operation, layer_class, suffix="", **config):
        """A layer of another class, which stands in the place of a layer or serves it."""
        if isinstance(operation, layers.Layer):
            config["dtype"] = operation.dtype_policy
        return self._once(operation, suffix, lambda name: layer_class(name=name, **config), config)

    def copy_weights(self):
        """Gives every copy the weights of its layer."""
        for operation, new in self._originals:
            if operation.weights:
                new.set_weights(operation.get_weights())

    def _once(self, operation, suffix, make, arguments):
        key = id(operation), suffix
        if key not in self._made:
            self._made[key] = make(self._name(operation.name + suffix)), arguments
        made, made_with = self._made[key]
        if made_with != arguments:
            raise ValueError(
                f"{self._caller}: the layer {operation.name!r} is called on maps of different "
                "strides: it would have to dilate in two ways."
            )
        return made

    def _name(self, wanted):
        numbered = (f"{wanted}_{number}" for number in itertools.count(1))
        name = next(each for each in itertools.chain([wanted], numbered) if each not in self._names)
        self._names.add(name)
        return name


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
