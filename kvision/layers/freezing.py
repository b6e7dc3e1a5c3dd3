"""Which parts of a layer are frozen, in a form that a configuration can hold.

Keras writes `trainable` into the configuration of each layer, but a class that makes its layers
from constructor arguments does not read it there. Layers are told apart by their place, as in
Keras' weight files: names that Keras gives change from one instance to the next.
"""


def frozen_layers(layer):
    """Lists what is frozen in a layer.

    Args:
        layer: A `keras.layers.Layer`, a model for example.

    Returns:
        List of integers: the places of the layers that are not trainable, among the layer itself
        and all that is in it.
    """
    return [place for place, part in enumerate(layer._flatten_layers()) if not part.trainable]


def make_frozen(layer_class, config):
    """Makes a layer of its configuration and freezes what was frozen.

    Args:
        layer_class: The class.
        config: The constructor's arguments and, as `frozen_layers`, what the function of that
            name returned for an instance of the same arguments. Without it the layer is left as
            the constructor makes it.

    Returns:
        The layer.
    """
    config = dict(config)
    places = config.pop("frozen_layers", None)
    layer = layer_class(**config)
    if places is not None:
        for place, part in enumerate(layer._flatten_layers()):  # a part comes after its owner
            trainable = place not in places
            if part.trainable != trainable:
                part.trainable = trainable
    return layer
