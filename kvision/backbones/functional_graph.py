"""The graph of a functional Keras model: followed node by node, and copied layer by layer."""

import copy
import itertools

import keras
from keras import layers

from kvision.backbones.grid import Role, role


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
