"""Generated calls: whatever comes, a result as promised or a refusal in the op's name.

`KVISION_FUZZ` in the environment is the number of random calls of each property; without it a
small fixed set of them is made, the same every time.
"""

import contextlib
import dataclasses
import faulthandler
import os
import re
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from kvision.ops import native
from kvision.testing import op_results
from kvision.testing.op_refusals import of_unknown_shape
from kvision.testing.op_saved_model import serving_process
from kvision.testing.op_signature import rounded

_NAN, _INF = float("nan"), float("inf")
# The worst first: they come more often.
_SPECIALS = {
    "f": (_NAN, _INF, -_INF, 0.0, -0.0, 1e-45, 1e-30, 0.5, -1.0, 65504.0, 1e9, 3e38, -3e38),
    "i": (-1, 0, 1, 2**31 - 1, -(2**31)),
    "b": (False, True),
}
_EXAMPLES = 40
_SECONDS = 120


@dataclasses.dataclass(frozen=True)
class FuzzCase:
    """A generated call, which can stand in a table as a regression.

    Attributes:
        variant: Name of the variant.
        dtype: What T is.
        sizes: Size of every named axis.
        arguments: Arguments that differ from the table's.
        seed: Of the inputs' values.
        strewn: Values put into the inputs: (input, position, value).
        fault: What is wrong with a shape: (input, axis, change of its size), or with `None` for
            the axis the change of the rank.
    """

    variant: str = ""
    dtype: str = "float32"
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    arguments: Mapping[str, object] = dataclasses.field(default_factory=dict)
    seed: int = 0
    strewn: Sequence[tuple[str, int, object]] = ()
    fault: tuple[str, int | None, int] | None = None


def check_function(contract, case):
    """Raises `AssertionError` unless a generated call ends as promised, natively and not.

    Args:
        contract: `OpContract`.
        case: `FuzzCase`.
    """
    inputs, arguments, promised = _build(contract, case)
    found = {}
    for implementation in op_results.IMPLEMENTATIONS:
        if implementation == "native" and not op_results.on_tensorflow():
            continue
        with native.implementation(implementation):
            outputs = _outcome(contract, lambda: contract.call(inputs, arguments))
        if outputs is not None:
            _check_outcome(contract, case, outputs, promised)
            arrays = {name: op_results.to_numpy(value) for name, value in outputs.items()}
            found[implementation] = arrays
    if len(found) == 2 and case.fault is None:
        op_results.check_agreement(
            contract, found["native"], found["reference"], inputs, case.dtype
        )


def check_raw_op(raw, case):
    """Raises `AssertionError` unless a generated call of a raw op ends as promised, in a graph.

    Only the kernel sees the shapes.

    Args:
        raw: `RawOp`.
        case: `FuzzCase`.
    """
    import tensorflow as tf

    inputs, attributes, promised = _build(raw, case)

    def call():
        hidden = {name: of_unknown_shape(value) for name, value in inputs.items()}
        return raw.call(hidden, attributes)

    outputs = _outcome(raw, lambda: tf.function(call, autograph=False).get_concrete_function()())
    if outputs is not None:
        _check_outcome(raw, case, outputs, promised)


def check_served(contract, path, case):
    """Raises `AssertionError` unless a generated call of a SavedModel ends as promised.

    Args:
        contract: `OpContract`.
        path: Folder that `save` has written.
        case: `FuzzCase`.
    """
    inputs, _, promised = _build(contract, case)
    process = serving_process(tuple(contract.libraries))
    reply = process.call(path, f"call_{case.variant}", inputs)
    if isinstance(reply, tuple):
        _check_message(contract.kernel_name or contract.name, *reply)
        return
    _check_outcome(contract, case, reply, promised)


def explore(contract, check, level):
    """Calls `check(case)` for generated cases; the simplest that fails is told.

    Args:
        contract: `OpContract` or `RawOp`.
        check: Function of a `FuzzCase`.
        level: `"function"`, `"raw op"` or `"SavedModel"`.
    """
    import hypothesis

    wanted = os.environ.get("KVISION_FUZZ")

    @hypothesis.settings(
        # Every shape is a compilation on JAX, and there is no native kernel to compare with.
        max_examples=max(int(wanted or _EXAMPLES) // (1 if op_results.on_tensorflow() else 5), 1),
        derandomize=wanted is None,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(_cases(contract, level))
    def run(case):
        with _no_hang():
            check(case)

    run()


def _cases(contract, level):
    from hypothesis import strategies as st

    some = st.sampled_from

    def choice(values):
        return values(st) if callable(values) else some(list(values))

    @st.composite
    def case(draw):
        name = draw(st.sampled_from(sorted(contract.variants)))
        variant = contract.variants[name]
        greatest = getattr(contract, "fuzzed_sizes", {})
        # An empty axis now and then: with several, calls would have no values else.
        sizes = {
            axis: 0
            if draw(st.integers(0, 7)) == 7 and axis not in variant.nonempty
            else draw(st.integers(1, greatest.get(axis, 4)))
            for axis in contract.named_axes(variant)
        }
        served = level == "SavedModel"
        axes = contract.axes_of(variant)
        # Ranks and fixed sizes are part of a SavedModel's signature, which TensorFlow checks.
        faults = [
            (key, position, change)
            for key, words in axes.items()
            for position, word in (*enumerate(words), (None, ""))
            for change in (-1, 1)
            if not served or word in sizes
        ]
        # Of the other backends float64 is an option, or float32 in disguise.
        known = [d for d in contract.dtypes if d != "float64" or op_results.on_tensorflow()]
        dtype = contract.default_dtype if served else draw(st.sampled_from(known))
        strewn = [
            (key, draw(st.integers(0, 15)), draw(some(specials[:3]) | some(specials)))
            for key in draw(st.lists(st.sampled_from(sorted(axes)), max_size=4))
            if (specials := _specials(contract, key, dtype))
        ]
        arguments = {
            key: draw(choice(values))
            for key, values in ({} if served else contract.fuzzed_arguments).items()
            if draw(st.booleans())
        }
        return FuzzCase(
            variant=name,
            dtype=dtype,
            sizes=sizes,
            arguments=arguments,
            seed=draw(st.integers(0, 99)),
            strewn=tuple(strewn),
            fault=draw(st.none() | st.none() | st.sampled_from(faults)),
        )

    return case()


def _specials(contract, name, dtype):
    if contract.inputs[name].specials is not None:
        return contract.inputs[name].specials
    kind = rounded(0, contract.dtype_of(name, dtype)).dtype
    return _SPECIALS.get("f" if "float" in kind.name else kind.kind, ())


def _build(contract, case):
    """Inputs, arguments and what is promised for them."""
    variant = contract.variants[case.variant]
    sizes = contract.sizes_of(variant, case.sizes)
    inputs = contract.draw(variant, sizes, case.dtype, case.seed)
    for name, position, value in case.strewn:
        array = inputs[name] = inputs[name].copy()
        if array.size:
            array.flat[position % array.size] = rounded(value, array.dtype.name)
    if case.fault is not None:
        name, axis, change = case.fault
        shape = list(inputs[name].shape)
        if axis is not None:
            shape[axis] = max(shape[axis] + change, 0)
        else:
            shape = [*shape, 1] if change > 0 else shape[1:]
        count = int(np.prod(shape))
        values = np.resize(inputs[name], count) if inputs[name].size else np.zeros(count)
        inputs[name] = rounded(values, inputs[name].dtype.name).reshape(shape)
    arguments = contract.arguments_of(variant, case.arguments)
    try:
        promised = contract.promised(variant, sizes, case.dtype, arguments)
    except (TypeError, ValueError):  # of a wrong argument, which is to be refused
        promised = {}
    return inputs, arguments, promised


def _outcome(contract, call):
    """The outputs by name, or None after a refusal in the op's name."""
    try:
        return call()
    except Exception as error:
        message = getattr(error, "message", None) or str(error)
        try:
            _check_message(contract.name, type(error).__name__, message)
        except AssertionError as wrong:
            raise wrong from error
    return None


def _check_message(name, error, message):
    text = re.sub(r"\{\{.*?\}\}", "", message)
    # An op composed of TensorFlow's refuses by an assertion.
    own = re.search(rf"(^|\n)\s*(assertion failed: \[)?{name}: ", text)
    # An attribute below its declared minimum TensorFlow refuses before the op can.
    declared = re.search(r"^\s*(Value for attr|Attr) '\w+'", text)
    if error not in ("InvalidArgumentError", "ValueError", "TypeError") or not (own or declared):
        raise AssertionError(f"{name}: refused by {error}: {message}")


def _check_outcome(contract, case, outputs, promised):
    if not promised:
        raise AssertionError(f"{contract.name}: a wrong argument was taken: {case.arguments}.")
    if case.fault is None:
        op_results.check_promise(contract, outputs, promised)


@contextlib.contextmanager
def _no_hang():
    """Ends the process, with a traceback, when a call does not end: nothing can interrupt it."""
    faulthandler.dump_traceback_later(_SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
