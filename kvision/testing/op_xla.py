"""XLA: what TensorFlow compiles gives what the native kernels give eagerly, and runs them."""

import numpy as np

from kvision.ops import native
from kvision.testing import op_results
from kvision.testing.op_refusals import changed, expect
from kvision.testing.op_shapes import signature
from kvision.testing.op_sizes import emptied, empty_axes
from kvision.testing.vjp import to_tensor


def check_xla(contract, variant, dtype, sizes):
    """Raises `AssertionError` unless XLA compiles native calls, with an eager call's results.

    Values and the gradients to all differentiable inputs differ by no more than 1e-6 of the
    greatest; integers are equal. XLA does not round between the steps of an op in plain
    `keras.ops`: its half types may differ by two roundings.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
        dtype: What T is.
        sizes: Size of every named axis.
    """
    inputs = contract.draw(variant, sizes, dtype)
    tensors = {name: to_tensor(value) for name, value in inputs.items()}
    function = op_results.outputs_and_gradients(
        contract, contract.arguments_of(variant), contract.differentiable(variant), random=True
    )
    compiled = _compiled(function)
    label = f"{contract.name} in {dtype}"
    _check_same(label, compiled, function, tensors, tolerance(contract, dtype))
    if all(sizes.values()):  # XLA leaves out what computes nothing
        _check_program(contract, variant, compiled, tensors)


def check_xla_changing_sizes(contract, variant):
    """Raises `AssertionError` unless one trace of no sizes is compiled for every size.

    Among them every axis of size 0.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
    """
    dtype, usual = contract.default_dtype, contract.sizes_of(variant)
    function = op_results.outputs_and_gradients(
        contract, contract.arguments_of(variant), contract.differentiable(variant)
    )
    specs = signature(contract, variant, dict.fromkeys(usual), dtype)
    compiled = _compiled(function, input_signature=[specs])
    for sizes in [usual, *(emptied(usual, empty) for empty in empty_axes(contract, variant))]:
        inputs = contract.draw(variant, sizes, dtype)
        tensors = {name: to_tensor(value) for name, value in inputs.items()}
        label = f"{contract.name} of {sizes}"
        _check_same(label, compiled, function, tensors, tolerance(contract, dtype))


def check_xla_refusal(contract, variant):
    """Raises `AssertionError` unless a call whose shapes depend on data is refused by name.

    Args:
        contract: `OpContract`.
        variant: `Variant` that is not symbolic.
    """
    inputs = contract.draw(variant, contract.sizes_of(variant), contract.default_dtype)
    _expect_refusal(contract, inputs, contract.arguments_of(variant), ValueError, "required")


def check_xla_invalid(contract, invalid):
    """Raises `AssertionError` unless an invalid call is refused as it is eagerly.

    Args:
        contract: `OpContract`.
        invalid: `Invalid`.
    """
    inputs, arguments, _ = changed(contract, invalid)
    _expect_refusal(contract, inputs, arguments, invalid.error, invalid.message)


def tolerance(contract, dtype):
    """By how much of the greatest value a compiled result may differ from the eager one.

    Args:
        contract: `OpContract`.
        dtype: What T is.
    """
    return 1e-6 if _native_ops(contract) else max(1e-6, 2.0 ** (2 - op_results.BITS[dtype]))


def check_close(label, found, wanted, relative):
    """Raises `AssertionError` unless a compiled result is the eager one.

    Args:
        label: What it is, for the message.
        found: Tensor.
        wanted: Tensor.
        relative: Tolerance, a part of the greatest finite value; integers must be equal.
    """
    found, wanted = op_results.to_numpy(found), op_results.to_numpy(wanted)
    if found.shape != wanted.shape:
        raise AssertionError(f"{label}: should have shape {wanted.shape}, and has {found.shape}.")
    if not np.issubdtype(wanted.dtype, np.floating):
        np.testing.assert_array_equal(found, wanted, label)
        return
    finite = np.abs(wanted[np.isfinite(wanted)])
    greatest = float(np.max(finite, initial=0.0))
    np.testing.assert_allclose(found, wanted, 0, relative * greatest, err_msg=label)


def _expect_refusal(contract, inputs, arguments, error, message):
    compiled = _compiled(lambda tensors: contract.call(tensors, arguments))
    expect(lambda: compiled(inputs), error, f"{contract.name}: .*{message}")


def _compiled(function, **options):
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False, **options)


def _check_same(label, compiled, function, tensors, relative):
    """That the outputs and gradients of both functions are the same."""
    both = zip(("", "gradient of "), compiled(tensors), function(tensors), strict=True)
    for kind, found, wanted in both:
        for name, value in wanted.items():
            check_close(f"{label}: {kind}{name}", found[name], value, relative)


def _check_program(contract, variant, compiled, tensors):
    """That the compiled program calls the native kernels of the op, and those of its gradient."""
    targets = _native_ops(contract)
    if contract.differentiable(variant):
        targets += [f"{name}_gradient" for name in targets if f"{name}_gradient" in _described()]
    program = compiled.experimental_get_compiler_ir(tensors)(stage="optimized_hlo")
    for target in targets:
        if f'custom_call_target="kvision_{target}"' not in program:
            raise AssertionError(
                f"{contract.name}: what XLA compiled does not call the native {target}."
            )


def _native_ops(contract):
    if contract.native_ops is not None:
        return list(contract.native_ops)
    return [contract.name] if contract.name in _described() else []


def _described():
    return {op["name"] for op in native.module().ops()}
