"""Gradients: against finite differences; none where the table declares none.

That the native gradient agrees with the reference's in every dtype is checked with the values.
"""

import numpy as np

from kvision.testing import op_results
from kvision.testing.op_signature import rounded
from kvision.testing.vjp import to_numpy, to_tensor


def check_finite_differences(contract, variant, seed=0):
    """Raises `AssertionError` unless the gradient to every differentiable input is the slope.

    Central differences of a random combination of the outputs, for every element of inputs whose
    axes are at most 3 long.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
        seed: Of the inputs.
    """
    dtype = contract.gradient_dtype
    sizes = {name: min(size, 3) for name, size in contract.sizes_of(variant).items()}
    inputs = contract.draw(variant, sizes, dtype, seed)
    arguments = contract.arguments_of(variant)
    found = op_results.results(contract, inputs, arguments)
    upstream = op_results.output_gradients(contract, variant, found, dtype)
    watched = contract.differentiable(variant)
    gradients = op_results.gradients(contract, inputs, arguments, upstream, watched)
    combine = _combination(contract, inputs, arguments, upstream)
    for name in watched:
        value = inputs[name]
        slopes = np.empty(value.shape)
        for index in np.ndindex(*value.shape):
            ends = []
            for step in (contract.gradient_step, -contract.gradient_step):
                moved = value.copy()
                moved[index] += step
                ends.append((combine({**inputs, name: moved}), float(moved[index])))
            (above, right), (below, left) = ends
            slopes[index] = (above - below) / (right - left)
        np.testing.assert_allclose(
            gradients[name],
            slopes,
            contract.gradient_rtol,
            contract.gradient_rtol * max(1.0, np.max(np.abs(slopes), initial=0.0)),
            err_msg=f"{contract.name}: gradient of `{name}`",
        )


def check_no_gradient(contract, variant):
    """Raises `AssertionError` unless floating inputs declared without a gradient have none.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
    """
    import tensorflow as tf

    inputs = contract.draw(variant, contract.sizes_of(variant), contract.default_dtype)
    tensors = {name: to_tensor(value) for name, value in inputs.items()}
    constant = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.dtype.is_floating and not contract.inputs[name].differentiable
    }
    with tf.GradientTape() as tape:
        tape.watch(list(constant.values()))
        outputs = contract.call(tensors, contract.arguments_of(variant))
    floating = [value for value in outputs.values() if value.dtype.is_floating]
    if not floating or not constant:
        return
    for name, gradient in tape.gradient(floating, constant).items():
        if gradient is not None:
            raise AssertionError(
                f"{contract.name}: `{name}` is declared without a gradient, and has one."
            )


def _combination(contract, inputs, arguments, upstream):
    """A function from arrays by name to one number, compiled once where there is TensorFlow."""

    def function(tensors):
        return contract.call(tensors, arguments)

    if op_results.on_tensorflow():
        import tensorflow as tf

        function = tf.function(function, autograph=False)

    def combine(arrays):
        tensors = {
            name: to_tensor(rounded(value, inputs[name].dtype.name))
            for name, value in arrays.items()
        }
        outputs = function(tensors)
        return sum(
            float(np.sum(to_numpy(outputs[name]).astype("float64") * value.astype("float64")))
            for name, value in upstream.items()
        )

    return combine
