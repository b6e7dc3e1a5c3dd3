"""Arrays of a checkpoint into the variables of a model, all or none."""

from typing import NamedTuple

import keras
import numpy as np

from kvision.weights.layouts import (
    CONVOLUTION,
    DENSE,
    DEPTHWISE_CONVOLUTION,
    SAME,
    Layout,
)
from kvision.weights.report import LoadReport, WeightsMismatchError


class Target(NamedTuple):
    """The variable an array goes to, or the part of its last axis."""

    variable: keras.Variable
    layout: Layout = SAME
    part: slice | None = None

    @property
    def source_shape(self):
        shape = tuple(self.variable.shape)
        if self.part is not None:
            shape = (*shape[:-1], self.part.stop - self.part.start)
        return self.layout.source_shape(shape)

    def assign(self, array):
        """Sets the values to those of an array of the checkpoint."""
        values = self.layout.convert(array)
        if self.part is not None:
            whole = np.array(keras.ops.convert_to_numpy(self.variable))
            whole[..., self.part] = values
            values = whole
        self.variable.assign(values)


def load(loader, model, targets, arrays, *, leftovers, strict):
    """Compares every name and shape and then sets the variables.

    Args:
        loader: Name of the public function, for the error message.
        model: The model that the targets are of.
        targets: Name in the checkpoint -> `Target`.
        arrays: Name -> array of the checkpoint.
        leftovers: Names in the checkpoint that are known to have no use here.
        strict: Whether anything that does not match is an error, and nothing is loaded.

    Returns:
        A `LoadReport`.

    Raises:
        WeightsMismatchError: Under `strict`.
    """
    shared = [name for name in targets if name in arrays]
    mismatched = {
        name: (targets[name].source_shape, arrays[name].shape)
        for name in shared
        if targets[name].source_shape != arrays[name].shape
    }
    others = [name for name in arrays if name not in targets]
    report = LoadReport(
        loaded=tuple(name for name in shared if name not in mismatched),
        missing=tuple(name for name in targets if name not in arrays),
        unexpected=tuple(name for name in others if name not in leftovers),
        mismatched=mismatched,
        unused=tuple(name for name in others if name in leftovers),
    )
    if strict and not report.complete:
        raise WeightsMismatchError(
            f"{loader}: the weights do not fit {model.name}; nothing was loaded.", report
        )
    for name in report.loaded:
        targets[name].assign(arrays[name])
    return report


def torch_targets(layer, module, layout=None, part=None):
    """Targets of a layer by the names and layouts that PyTorch gives to its arrays.

    Args:
        layer: A convolution, a dense layer or a batch normalisation, frozen or not.
        module: Name of PyTorch's module.
        layout: Layout of the kernel, if not that of the layer's kind.
        part: Slice of the channels of a normalisation that the module is of, if not all.

    Returns:
        Name -> `Target`.
    """
    if not hasattr(layer, "kernel"):
        return {
            f"{module}.weight": Target(layer.gamma, part=part),
            f"{module}.bias": Target(layer.beta, part=part),
            f"{module}.running_mean": Target(layer.moving_mean, part=part),
            f"{module}.running_var": Target(layer.moving_variance, part=part),
        }
    if layout is None:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            layout = DEPTHWISE_CONVOLUTION
        else:
            layout = DENSE if isinstance(layer, keras.layers.Dense) else CONVOLUTION
    targets = {f"{module}.weight": Target(layer.kernel, layout)}
    if layer.use_bias:
        targets[f"{module}.bias"] = Target(layer.bias)
    return targets


def check_settings(loader, library, model, settings):
    """Raises a ValueError unless a model was built as the library builds it.

    Args:
        loader: Name of the public function.
        library: Name of the other library.
        model: The model.
        settings: Attribute -> the values it may have; the first is named in the message.
    """
    for attribute, allowed in settings.items():
        value = getattr(model, attribute)
        if value not in allowed:
            raise ValueError(
                f"{loader}: {library} has this {type(model).__name__} with "
                f"{attribute}={_quoted(allowed[0])}; build it so. "
                f"Received: {attribute}={_quoted(value)}."
            )


def _quoted(value):
    return f'"{value}"' if isinstance(value, str) else repr(value)
