"""Shapes: known in advance as they turn out, for changing and empty inputs, and in models."""

import keras
import numpy as np

from kvision.ops import native
from kvision.testing import op_results
from kvision.testing.op_signature import ANY
from kvision.testing.vjp import to_tensor

ALL = "all axes"
NONE = "no axis"


def unknown_axes(contract, variant):
    """What `check_static_shape` can hide: no axis, each of them, all of them."""
    return [NONE, *contract.named_axes(variant), ALL]


def check_static_shape(contract, variant, unknown):
    """Raises `AssertionError` unless a graph knows the shapes and dtypes that come out.

    Those of the outputs and of the gradients, as far as the known axes decide them; and the
    values are those of an eager call.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
        unknown: The named axis that no input's static shape knows, `NONE` or `ALL`.
    """
    sizes, hidden = _hidden(contract, variant, unknown)
    inputs = contract.draw(variant, sizes, contract.default_dtype)
    arguments = contract.arguments_of(variant)
    watched = contract.differentiable(variant)
    function = _traceable(contract, arguments, watched)
    specs = signature(contract, variant, hidden, contract.default_dtype)
    concrete = function.get_concrete_function(specs)
    promised = contract.promised(variant, hidden, contract.default_dtype, arguments)
    _check_static(contract, concrete.structured_outputs[0], promised)
    shapes = contract.shapes(variant, hidden)
    for name, gradient in concrete.structured_outputs[1].items():
        _check_known(contract, f"gradient of {name}", gradient, shapes[name])
    outputs, gradients = function({name: to_tensor(value) for name, value in inputs.items()})
    promised = contract.promised(variant, sizes, contract.default_dtype, arguments)
    op_results.check_promise(contract, outputs, promised)
    for name, gradient in gradients.items():
        op_results.check_shape(contract, f"gradient of {name}", gradient.shape, inputs[name].shape)
    eager = op_results.results(contract, inputs, arguments)
    found = {name: op_results.to_numpy(value) for name, value in outputs.items()}
    op_results.check_same(found, eager)


def check_symbolic(contract, variant, unknown):
    """Raises `AssertionError` unless KerasTensors give the shapes and dtypes that come out.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
        unknown: As in `check_static_shape`.
    """
    _, hidden = _hidden(contract, variant, unknown)
    arguments = contract.arguments_of(variant)
    for dtype in contract.dtypes:
        tensors = {
            name: keras.KerasTensor(shape, dtype=contract.dtype_of(name, dtype))
            for name, shape in contract.shapes(variant, hidden).items()
        }
        outputs = contract.named_outputs(contract.function(**tensors, **arguments))
        promised = contract.promised(variant, hidden, dtype, arguments)
        op_results.check_promise(contract, outputs, promised)


def check_changing_sizes(contract, variant):
    """Raises `AssertionError` unless one trace serves every size, with an eager call's results.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
    """
    import tensorflow as tf

    traces = []
    arguments = contract.arguments_of(variant)

    def traced(inputs):
        traces.append(1)
        return contract.call(inputs, arguments)

    hidden = dict.fromkeys(contract.named_axes(variant))
    specs = signature(contract, variant, hidden, contract.default_dtype)
    function = tf.function(traced, input_signature=[specs], autograph=False)
    usual = contract.sizes_of(variant)
    for seed, change in enumerate((lambda n: n, lambda n: 3 * n + 1, lambda n: 1)):
        sizes = {name: change(size) for name, size in usual.items()}
        inputs = contract.draw(variant, sizes, contract.default_dtype, seed)
        outputs = function({name: to_tensor(value) for name, value in inputs.items()})
        found = {name: op_results.to_numpy(value) for name, value in outputs.items()}
        op_results.check_same(found, op_results.results(contract, inputs, arguments))
    if len(traces) != 1:
        raise AssertionError(f"{contract.name}: traced {len(traces)} times for changing sizes.")


def empty_axes(contract, variant):
    """What `check_empty` can make empty: each named axis, and all of them."""
    axes = [axis for axis in contract.named_axes(variant) if axis not in variant.nonempty]
    return [*axes, ALL] if len(axes) == len(contract.named_axes(variant)) else axes


def check_empty(contract, variant, empty):
    """Raises `AssertionError` unless an axis of size 0 gives what is promised, eagerly and traced.

    The reference and the native kernel agree, and the gradients have the shapes of their inputs,
    all zero where there is no output.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
        empty: The named axis of size 0, or `ALL`.
    """
    sizes = {
        name: 0 if empty in (name, ALL) else size
        for name, size in contract.sizes_of(variant).items()
    }
    dtype = contract.default_dtype
    inputs = contract.draw(variant, sizes, dtype)
    arguments = contract.arguments_of(variant)
    promised = contract.promised(variant, sizes, dtype, arguments)
    outputs = contract.call(inputs, arguments)
    op_results.check_promise(contract, outputs, promised)
    found = {name: op_results.to_numpy(value) for name, value in outputs.items()}
    with native.implementation("reference"):
        wanted = op_results.results(contract, inputs, arguments)
    op_results.check_agreement(contract, found, wanted, inputs, dtype)
    watched = contract.differentiable(variant)
    if watched:
        upstream = {
            name: np.ones(value.shape, promised[name][1])
            for name, value in found.items()
            if "float" in promised[name][1]
        }
        gradients = op_results.gradients(contract, inputs, arguments, upstream, watched)
        for name, gradient in gradients.items():
            op_results.check_shape(
                contract, f"gradient of {name}", gradient.shape, inputs[name].shape
            )
            if not any(value.size for value in upstream.values()) and gradient.any():
                raise AssertionError(f"{contract.name}: a gradient of `{name}` out of nothing.")
    if not op_results.on_tensorflow():
        return
    function = _traceable(contract, arguments, watched)
    hidden = dict.fromkeys(sizes)
    concrete = function.get_concrete_function(signature(contract, variant, hidden, dtype))
    traced = concrete({name: to_tensor(value) for name, value in inputs.items()})[0]
    op_results.check_promise(contract, traced, promised)


def check_functional_model(contract, variant, folder):
    """Raises `AssertionError` unless the op is a node of a Keras model that can be saved.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
        folder: Path of a folder to save it in.
    """
    dtype = contract.default_dtype
    arguments = contract.arguments_of(variant)
    hidden = dict.fromkeys(contract.named_axes(variant))
    tensors = {
        name: keras.Input(batch_shape=shape, dtype=contract.dtype_of(name, dtype), name=name)
        for name, shape in contract.shapes(variant, hidden).items()
    }
    outputs = contract.named_outputs(contract.function(**tensors, **arguments))
    model = keras.Model(tensors, outputs)
    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    inputs = contract.draw(variant, contract.sizes_of(variant), dtype)
    tensors = {name: to_tensor(value) for name, value in inputs.items()}
    found = {name: op_results.to_numpy(value) for name, value in loaded(tensors).items()}
    op_results.check_same(found, op_results.results(contract, inputs, arguments))


def check_xla(contract, variant):
    """Raises `AssertionError` unless XLA compiles the reference, with the reference's results.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
    """
    import tensorflow as tf

    arguments = contract.arguments_of(variant)
    inputs = contract.draw(variant, contract.sizes_of(variant), contract.default_dtype)
    compiled = tf.function(
        lambda inputs: contract.call(inputs, arguments), jit_compile=True, autograph=False
    )
    outputs = compiled({name: to_tensor(value) for name, value in inputs.items()})
    found = {name: op_results.to_numpy(value) for name, value in outputs.items()}
    with native.implementation("reference"):
        wanted = op_results.results(contract, inputs, arguments)
    op_results.check_agreement(contract, found, wanted, inputs, contract.default_dtype)


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


def _hidden(contract, variant, unknown):
    """The sizes, and the same with None where they are unknown."""
    sizes = contract.sizes_of(variant)
    return sizes, {name: None if unknown in (name, ALL) else size for name, size in sizes.items()}


def _traceable(contract, arguments, watched):
    """A tf.function from inputs to outputs and gradients of ones, by name."""
    import tensorflow as tf

    def function(inputs):
        with tf.GradientTape() as tape:
            tape.watch([inputs[name] for name in watched])
            outputs = contract.call(inputs, arguments)
            floating = [value for value in outputs.values() if value.dtype.is_floating]
        if not watched:
            return outputs, {}
        gradients = tape.gradient(floating, {name: inputs[name] for name in watched})
        return outputs, {name: tf.convert_to_tensor(value) for name, value in gradients.items()}

    return tf.function(function, autograph=False)


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
