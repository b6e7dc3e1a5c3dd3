"""Generated calls: whatever comes, a result as promised or a refusal in the op's name.

`KVISION_FUZZ` in the environment is the number of random calls of each property; without it a
small fixed set of them is made, the same every time.
"""

import contextlib
import faulthandler
import os
import re
import sys

from kvision.ops import native
from kvision.testing import op_results, op_xla
from kvision.testing.fuzz_case import build, cases
from kvision.testing.op_refusals import of_unknown_shape
from kvision.testing.op_saved_model import serving_process
from kvision.testing.op_signature import ANY
from kvision.testing.vjp import to_tensor

_EXAMPLES = 40
_SECONDS = 120


def check_function(contract, case):
    """Raises `AssertionError` unless a generated call ends as promised, natively and not.

    Args:
        contract: `OpContract`.
        case: `FuzzCase`.
    """
    inputs, arguments, promised = build(contract, case)
    found = {}
    for implementation in op_results.IMPLEMENTATIONS:
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


def check_under_xla(contract, case):
    """Raises `AssertionError` unless XLA gives what an eager call gives, and refuses what it does.

    A result of a size that depends on data is refused too.

    Args:
        contract: `OpContract`.
        case: `FuzzCase`.
    """
    import tensorflow as tf

    inputs, arguments, promised = build(contract, case)
    tensors = {name: to_tensor(value) for name, value in inputs.items()}

    def call(tensors):
        return contract.call(tensors, arguments)

    compiled = tf.function(call, jit_compile=True, autograph=False)
    found = _outcome(contract, lambda: compiled(tensors))
    wanted = _outcome(contract, lambda: call(tensors))
    if any(ANY in shape for shape, _ in promised.values()):
        wanted = None
    if found is None or wanted is None:
        if found is not wanted:
            does = "refuses" if found is None else "takes"
            raise AssertionError(f"{contract.name}: XLA {does} what an eager call does not.")
        return
    relative = op_xla.tolerance(contract, case.dtype)
    for name, value in wanted.items():
        op_xla.check_close(f"{contract.name}: `{name}`", found[name], value, relative)


def check_raw_op(raw, case, **options):
    """Raises `AssertionError` unless a generated call of a raw op ends as promised, in a graph.

    Only the kernel sees the shapes.

    Args:
        raw: `RawOp`.
        case: `FuzzCase`.
        **options: Of `tf.function`, such as `jit_compile`.
    """
    import tensorflow as tf

    inputs, attributes, promised = build(raw, case)

    def call():
        hidden = {name: of_unknown_shape(value) for name, value in inputs.items()}
        return raw.call(hidden, attributes)

    graph = tf.function(call, autograph=False, **options)
    outputs = _outcome(raw, lambda: graph.get_concrete_function()())
    if outputs is not None:
        _check_outcome(raw, case, outputs, promised)


def check_served(contract, path, case):
    """Raises `AssertionError` unless a generated call of a SavedModel ends as promised.

    Args:
        contract: `OpContract`.
        path: Folder that `save` has written.
        case: `FuzzCase`.
    """
    inputs, _, promised = build(contract, case)
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
        level: `"function"`, `"raw op"`, `"SavedModel"` or `"XLA"`.
    """
    import hypothesis

    wanted = os.environ.get("KVISION_FUZZ")

    @hypothesis.settings(
        # Every shape is a compilation on JAX.
        max_examples=max(int(wanted or _EXAMPLES) // (1 if op_results.on_tensorflow() else 5), 1),
        derandomize=wanted is None,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(cases(contract, level))
    def run(case):
        with _no_hang():
            check(case)

    run()


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
