"""The native library: loading it, choosing it, and saying why it cannot be had.

The library is loaded when an op first wants it, never by `import kvision`. It holds TensorFlow
ops, so it is wanted on the TensorFlow backend only, and only the TensorFlow it was built for can
load it. Without it every op runs through its reference implementation, after one warning; with
`KVISION_REQUIRE_OPS=1` in the environment that warning is an error. What XLA compiles runs through
the reference too: there are no native kernels for it yet.
"""

import contextlib
import contextvars
import os
import platform
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import keras

_LIBRARY = Path(__file__).parents[1] / "_tf_ops.so"
_IMPLEMENTATIONS = ("auto", "native", "reference")

_scope: contextvars.ContextVar[str | None] = contextvars.ContextVar("kvision_scope", default=None)
_open_scopes: dict[object, str] = {}
_lock = threading.RLock()
_gradients: dict[str, Callable | None] = {}
_loaded: ModuleType | None = None
_warned = False


def build_info() -> dict[str, str]:
    """What the native library was built with.

    Returns:
        A dictionary of strings: `kvision`, `tensorflow`, `compiler`, `cuda` and
        `cuda_architectures`, each empty where that part was left out of the build. An empty
        dictionary where no native library was built.
    """
    try:
        return _module().build_info()
    except ImportError:
        return {}


def _module() -> ModuleType:
    # A statement: AutoGraph, in a function that is being traced, cannot convert `import_module`.
    from kvision import _C

    return _C


def _why_not_built() -> str:
    """Why `build_info()` is empty or there is no library beside it, with the remedy."""
    built = sorted(_LIBRARY.parent.glob("_C.*"))
    if not built:
        return (
            "kvision: this installation has no native library; install with a C++ compiler and "
            "without `KVISION_BUILD_OPS=0` to have one."
        )
    try:
        _module()
        problem = f"{_LIBRARY.name} is not beside it"
    except ImportError as error:
        problem = str(error)
    return (
        f"kvision: Python {platform.python_version()} cannot use {built[0]}: {problem}; "
        "reinstall kvision."
    )


def _load() -> ModuleType:
    """Loads the library and registers the gradients, or raises an error with the remedy."""
    info = build_info()
    if not info or not _LIBRARY.exists():
        raise RuntimeError(_why_not_built())
    try:
        import tensorflow as tf
    except ImportError as error:
        raise RuntimeError(
            "kvision: the native library needs TensorFlow, which is not installed."
        ) from error
    if info["tensorflow"] != tf.__version__:
        raise RuntimeError(
            f"kvision: the native library was built for TensorFlow {info['tensorflow']}, but "
            f"TensorFlow {tf.__version__} is installed; reinstall kvision beside it, or install "
            f"TensorFlow {info['tensorflow']}."
        )
    try:
        library = tf.load_op_library(str(_LIBRARY))
    except tf.errors.OpError as error:
        raise RuntimeError(
            f"kvision: TensorFlow could not load {_LIBRARY}: {error.message}"
        ) from error
    for op_type, gradient in _gradients.items():
        _register(op_type, gradient)
    return library


def _register(op_type: str, gradient: Callable | None) -> None:
    import tensorflow as tf

    if gradient is None:
        tf.no_gradient(op_type)
    else:
        tf.RegisterGradient(op_type)(gradient)


def tf_ops() -> ModuleType:
    """The TensorFlow ops (`tf_ops().kvision_roi_align`, ...); loads the library at the first call.

    Raises:
        RuntimeError: If the library is missing, was built for another TensorFlow, or cannot be
            loaded.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = _load()
        return _loaded


def load_ops() -> None:
    """Loads the native library and registers its gradients.

    Needed only before loading, by hand, a SavedModel that holds native ops; everything in kvision
    loads the library by itself.

    Raises:
        RuntimeError: If the library is missing, was built for another TensorFlow, or cannot be
            loaded. The message holds the remedy.
    """
    tf_ops()


def register_gradient(op_type: str) -> Callable[[Callable], Callable]:
    """Decorator: the function is the gradient of a native op, registered with the library.

    Args:
        op_type: The op's registered name, such as `"Kvision>RoiAlign"`.
    """

    def decorate(gradient: Callable) -> Callable:
        _add_gradient(op_type, gradient)
        return gradient

    return decorate


def not_differentiable(*op_types: str) -> None:
    """States that native ops have no gradient: TensorFlow stops at them.

    Args:
        *op_types: The registered names of the ops.
    """
    for op_type in op_types:
        _add_gradient(op_type, None)


def _add_gradient(op_type: str, gradient: Callable | None) -> None:
    with _lock:
        _gradients[op_type] = gradient
        if _loaded is not None:
            _register(op_type, gradient)


def library_path() -> Path:
    """Where the native library stands, or would stand: for `TF_LoadLibrary` and the like."""
    return _LIBRARY


@contextlib.contextmanager
def implementation(name: str) -> Iterator[None]:
    """Context manager: which implementation the ops called in it, or traced in it, use.

    It holds for this thread, and for those that opened no such scope themselves, among them the
    threads in which TensorFlow's distribution strategies trace their replicas.

    Args:
        name: `"native"` (an error where the library cannot be had), `"reference"`, or `"auto"`
            (native where possible).
    """
    if name not in _IMPLEMENTATIONS:
        raise ValueError(
            f"implementation: `name` must be one of {_IMPLEMENTATIONS}. Received: {name!r}."
        )
    key, token = object(), _scope.set(name)
    with _lock:
        _open_scopes[key] = name
    try:
        yield
    finally:
        with _lock:
            del _open_scopes[key]
        _scope.reset(token)


def _current_scope() -> str:
    with _lock:
        return _scope.get() or ["auto", *_open_scopes.values()][-1]


def use_native() -> bool:
    """Whether ops should run their native kernels here and now.

    Raises:
        RuntimeError: If native kernels are demanded, by `implementation("native")` or by
            `KVISION_REQUIRE_OPS=1`, and cannot be had.
    """
    scope = _current_scope()
    if scope == "reference":
        return False
    if keras.backend.backend() != "tensorflow":
        if scope == "native":
            raise RuntimeError(
                "kvision: native ops run on the TensorFlow backend. "
                f"Received: {keras.backend.backend()!r}."
            )
        return False
    try:
        tf_ops()
    except RuntimeError as error:
        if scope == "native" or os.environ.get("KVISION_REQUIRE_OPS") == "1":
            raise
        _warn_once(error)
        return False
    if not traced_for_xla():
        return True
    if scope == "native":
        raise RuntimeError("kvision: native ops have no XLA kernels; do without `jit_compile`.")
    return False


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
