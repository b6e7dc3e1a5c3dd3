"""The native kernels: loading them, choosing them, and saying why they cannot be had.

`call(name, ...)` runs an op of the native library through the door of the Keras backend in use
(`kvision.ops.doors`): a TensorFlow op, a foreign function of JAX, an operator of PyTorch, or a
function on NumPy arrays. What can be loaded is loaded when an op first wants it, never by
`import kvision`. Without it every op runs through its reference implementation, after one warning.

Two variables of the environment: `KVISION_IMPLEMENTATION` is `native`, `reference` or `auto`, as
`implementation` takes them; with `KVISION_REQUIRE_OPS=1` the warning is an error.
"""

import contextlib
import contextvars
import dataclasses
import functools
import os
import platform
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import keras

_FOLDER = Path(__file__).parents[1]
_IMPLEMENTATIONS = ("auto", "native", "reference")

_scope: contextvars.ContextVar[str | None] = contextvars.ContextVar("kvision_scope", default=None)
_open_scopes: dict[object, str] = {}
_lock = threading.RLock()
_gradients: dict[str, "Gradient"] = {}
_warned = False


# The library ------------------------------------------------------------------------------------


def build_info() -> dict[str, str]:
    """What the native library was built with.

    Returns:
        A dictionary of strings: `kvision`, `tensorflow`, `xla_ffi` (the version of the interface
        to XLA), `compiler`, `cuda` and `cuda_architectures`, each empty where that part was left
        out of the build. An empty dictionary where no native library was built.
    """
    try:
        return module().build_info()
    except ImportError:
        return {}


def module() -> ModuleType:
    """The extension module `kvision._C`, which needs no framework.

    Raises:
        ImportError: If it was not built, or not for this Python.
    """
    # A statement: AutoGraph, in a function that is being traced, cannot convert `import_module`.
    from kvision import _C

    return _C


def require_module() -> ModuleType:
    """As `module`, but what is raised is a `RuntimeError` that holds the remedy."""
    try:
        return module()
    except ImportError as error:
        raise RuntimeError(why_not_built(str(error))) from error


def why_not_built(problem: str) -> str:
    """What to tell somebody whose library is missing or unusable.

    Args:
        problem: What is wrong with the library that was found.
    """
    built = sorted(_FOLDER.glob("_C.*.so"))
    if not built:
        return (
            "kvision: this installation has no native library; install with a C++ compiler and "
            "without `KVISION_BUILD_OPS=0` to have one."
        )
    return (
        f"kvision: Python {platform.python_version()} cannot use {built[0]}: {problem}; "
        "reinstall kvision."
    )


def library_path() -> Path:
    """Where the TensorFlow ops stand, or would stand: for `TF_LoadLibrary` and the like."""
    return _FOLDER / "_tf_ops.so"


@functools.cache
def description(name: str) -> dict:
    """An op of the native library: its `inputs`, `outputs`, `attributes`, `dtypes` and `doc`.

    Args:
        name: Such as `"roi_align"`.
    """
    return next(op for op in require_module().ops() if op["name"] == name)


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


# Gradients --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A call whose gradient is wanted.

    Attributes:
        tensors: The inputs and outputs that the gradient keeps, by name.
        shapes: Shape of every input by name, a list of them for a list of tensors. In a TensorFlow
            graph a size may be a tensor.
        attributes: The call's attributes by name.
    """

    tensors: Mapping[str, object]
    shapes: Mapping[str, object]
    attributes: Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Gradient:
    """The gradient of an op, for every backend.

    Attributes:
        function: Of a `Recorded` call and the gradient of each floating output; returns the
            gradients of inputs by name.
        keeps: Names of the inputs and outputs that it looks at.
    """

    function: Callable
    keeps: tuple[str, ...]


def gradient(name: str, keeps: tuple[str, ...]) -> Callable[[Callable], Callable]:
    """Decorator: the function is the gradient of a native op.

    Args:
        name: The op's, such as `"roi_align"`.
        keeps: Names of the inputs and outputs that the function looks at.
    """

    def decorate(function: Callable) -> Callable:
        _gradients[name] = Gradient(function, keeps)
        return function

    return decorate


def gradient_of(name: str) -> Gradient | None:
    """The gradient of a native op, or `None` where it has none and differentiation stops.

    Args:
        name: The op's, such as `"roi_align"`.
    """
    return _gradients.get(name)


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
