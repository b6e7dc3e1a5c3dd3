"""Refusals: every invalid call, at the Python level and at that of the raw op."""

import re

import keras
import numpy as np

from kvision.testing.op_signature import Variant
from kvision.testing.vjp import to_tensor

WHERE = ("eager", "graph", "graph without shapes", "XLA")


def check_refusal(contract, invalid):
    """Raises `AssertionError` unless an invalid call is refused by the right error.

    Wrong inputs are refused as KerasTensors too.

    Args:
        contract: `OpContract`.
        invalid: `Invalid`.
    """
    inputs, arguments, reshaped = changed(contract, invalid)
    pattern = f"^{contract.name}: .*{invalid.message}"
    expect(
        lambda: contract.function(**inputs, **arguments),
        invalid.error,
        pattern,
    )
    if invalid.symbolic if invalid.symbolic is not None else reshaped:
        symbols = {
            name: keras.KerasTensor(value.shape, dtype=value.dtype.name)
            for name, value in inputs.items()
        }
        expect(lambda: contract.function(**symbols, **arguments), invalid.error, pattern)


def check_raw_refusal(raw, invalid, where):
    """Raises `AssertionError` unless a raw op refuses an invalid call.

    Args:
        raw: `RawOp`.
        invalid: `Invalid`.
        where: `"eager"`; `"graph"`, where wrong shapes are refused while it is being traced;
            `"graph without shapes"`, where only the kernel sees them; `"XLA"`, where only that
            sees them which compiles a call of the kernel.
    """
    import tensorflow as tf

    inputs, attributes, reshaped = changed(raw, invalid)
    pattern = invalid.message if invalid.by_tensorflow else f"{raw.name}: .*{invalid.message}"
    refused = (tf.errors.InvalidArgumentError, ValueError)

    def call(hide):
        return raw.call({name: hide(value) for name, value in inputs.items()}, attributes)

    if where == "eager":
        expect(lambda: call(to_tensor), refused, pattern)
    elif where != "graph":
        compiler = {"jit_compile": True} if where == "XLA" else {}
        hidden = tf.function(lambda: call(of_unknown_shape), autograph=False, **compiler)
        expect(hidden, refused, pattern)
    else:
        traced = tf.function(lambda: call(to_tensor), autograph=False)
        if invalid.static if invalid.static is not None else reshaped:
            expect(traced.get_concrete_function, refused, pattern)
        else:
            expect(traced, refused, pattern)


def of_unknown_shape(array):
    """A tensor in a graph of which only the kernel sees the shape.

    Args:
        array: NumPy array.
    """
    import tensorflow as tf

    return tf.raw_ops.PlaceholderWithDefault(input=to_tensor(array), shape=tf.TensorShape(None))


def changed(signature, invalid):
    """Inputs and arguments of an invalid call, and whether an input's shape is wrong.

    Args:
        signature: `OpContract` or `RawOp`.
        invalid: `Invalid`.
    """
    variant = Variant()
    valid = signature.draw(variant, signature.sizes_of(variant), signature.default_dtype)
    inputs, arguments, reshaped = dict(valid), signature.arguments_of(variant), False
    for name, value in invalid.changes.items():
        if signature.is_input(name):
            inputs[name] = np.asarray(value)
            reshaped |= name not in valid or inputs[name].shape != valid[name].shape
        else:
            arguments[name] = value
    return inputs, arguments, reshaped


def expect(call, error, pattern):
    """Raises `AssertionError` unless a call is refused.

    Args:
        call: Function without arguments.
        error: Class of the error, or a tuple of them.
        pattern: Regular expression of its message.
    """
    try:
        call()
    except error as raised:
        message = getattr(raised, "message", None) or str(raised)
        if not re.search(pattern, message, re.DOTALL):
            raise AssertionError(f"Refused, but not by {pattern!r}: {message}") from raised
    else:
        raise AssertionError(f"Not refused; expected an error of {pattern!r}.")
