"""An op for the tests of the harness: a scaled sum of two inputs over their last axis.

Its "native kernel" is TensorFlow too, so that it can be spoilt in one place at a time.
"""

import keras
import numpy as np
from keras import ops

from kvision.ops import native
from kvision.testing import Case, Input, Invalid, OpContract, Output, RawOp, draws


def refuse(values, weights, scale):
    if len(values.shape) != 2 or len(weights.shape) != 1:
        raise ValueError(
            f"sum: `values` must have shape (rows, columns). Received: {values.shape}."
        )
    if None not in (values.shape[1], weights.shape[0]) and values.shape[1] != weights.shape[0]:
        raise ValueError("sum: `values` and `weights` must have the same columns.")
    if not scale > 0:
        raise ValueError(f"sum: `scale` must be positive. Received: {scale}.")


def result(values, weights, scale):
    sums = ops.sum(ops.cast(values, "float64") * ops.cast(weights, "float64") * scale, axis=1)
    return {"sums": ops.cast(sums, values.dtype), "count": ops.cast(ops.shape(values)[0], "int32")}


@keras.saving.register_keras_serializable("tests")
class Sum(keras.Operation):
    def __init__(self, scale, spoil=lambda values, weights, outputs: outputs, check=refuse):
        super().__init__()
        self.scale, self.spoil, self.check = scale, spoil, check

    def get_config(self):
        return {"scale": self.scale}

    def call(self, values, weights):
        values, weights = ops.convert_to_tensor(values), ops.convert_to_tensor(weights)
        self.check(values, weights, self.scale)
        if not native.use_native():
            return result(values, ops.stop_gradient(weights), self.scale)
        import tensorflow as tf

        with tf.control_dependencies([asserted(tf.shape(values)[1] == tf.shape(weights)[0])]):
            outputs = result(tf.identity(values), ops.stop_gradient(weights), self.scale)
        return self.spoil(values, weights, outputs)

    def compute_output_spec(self, values, weights):
        self.check(values, weights, self.scale)
        return {
            "sums": keras.KerasTensor((values.shape[0],), values.dtype),
            "count": keras.KerasTensor((), "int32"),
        }


def make(spoil=lambda values, weights, outputs: outputs, check=refuse, **changes):
    """The table of the op, its native side spoilt."""

    def weighted_sum(values, weights, *, scale):
        operation = Sum(scale, spoil, check)
        if keras.utils.is_keras_tensor(values):
            return operation.symbolic_call(values, weights)
        return operation.call(values, weights)

    table = {
        "name": "sum",
        "function": weighted_sum,
        "inputs": {
            "values": Input("rows columns", differentiable=True, comparable=1e6),
            "weights": Input("columns", draws.uniform(), comparable=1e6),
        },
        "outputs": {"sums": Output("rows"), "count": Output("", "int32")},
        "arguments": {"scale": 2.0},
        "sizes": {"columns": 4},
        "cases": {
            "by hand": Case(
                {"values": [[1, 2], [3, 4]], "weights": [1, 10]},
                {"sums": [42, 86], "count": 2},
                output_gradient={"sums": np.array([1.0, 2.0])},
                gradients={"values": [[2, 20], [4, 40]]},
            )
        },
        "invalid": (
            Invalid({"scale": 0.0}, "`scale` must be positive"),
            Invalid({"values": np.zeros(4, "float32")}, "`values` must have shape"),
            Invalid({"weights": np.zeros(3, "float32")}, "the same columns"),
        ),
        "fuzzed_arguments": {"scale": (1.0, 0.5, 0.0, np.nan)},
        **changes,
    }
    return OpContract(**table)


def raw_sum(values, weights, *, scale):
    """Stands for a raw op: its checks see what is static, and its asserts the rest."""
    import tensorflow as tf

    if values.shape.rank is not None and weights.shape.rank is not None:
        refuse(values, weights, scale)
    elif not scale > 0:
        raise ValueError("sum: `scale` must be positive.")
    right = tf.logical_and(tf.equal(tf.rank(values), 2), tf.equal(tf.rank(weights), 1))
    same = tf.equal(tf.shape(values)[-1:], tf.shape(weights)[-1:])
    with tf.control_dependencies([asserted(right), asserted(same)]):
        sums = tf.reduce_sum(tf.identity(values) * tf.identity(weights) * scale, axis=-1)
    sums.set_shape([None] if values.shape.rank is None else values.shape[:1])
    return sums


def asserted(condition):
    import tensorflow as tf

    return tf.debugging.Assert(tf.reduce_all(condition), ["sum: wrong shapes"])


def make_raw(op=raw_sum, **changes):
    table = {
        "name": "sum",
        "op": op,
        "inputs": {
            "values": Input("rows columns", dtype="float32"),
            "weights": Input("columns", dtype="float32"),
        },
        "outputs": {"sums": Output("rows", "float32")},
        "arguments": {"scale": 2.0},
        "dtypes": ("float32",),
        "invalid": (
            Invalid({"scale": 0.0}, "`scale` must be positive"),
            Invalid({"weights": np.zeros(4, "float32")}),
        ),
        **changes,
    }
    return RawOp(**table)


def spoilt(name, change):
    """Changes one output."""
    return lambda values, weights, outputs: {**outputs, name: change(outputs[name])}


def no_gradient(values, weights, outputs):
    return {**outputs, "sums": ops.stop_gradient(outputs["sums"]) + 0 * ops.sum(values)}


def gradient_to_weights(values, weights, outputs):
    return {**outputs, "sums": outputs["sums"] + 0 * ops.sum(weights)}


def summed_in_half(values, weights, outputs):
    sums = ops.zeros_like(outputs["sums"])
    for column in range(values.shape[1]):
        sums = sums + values[:, column] * ops.cast(weights[column] * 2, values.dtype)
    return {**outputs, "sums": sums}


def of_unknown_size(values, weights, outputs):
    import tensorflow as tf

    sums = outputs["sums"]
    return {**outputs, "sums": tf.boolean_mask(sums, tf.ones_like(sums, "bool"))}


def fails_on_empty(values, weights, outputs):
    if 0 in values.shape:
        raise IndexError("index 0 is out of range")
    return outputs


def fails_on_nan(values, weights, outputs):
    if np.isnan(ops.convert_to_numpy(ops.cast(values, "float32"))).any():
        raise ZeroDivisionError("a NaN")
    return outputs


def baked_size(values, weights, outputs):
    """What a graph traced for the first size would give for all."""
    rows = values.shape[0] or 3
    return {**outputs, "count": ops.convert_to_tensor(rows, "int32")}


RIGHT = spoilt("sums", lambda sums: sums)
WRONG_VALUE = spoilt("sums", lambda sums: sums * 1.001)
WRONG_DTYPE = spoilt("sums", lambda sums: ops.cast(sums, "float32"))
WRONG_GRADIENT = spoilt("sums", lambda sums: 2 * sums - ops.stop_gradient(sums))
