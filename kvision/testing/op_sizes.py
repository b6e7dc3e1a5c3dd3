"""One op for every size: changing and empty inputs; nodes of Keras models."""

import keras
import numpy as np

from kvision.ops import native
from kvision.testing import op_results
from kvision.testing.op_shapes import ALL, traced
from kvision.testing.vjp import to_tensor


def check_changing_sizes(contract, variant):
    """Raises `AssertionError` unless one trace serves every size, with an eager call's results.

    Among them every axis of size 0. What comes out, gradients too, has the shape promised.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
    """
    dtype = contract.default_dtype
    arguments = contract.arguments_of(variant)
    concrete = traced(contract, variant, dict.fromkeys(contract.named_axes(variant)))
    usual = contract.sizes_of(variant)
    every = [usual, {name: 3 * size + 1 for name, size in usual.items()}, dict.fromkeys(usual, 1)]
    every += [emptied(usual, empty) for empty in empty_axes(contract, variant)]
    for seed, sizes in enumerate(every):
        inputs = contract.draw(variant, sizes, dtype, seed)
        outputs, gradients = concrete({name: to_tensor(value) for name, value in inputs.items()})
        op_results.check_promise(
            contract, outputs, contract.promised(variant, sizes, dtype, arguments)
        )
        for name, gradient in gradients.items():
            op_results.check_shape(
                contract, f"gradient of {name}", gradient.shape, inputs[name].shape
            )
        found = {name: op_results.to_numpy(value) for name, value in outputs.items()}
        op_results.check_same(found, op_results.results(contract, inputs, arguments))


def empty_axes(contract, variant):
    """What `check_empty` can make empty: each named axis, and all of them."""
    axes = [axis for axis in contract.named_axes(variant) if axis not in variant.nonempty]
    return [*axes, ALL] if len(axes) == len(contract.named_axes(variant)) else axes


def check_empty(contract, variant, empty):
    """Raises `AssertionError` unless an axis of size 0 gives what is promised.

    The reference and the native kernel agree, and the gradients have the shapes of their inputs,
    all zero where there is no output.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
        empty: The named axis of size 0, or `ALL`.
    """
    sizes = emptied(contract.sizes_of(variant), empty)
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


def emptied(sizes, empty):
    """Sizes of which one axis is 0, or with `ALL` every one.

    Args:
        sizes: Size of every named axis.
        empty: The named axis of size 0, or `ALL`.
    """
    return {name: 0 if empty in (name, ALL) else size for name, size in sizes.items()}
