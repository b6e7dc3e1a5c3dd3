"""What a classifier sees everywhere in an image: its head as convolutions, its body dense.

A dense layer on a vector is a 1x1 convolution, and one on a flattened map is a convolution as large
as the map (Sermanet et al., OverFeat, ICLR 2014; Long, Shelhamer and Darrell, CVPR 2015).
"""

import dataclasses

import keras
from keras import layers

from kvision.backbones.functional_graph import Copies, followable, interpret
from kvision.backbones.grid import Role, role
from kvision.backbones.survey import Survey
from kvision.backbones.to_atrous import to_atrous

# What may stand between `Flatten` and a dense layer.
_ELEMENTWISE = (layers.Dropout, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Identity)


def classify_densely(model, images, output_stride=8, *, image_size=None, batch_size=8):
    """Classifies every part of images: the class map of a classifier.

    For many calls make the net once, by `to_dense_classifier`, which says what a position of the
    map is.

    Args:
        model: A classifier, see `to_dense_classifier`.
        images: `(B, H, W, C)`, of any size, as `model` takes them.
        output_stride: int, pixels between two positions of the class map.
        image_size: See `to_dense_classifier`.
        batch_size: Images at a time.

    Returns:
        Array `(B, H', W', K)`, float: what `model` returns for an image, at each position.

    Raises:
        ValueError: See `to_dense_classifier`.
    """
    dense = to_dense_classifier(model, output_stride, image_size=image_size)
    return dense.predict(images, batch_size=batch_size, verbose=0)


def to_dense_classifier(model, output_stride=8, *, image_size=None, pointwise_layers=(), name=None):
    """Makes a net of a classifier's weights that gives a class map for images of any size.

    The head becomes convolutional. Global pooling is left out, so a position answers for its own
    part of the image: the mean over the strided positions of a map of logits is the classifier's
    logits, if pooling averages and one dense layer follows. `Flatten` and the dense layer after it
    become a convolution as large as the map at the classifier's image size: without padding in the
    net a position is the classifier's answer for the crop of that size that begins there. Then
    `to_atrous` makes the net dense. `kvision.receptive_field` tells which pixels a position sees.

    Args:
        model: Functional or sequential `keras.Model`, or one whose `call` is made of layers such as
            `kvision.models.classification.ImageClassifier`: images to `(B, K)`.
        output_stride: int, pixels between two positions of the class map; the net's own stride,
            if that is less.
        image_size: `(height, width)` of the images the classifier is made for, where its head
            flattens a map. By default that of its input, or its attribute of this name.
        pointwise_layers: Classes of your own layers that treat each position by itself.
        name: Name of the new model; the model's with `"_dense"` by default.

    Returns:
        A functional `keras.Model`, images `(B, H, W, C)` to `(B, H', W', K)`.

    Raises:
        ValueError: If the model cannot be followed, has more than one output or no head, or at a
            layer that has no counterpart on a map.
    """
    image_size = image_size or getattr(model, "image_size", None)
    pointwise_layers = tuple(pointwise_layers)
    model = followable("to_dense_classifier", model)
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        raise ValueError(
            "to_dense_classifier: `model` must have one output (batch, classes). "
            f"Received: {[tuple(output.shape) for output in model.outputs]}."
        )
    size = model.inputs[0].shape[1:3] if image_size is None else image_size
    survey = Survey(
        "to_dense_classifier",
        model,
        [512 if side is None else side for side in size],
        pointwise_layers,
    )
    rows, columns = survey.calls[survey.last_map].field.axes
    convert = _Convolutional(
        survey, None if None in size else (rows.positions, columns.positions), pointwise_layers
    )
    images = keras.Input(
        (None, None, model.inputs[0].shape[-1]), dtype=model.inputs[0].dtype, name="images"
    )
    output = interpret(model, [_Map(images)], convert, pointwise_layers)
    name = name or f"{model.name}_dense"
    convolutional = keras.Model(images, output.tensor, name=name)
    convert.copy_weights()
    if output_stride >= max(rows.stride, columns.stride):
        return convolutional
    return to_atrous(convolutional, output_stride, pointwise_layers=pointwise_layers, name=name)


@dataclasses.dataclass(frozen=True)
class _Map:
    """A map `(B, H, W, C)` that has, at each position, what was one vector of the head.

    Attributes:
        tensor: The `KerasTensor`.
        window: Positions of the map, (y, x), that the vector was made of; `None` if not known.
        dilation: Positions between two of them.
    """

    tensor: object
    window: tuple | None = None
    dilation: tuple = (1, 1)


class _Convolutional:
    """Copies a classifier's body and turns its head into convolutions; `interpret` calls it."""

    def __init__(self, survey, map_size, pointwise_layers):
        self._body = survey.ancestors(survey.last_map)
        self._last_map = survey.last_map
        self._map_size = map_size
        self._pointwise_layers = pointwise_layers
        self._copies = Copies("to_dense_classifier")
        self._convolutions = []
        self._count = 0

    def copy_weights(self):
        """Gives the new layers the weights of the classifier's."""
        self._copies.copy_weights()
        for dense, convolution in self._convolutions:
            kernel, *bias = dense.get_weights()
            convolution.set_weights([kernel.reshape(convolution.kernel.shape), *bias])

    def __call__(self, operation, args, kwargs):
        self._count += 1
        if self._count in self._body:
            window = self._map_size if self._count == self._last_map else None
            return self._call(operation, args, kwargs, _Map(None, window))
        maps = [leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, _Map)]
        vector = maps[0]
        if isinstance(operation, layers.GlobalAveragePooling2D | layers.GlobalMaxPooling2D):
            return _Map(vector.tensor, (1, 1))
        if isinstance(operation, layers.AdaptiveAveragePooling2D):
            return self._pooled(operation, vector)
        if vector.window is None:
            raise _refusal(operation, "needs the size of the map: say the net's `image_size`")
        if isinstance(operation, layers.Flatten) or _is_flattening(operation):
            return vector
        if vector.window != (1, 1) and isinstance(operation, layers.Dense):
            return self._convolution(operation, vector)
        if vector.window != (1, 1):
            allowed = isinstance(operation, _ELEMENTWISE)
        elif isinstance(operation, layers.Conv2D):
            allowed = set(operation.kernel_size) == {1}
        else:
            allowed = role(operation, args, self._pointwise_layers) is Role.POINTWISE
        if not allowed:
            raise _refusal(operation, "has no counterpart on a map")
        return self._call(operation, args, kwargs, vector)

    def _call(self, operation, args, kwargs, like):
        args, kwargs = keras.tree.map_structure(
            lambda leaf: leaf.tensor if isinstance(leaf, _Map) else leaf, (args, kwargs)
        )
        outputs = self._copies.of(operation)(*args, **kwargs)
        return keras.tree.map_structure(
            lambda tensor: dataclasses.replace(like, tensor=tensor), outputs
        )

    def _pooled(self, layer, vector):
        """Means of a number of parts of the map: of windows that do not grow with it."""
        parts = tuple(layer.output_size)
        if parts == (1, 1):
            return _Map(vector.tensor, parts)
        if vector.window is None:
            raise _refusal(layer, "needs the size of the map: say the net's `image_size`")
        if any(side % count for side, count in zip(vector.window, parts, strict=True)):
            raise _refusal(layer, f"parts a map of {vector.window} unequally")
        size = tuple(side // count for side, count in zip(vector.window, parts, strict=True))
        pooling = self._copies.beside(layer, layers.AveragePooling2D, pool_size=size, strides=1)
        return _Map(pooling(vector.tensor), parts, size)

    def _convolution(self, dense, vector):
        """The dense layer on a flattened window of the map."""
        convolution = self._copies.beside(
            dense,
            layers.Conv2D,
            filters=dense.units,
            kernel_size=vector.window,
            dilation_rate=vector.dilation,
            activation=dense.activation,
            use_bias=dense.use_bias,
        )
        self._convolutions.append((dense, convolution))
        return _Map(convolution(vector.tensor), (1, 1))


def _is_flattening(operation):
    """Whether a layer reshapes into the channels alone, with axes of size 1 before them."""
    if not isinstance(operation, layers.Reshape):
        return False
    *others, _ = operation.target_shape
    return set(others) <= {1}


def _refusal(operation, reason):
    kind = type(operation).__name__
    return ValueError(f"to_dense_classifier: the layer {operation.name!r}, {kind}, {reason}.")
