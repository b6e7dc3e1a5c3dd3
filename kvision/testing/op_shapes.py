"""Shapes that are known in advance: of graphs, of KerasTensors and of raw ops."""

import keras

from kvision.testing import op_results
from kvision.testing.op_signature import ANY

ALL = "all axes"
NONE = "no axis"


def unknown_axes(contract, variant):
    """What `check_static_shape` can hide: no axis, each of them, all of them."""
    return [NONE, *contract.named_axes(variant), ALL]


def check_static_shape(contract, variant, unknown):
    """Raises `AssertionError` unless a graph knows the shapes and dtypes that come out.

    Those of the outputs and of the gradients, as far as the known axes decide them.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
        unknown: The named axis that no input's static shape knows, `NONE` or `ALL`.
    """
    hidden = _hidden(contract, variant, unknown)
    arguments = contract.arguments_of(variant)
    outputs, gradients = traced(contract, variant, hidden).structured_outputs
    promised = contract.promised(variant, hidden, contract.default_dtype, arguments)
    _check_static(contract, outputs, promised)
    shapes = contract.shapes(variant, hidden)
    for name, gradient in gradients.items():
        _check_known(contract, f"gradient of {name}", gradient, shapes[name])


def check_symbolic(contract, variant, unknown):
    """Raises `AssertionError` unless KerasTensors give the shapes and dtypes that come out.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
        unknown: As in `check_static_shape`.
    """
    hidden = _hidden(contract, variant, unknown)
    arguments = contract.arguments_of(variant)
    for dtype in contract.dtypes:
        if dtype == "float64" and not op_results.on_tensorflow():
            continue  # an option of JAX, and float32 in Keras on PyTorch
        tensors = {
            name: keras.KerasTensor(shape, dtype=contract.dtype_of(name, dtype))
            for name, shape in contract.shapes(variant, hidden).items()
        }
        outputs = contract.named_outputs(contract.function(**tensors, **arguments))
        promised = contract.promised(variant, hidden, dtype, arguments)
        op_results.check_promise(contract, outputs, promised)


def check_raw_static_shape(raw, variant):
    """Raises `AssertionError` unless a raw op infers its shapes from what is known.

    Each axis of each input is unknown in turn, and has to be taken from another input that names
    it; then each rank, then all of them: the rank of the outputs is known even so.

    Args:
        raw: `RawOp`.
        variant: `Variant`.
    """
    sizes = raw.sizes_of(variant)
    arguments = raw.arguments_of(variant)
    axes = raw.axes_of(variant)
    shapes = raw.shapes(variant, sizes)
    for name in axes:
        for position, axis in enumerate(axes[name]):
            shape = tuple(None if i == position else n for i, n in enumerate(shapes[name]))
            elsewhere = sum(words.count(axis) for words in axes.values()) > 1
            known = sizes if elsewhere or axis.isdecimal() else {**sizes, axis: None}
            _check_raw(raw, variant, {**shapes, name: shape}, known, arguments)
        others = {axis for other in axes if other != name for axis in axes[other]}
        known = {axis: size if axis in others else None for axis, size in sizes.items()}
        _check_raw(raw, variant, {**shapes, name: None}, known, arguments)
    _check_raw(raw, variant, dict.fromkeys(shapes), dict.fromkeys(sizes), arguments)


def _check_raw(raw, variant, shapes, known, arguments):
    import tensorflow as tf

    for dtype in raw.dtypes:
        specs = {
            name: tf.TensorSpec(shape, raw.dtype_of(name, dtype)) for name, shape in shapes.items()
        }
        function = tf.function(lambda tensors: raw.call(tensors, arguments), autograph=False)
        outputs = function.get_concrete_function(specs).structured_outputs
        try:
            _check_static(raw, outputs, raw.promised(variant, known, dtype, arguments))
        except AssertionError as error:
            raise AssertionError(f"{raw.label} of {shapes}: {error}") from error


def signature(contract, variant, sizes, dtype):
    """Name of an input -> `tf.TensorSpec`; sizes may be None."""
    import tensorflow as tf

    return {
        name: tf.TensorSpec(shape, contract.dtype_of(name, dtype), name=name)
        for name, shape in contract.shapes(variant, sizes).items()
    }


def traced(contract, variant, sizes):
    """The concrete function from inputs to outputs and gradients of ones, all of them by name.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
        sizes: Size of every named axis, None where it is unknown.
    """
    import tensorflow as tf

    watched = contract.differentiable(variant)
    function = op_results.outputs_and_gradients(contract, contract.arguments_of(variant), watched)
    specs = signature(contract, variant, sizes, contract.default_dtype)
    return tf.function(function, autograph=False).get_concrete_function(specs)


def _hidden(contract, variant, unknown):
    """The size of every named axis, None where it is unknown."""
    sizes = contract.sizes_of(variant)
    return {name: None if unknown in (name, ALL) else size for name, size in sizes.items()}


def _check_static(contract, outputs, promised):
    for name, (shape, dtype) in promised.items():
        found_dtype = keras.backend.standardize_dtype(outputs[name].dtype)
        if found_dtype != dtype:
            raise AssertionError(
                f"{contract.name}: `{name}` should be {dtype}, and is {found_dtype}."
            )
        _check_known(contract, name, outputs[name], shape)


def _check_known(contract, name, tensor, shape):
    found = None if tensor.shape.rank is None else tuple(tensor.shape)
    wanted = tuple(None if size == ANY else size for size in shape)
    if found != wanted:
        raise AssertionError(
            f"{contract.name}: the static shape of `{name}` should be {wanted}, and is {found}."
        )
