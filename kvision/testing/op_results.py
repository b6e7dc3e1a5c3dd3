"""Running an op one way or the other, and comparing what comes out."""

import contextlib
import os

import keras
import numpy as np

from kvision.ops import native
from kvision.testing.op_signature import ANY, rounded
from kvision.testing.vjp import to_numpy, to_tensor, vjp

IMPLEMENTATIONS = ("reference", "native")
# Bits of the significand, the leading one among them.
BITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}


def on_tensorflow():
    """Whether the graphs, SavedModels and raw ops of TensorFlow can be had at all."""
    return keras.backend.backend() == "tensorflow"


@contextlib.contextmanager
def running(implementation):
    """Context manager: ops run this implementation; the test skips where it cannot be had.

    With `KVISION_REQUIRE_OPS=1` in the environment a missing native library is an error.

    Args:
        implementation: `"reference"` or `"native"`.
    """
    import pytest

    with native.implementation(implementation):
        if implementation == "native":
            try:
                native.use_native()
            except RuntimeError as error:
                if os.environ.get("KVISION_REQUIRE_OPS") == "1":
                    raise
                pytest.skip(str(error))
        yield implementation


def results(contract, inputs, arguments):
    """The outputs of a call by name, as arrays."""
    outputs = contract.call(inputs, arguments)
    return {name: to_numpy(value) for name, value in outputs.items()}


def output_gradients(contract, variant, outputs, dtype, seed=1):
    """A random array for every floating output, of its dtype."""
    rng = np.random.default_rng(seed)
    return {
        name: rounded(rng.normal(size=outputs[name].shape), declared)
        for name, (_, declared) in contract.promised(
            variant, contract.sizes_of(variant), dtype, contract.arguments_of(variant)
        ).items()
        if "float" in declared
    }


def gradients(contract, inputs, arguments, upstream, watched):
    """The gradients to the inputs that `watched` names, as arrays."""

    def function(leaves):
        outputs = contract.call({**inputs, **leaves}, arguments)
        return {name: outputs[name] for name in upstream}

    found = vjp(function, {name: inputs[name] for name in watched}, upstream)[1]
    check_gradients_exist(contract, found)
    return found


def outputs_and_gradients(contract, arguments, watched, random=False):
    """A function for graphs, from tensors to outputs and gradients, by name.

    The gradients are those of the sum of the floating outputs or, with `random`, of a sum weighted
    by drawn numbers, the same in every call on tensors of the same shapes.
    """
    import tensorflow as tf

    def function(inputs):
        with tf.GradientTape() as tape:
            tape.watch([inputs[name] for name in watched])
            outputs = contract.call(inputs, arguments)
            floating = [value for value in outputs.values() if value.dtype.is_floating]
        if not watched:
            return outputs, {}
        leaves = {name: inputs[name] for name in watched}
        gradients = tape.gradient(floating, leaves, _weights(floating) if random else None)
        check_gradients_exist(contract, gradients)
        return outputs, {name: tf.convert_to_tensor(value) for name, value in gradients.items()}

    return function


def _weights(tensors):
    rng = np.random.default_rng(1)
    return [to_tensor(rounded(rng.normal(size=t.shape), t.dtype.name)) for t in tensors]


def check_gradients_exist(contract, gradients):
    """Raises `AssertionError` if an input that is declared differentiable has no gradient."""
    for name, gradient in gradients.items():
        if gradient is None:
            raise AssertionError(
                f"{contract.name}: `{name}` is declared differentiable, and has no gradient."
            )


def check_promise(contract, outputs, promised):
    """Raises `AssertionError` unless tensors have the shapes and dtypes promised."""
    for name, (shape, dtype) in promised.items():
        found = outputs[name]
        found_dtype = keras.backend.standardize_dtype(found.dtype)
        if found_dtype != dtype:
            raise AssertionError(
                f"{contract.name}: `{name}` should be {dtype}, and is {found_dtype}."
            )
        check_shape(contract, name, tuple(found.shape), shape)


def check_shape(contract, name, found, promised):
    """Raises `AssertionError` unless a shape is the promised one."""
    same = len(found) == len(promised) and all(
        wanted == ANY or size == wanted for size, wanted in zip(found, promised, strict=True)
    )
    if not same:
        raise AssertionError(
            f"{contract.name}: `{name}` should have shape {promised}, and has {found}."
        )


def check_agreement(contract, found, wanted, inputs, dtype):
    """Raises `AssertionError` unless native and reference results of one call agree.

    By default integers are equal, and floats within the rounding of the dtype that they are
    computed in, relative to the greatest magnitude of inputs and results. Nothing is compared
    where an input exceeds what its table calls comparable.
    """
    if contract.agree is not None:
        contract.agree(found, wanted, inputs)
        return
    scale = 1.0
    for name, value in inputs.items():
        limit = contract.inputs[name].comparable
        if limit == float("inf") or not value.size:
            continue
        with np.errstate(all="ignore"):
            largest = np.max(np.abs(np.asarray(value, "float64")))
        if not largest <= limit:
            return
        scale = max(scale, largest)
    for name, value in wanted.items():
        if not np.issubdtype(value.dtype, np.floating) or contract.computes_in:
            np.testing.assert_array_equal(found[name], value, f"{contract.name}: `{name}`")
            continue
        tolerance = scale * 32 * 2.0 ** -BITS["float64" if dtype == "float64" else "float32"]
        if dtype in ("float16", "bfloat16"):
            tolerance += scale * 2.0 ** -BITS[dtype]
        np.testing.assert_allclose(
            found[name],
            value,
            rtol=2.0 ** (1 - BITS[dtype]),
            atol=tolerance,
            err_msg=f"{contract.name}: `{name}`",
        )


def check_same(found, wanted):
    """Raises `AssertionError` unless results are those of the same computation elsewhere.

    Integers are equal; floats may differ by what a graph folds and reorders.
    """
    for name, value in wanted.items():
        check_close(name, found[name], value, 1e-5)


def check_close(label, found, wanted, tolerance):
    """Raises `AssertionError` unless floats differ by no more than a part of the greatest one.

    Integers are equal, and floats where the tolerance is 0.
    """
    if not np.issubdtype(wanted.dtype, np.floating) or tolerance == 0:
        np.testing.assert_array_equal(found, wanted, label)
        return
    finite = np.abs(wanted[np.isfinite(wanted)])
    scale = max(1.0, float(np.max(finite, initial=0.0)))
    np.testing.assert_allclose(found, wanted, 0, tolerance * scale, err_msg=label)
