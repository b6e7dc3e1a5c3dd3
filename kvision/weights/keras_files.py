"""The arrays of a Keras model, by the names of its layers."""

import io
import zipfile
from pathlib import Path

import keras
import numpy as np


def read_layers(source):
    """Reads the arrays of every layer that has some.

    Args:
        source: A functional or sequential `keras.Model`, or the path of its `.keras`,
            `.weights.h5` or older `.h5` file.

    Returns:
        Name of the layer -> list of its arrays, float32, in the order of `layer.get_weights()`.

    Raises:
        ValueError: If the file has no names of layers, as those of the first versions of Keras 3.
    """
    if isinstance(source, keras.Model):
        return _as_float32({layer.name: layer.get_weights() for layer in source.layers})
    import h5py

    path = Path(source)
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            file = io.BytesIO(archive.read("model.weights.h5"))
    else:
        file = path
    with h5py.File(file, "r") as root:
        root = root.get("model_weights", root)
        return _as_float32(_keras2(root) if "layer_names" in root.attrs else _keras3(root, path))


def _keras2(root):
    """A group for each layer, and the names of its arrays in their order."""
    layers = {}
    for name in map(_text, root.attrs["layer_names"]):
        group = root[name]
        layers[name] = [group[_text(array)] for array in group.attrs["weight_names"]]
    return layers


def _keras3(root, path):
    """A group for each layer, called by its class; the layer's own name stands at its arrays."""
    layers = {}
    for group in root["layers"].values():
        arrays = group["vars"]
        if len(arrays):
            if "name" not in arrays.attrs:
                raise ValueError(
                    "load_keras: the file has no names of layers; load it into its model and give "
                    f"that. Received: {path}."
                )
            layers[_text(arrays.attrs["name"])] = [
                arrays[index] for index in sorted(arrays, key=int)
            ]
    return layers


def _text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def _as_float32(layers):
    return {
        name: [np.asarray(array, "float32") for array in arrays]
        for name, arrays in layers.items()
        if len(arrays)
    }
