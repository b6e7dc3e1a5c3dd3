"""Values: what independent sources say, and every dtype against float64."""

import numpy as np

from kvision.ops import native
from kvision.testing import op_results
from kvision.testing.op_results import BITS
from kvision.testing.op_signature import Variant, rounded


def check_case(contract, case):
    """Raises `AssertionError` unless a case gives what its source expects.

    Args:
        contract: `OpContract`.
        case: `Case`.
    """
    variant = Variant()
    arguments = contract.arguments_of(variant, case.arguments)
    inputs = {name: _array(value) for name, value in case.inputs.items()}
    found = op_results.results(contract, inputs, arguments)
    for name, value in _by_name(contract, case.outputs).items():
        _close(f"{contract.name}: `{name}`", found[name], value, case)
    if case.gradients is None:
        return
    upstream = {
        name: rounded(value, found[name].dtype.name)
        for name, value in _by_name(contract, case.output_gradient).items()
    }
    gradients = op_results.gradients(contract, inputs, arguments, upstream, case.gradients)
    for name, value in case.gradients.items():
        _close(f"{contract.name}: gradient of `{name}`", gradients[name], value, case)


def check_dtype(contract, variant, dtype, seed=0):
    """Raises `AssertionError` unless an op computes with a dtype as exactly as it can be asked to.

    Its error against a float64 evaluation is at most twice that of the reference of the same
    dtype, and one rounding of the result. An op that converts every dtype to one first has to give
    the results of the converted inputs. Half types are accumulated in float32. Of float64 there is
    nothing more exact to compare with: native and reference differ by rounding only. So they do
    where TensorFlow is not the backend, for the reference is not evaluated in float64 there.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
        dtype: Name of the dtype.
        seed: Of the inputs.
    """
    inputs = contract.draw(variant, contract.sizes_of(variant), dtype, seed)
    arguments = contract.arguments_of(variant)
    if contract.computes_in is not None:
        _check_conversion(contract, variant, inputs, arguments, dtype)
        return
    reference, upstream = _evaluate(contract, variant, inputs, arguments, dtype, "reference")
    if contract.accumulates_in_float32 and dtype in ("float16", "bfloat16"):
        exact, _ = _evaluate(contract, variant, inputs, arguments, "float32", "reference", upstream)
        _check_one_rounding(contract, reference, exact, dtype)
    found, _ = _evaluate(contract, variant, inputs, arguments, dtype, "native", upstream)
    if not op_results.on_tensorflow():
        op_results.check_agreement(contract, found, reference, inputs, dtype)
        if contract.accumulates_in_float32 and dtype in ("float16", "bfloat16"):
            _check_one_rounding(contract, found, exact, dtype)
        return
    exact, _ = _evaluate(contract, variant, inputs, arguments, "float64", "reference", upstream)
    for name, value in exact.items():
        label = f"{contract.name}: {name} in {dtype}"
        if not np.issubdtype(value.dtype, np.floating):
            np.testing.assert_array_equal(found[name], reference[name], label)
            continue
        unit = 2.0 ** -BITS[dtype]
        if dtype == "float64":
            op_results.check_close(label, found[name], value, 32 * unit)
            continue
        allowed = 2 * _greatest(reference[name] - value) + np.abs(value) * unit
        error = np.abs(found[name] - value)
        if not (error <= allowed).all():
            worst = np.argmax(error - allowed)
            raise AssertionError(
                f"{label}: an error of {error.flat[worst]:.3g} against float64, where twice that "
                f"of the reference and one rounding are {allowed.flat[worst]:.3g}."
            )
    if contract.accumulates_in_float32 and dtype in ("float16", "bfloat16"):
        exact, _ = _evaluate(contract, variant, inputs, arguments, "float32", "reference", upstream)
        _check_one_rounding(contract, found, exact, dtype)


def _evaluate(contract, variant, inputs, arguments, dtype, implementation, upstream=None):
    """Outputs, and gradients by the names "gradient of <input>", with T as `dtype`."""
    inputs = {
        name: rounded(value, contract.dtype_of(name, dtype)) for name, value in inputs.items()
    }
    with native.implementation(implementation):
        outputs = contract.call(inputs, arguments)
        promised = contract.promised(variant, contract.sizes_of(variant), dtype, arguments)
        op_results.check_promise(contract, outputs, promised)
        found = {name: op_results.to_numpy(value) for name, value in outputs.items()}
        if upstream is None:
            upstream = op_results.output_gradients(contract, variant, found, dtype)
        watched = contract.differentiable(variant)
        if watched:
            arriving = {n: rounded(v, promised[n][1]) for n, v in upstream.items()}
            gradients = op_results.gradients(contract, inputs, arguments, arriving, watched)
            found |= {f"gradient of {name}": gradients[name] for name in watched}
    return found, upstream


def _check_conversion(contract, variant, inputs, arguments, dtype):
    converted = {
        name: rounded(value, contract.dtype_of(name, contract.computes_in))
        for name, value in inputs.items()
    }
    promised = contract.promised(variant, contract.sizes_of(variant), dtype, arguments)
    with native.implementation("reference"):
        wanted = op_results.results(contract, converted, arguments)
    for implementation in op_results.IMPLEMENTATIONS:
        with native.implementation(implementation):
            outputs = contract.call(inputs, arguments)
            op_results.check_promise(contract, outputs, promised)
            found = {name: op_results.to_numpy(value) for name, value in outputs.items()}
        op_results.check_agreement(contract, found, wanted, converted, contract.computes_in)


def _check_one_rounding(contract, found, exact, dtype):
    """The greatest error of half types: one rounding, and that of the float32 sums."""
    for name, value in exact.items():
        if not np.issubdtype(value.dtype, np.floating):
            continue
        allowed = np.abs(value) * 2.0 ** -BITS[dtype] + 1e-6 * max(1.0, _greatest(value))
        if not (np.abs(found[name] - value) <= allowed).all():
            raise AssertionError(
                f"{contract.name}: {name} in {dtype} is not accumulated in float32: it differs "
                f"from the result in float32 by {_greatest(found[name] - value):.3g}, more than "
                "one rounding."
            )


def _greatest(values):
    return np.max(np.abs(values), initial=0.0)


def _array(value):
    return value if isinstance(value, np.ndarray) else np.asarray(value, "float32")


def _by_name(contract, values):
    if values is None:
        return {}
    if isinstance(values, dict) and set(values) <= set(contract.outputs):
        return values
    (name,) = contract.outputs
    return {name: values}


def _close(label, found, wanted, case):
    wanted = np.asarray(wanted)
    if np.issubdtype(found.dtype, np.floating):
        np.testing.assert_allclose(found, wanted, case.rtol, case.atol, err_msg=label)
    else:
        np.testing.assert_array_equal(found, wanted, label)
