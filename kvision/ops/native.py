"""The native kernels: loading them, calling them, and choosing them.

`call(name, ...)` runs an op of the native library through the door of the Keras backend in use
(`kvision.ops.doors`): a TensorFlow op, a foreign function of JAX, an operator of PyTorch, or a
function on NumPy arrays. What can be loaded is loaded when an op first wants it, never by
`import kvision`. Without it every op runs through its reference implementation, after one warning.

Two variables of the environment: `KVISION_IMPLEMENTATION` is `native`, `reference` or `auto`, as
`implementation` takes them; with `KVISION_REQUIRE_OPS=1` the warning is an error.
"""

import contextlib
import contextvars
import os
import threading
import warnings
from collections.abc import Iterator
from types import ModuleType

import keras

from kvision.ops.gradients import gradient, gradient_of
from kvision.ops.library import build_info, description, library_path, module, require_module

__all__ = [
    "build_info",
    "call",
    "description",
    "gradient",
    "gradient_of",
    "implementation",
    "implementation_of",
    "library_path",
    "load_ops",
    "module",
    "require_module",
    "tf_ops",
    "traced_for_xla",
    "use_native",
]

_IMPLEMENTATIONS = ("auto", "native", "reference")

_scope: contextvars.ContextVar[str | None] = contextvars.ContextVar("kvision_scope", default=None)
_open_scopes: dict[object, str] = {}
_lock = threading.RLock()
_warned = False


# Loading ----------------------------------------------------------------------------------------


def tf_ops() -> ModuleType:
    """The TensorFlow ops (`tf_ops().kvision_roi_align`, ...); loads the library at the first call.

    Raises:
        RuntimeError: If the library is missing, was built for another TensorFlow, or cannot be
            loaded.
    """
    from kvision.ops.doors import tensorflow

    return tensorflow.load()


def load_ops() -> None:
    """Loads the native ops of the Keras backend in use, and registers their gradients.

    Needed only before loading, by hand, a SavedModel that holds native ops; everything in kvision
    loads them by itself.

    Raises:
        RuntimeError: If the library is missing, was built for another TensorFlow, or cannot be
            loaded. The message holds the remedy.
    """
    _door().load()


# Calls ------------------------------------------------------------------------------------------


def call(name: str, *tensors, **attributes):
    """Runs an op of the native library on tensors of the Keras backend in use.

    Args:
        name: The op's, such as `"roi_align"`.
        *tensors: Its inputs in their order, of the dtypes that it takes; a list of tensors where
            it takes a list.
        **attributes: Its attributes; sizes may be dynamic in a TensorFlow graph.

    Returns:
        Its output, or a list or tuple of them.
    """
    return _door().call(name, tensors, attributes)


def _door() -> ModuleType:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from kvision.ops.doors import tensorflow as door
    elif backend == "jax":
        from kvision.ops.doors import jax as door
    elif backend == "torch":
        from kvision.ops.doors import torch as door
    elif backend == "numpy":
        from kvision.ops.doors import numpy as door
    else:
        raise RuntimeError(f"kvision: native ops do not run on Keras' backend {backend!r}.")
    return door


# Choosing ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def implementation(name: str) -> Iterator[None]:
    """Context manager: which implementation the ops called in it, or traced in it, use.

    It holds for this thread, and for those that opened no such scope themselves, among them the
    threads in which TensorFlow's distribution strategies trace their replicas. Outside any such
    scope `KVISION_IMPLEMENTATION` decides.

    Args:
        name: `"native"` (an error where native kernels cannot be had), `"reference"`, or `"auto"`
            (native where possible).
    """
    _check_implementation("implementation: `name`", name)
    key, token = object(), _scope.set(name)
    with _lock:
        _open_scopes[key] = name
    try:
        yield
    finally:
        with _lock:
            del _open_scopes[key]
        _scope.reset(token)


def _check_implementation(what: str, name: str) -> None:
    if name not in _IMPLEMENTATIONS:
        raise ValueError(f"{what} must be one of {_IMPLEMENTATIONS}. Received: {name!r}.")


def _current_scope() -> str:
    with _lock:
        scope = _scope.get() or next(reversed(_open_scopes.values()), None)
    if scope is None:
        scope = os.environ.get("KVISION_IMPLEMENTATION", "auto")
        _check_implementation("kvision: KVISION_IMPLEMENTATION", scope)
    return scope


def use_native() -> bool:
    """Whether ops should run their native kernels here and now.

    Raises:
        RuntimeError: If native kernels are demanded, by `implementation("native")`, by
            `KVISION_IMPLEMENTATION=native` or by `KVISION_REQUIRE_OPS=1`, and cannot be had.
    """
    scope = _current_scope()
    if scope == "reference":
        return False
    try:
        _door().load()
    except RuntimeError as error:
        if scope == "native" or os.environ.get("KVISION_REQUIRE_OPS") == "1":
            raise
        _warn_once(error)
        return False
    return True


if keras.backend.backend() == "torch":
    import torch

    # `torch.compile` cannot look into it, and has no need to: it asks once, when it traces.
    use_native = torch.compiler.assume_constant_result(use_native)


def implementation_of(name: str) -> str:
    """Which implementation a function of `kvision.ops` would run here and now.

    Args:
        name: Name of the function, such as `"roi_align"`.

    Returns:
        `"native"` or `"reference"`.

    Raises:
        ValueError: If there is no such function, or it has no native kernel.
        RuntimeError: If native kernels are demanded and cannot be had.
    """
    from kvision import ops

    if name not in ops.NATIVE:
        raise ValueError(
            f"implementation_of: `name` must be one of {ops.NATIVE}. Received: {name!r}."
        )
    return "native" if use_native() else "reference"


def traced_for_xla() -> bool:
    """Whether TensorFlow is tracing a `tf.function(jit_compile=True)`, or what that calls."""
    import tensorflow as tf

    if tf.executing_eagerly():
        return False
    # No public function says so.
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph())


def _warn_once(error: RuntimeError) -> None:
    global _warned
    with _lock:
        if not _warned:
            _warned = True
            message = f"{error} Until then the slower reference implementations run."
            warnings.warn(message, RuntimeWarning, stacklevel=4)
