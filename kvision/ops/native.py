"""The native library: loading it, choosing it, and saying why it cannot be had.

The library is loaded when an op first wants it, never by `import kvision`. It holds TensorFlow
ops, so it is wanted on the TensorFlow backend only, and only the TensorFlow it was built for can
load it. Without it every op runs through its reference implementation, after one warning; with
`KVISION_REQUIRE_OPS=1` in the environment that warning is an error.
"""

import contextlib
import contextvars
import importlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import keras

_LIBRARY = Path(__file__).parents[1] / "_tf_ops.so"
_IMPLEMENTATIONS = ("auto", "native", "reference")

_scope = contextvars.ContextVar("kvision_implementation", default="auto")
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
        return importlib.import_module("kvision._C").build_info()
    except ImportError:
        return {}


def _load() -> ModuleType:
    """Loads the library and registers the gradients, or raises an error with the remedy."""
    info = build_info()
    if not info or not _LIBRARY.exists():
        raise RuntimeError(
            "kvision: this installation has no native library; install with a C++ compiler and "
            "without `KVISION_BUILD_OPS=0` to have one."
        )
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

    Args:
        name: `"native"` (an error where the library cannot be had), `"reference"`, or `"auto"`
            (native where possible).
    """
    if name not in _IMPLEMENTATIONS:
        raise ValueError(
            f"implementation: `name` must be one of {_IMPLEMENTATIONS}. Received: {name!r}."
        )
    token = _scope.set(name)
    try:
        yield
    finally:
        _scope.reset(token)


def use_native(op_name: str) -> bool:
    """Whether an op should run its native kernel here and now.

    Args:
        op_name: The op's name in `kvision.ops`, such as `"roi_align"`.

    Raises:
        RuntimeError: If the native kernel is demanded, by `implementation("native")` or by
            `KVISION_REQUIRE_OPS=1`, and cannot be had.
    """
    scope = _scope.get()
    if scope == "reference":
        return False
    if keras.backend.backend() != "tensorflow":
        if scope == "native":
            raise RuntimeError(
                f"{op_name}: native ops run on the TensorFlow backend. "
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
    return True


def _warn_once(error: RuntimeError) -> None:
    global _warned
    with _lock:
        if not _warned:
            _warned = True
            message = f"{error} Until then the slower reference implementations run."
            warnings.warn(message, RuntimeWarning, stacklevel=4)


def implementation_of(op_name: str) -> str:
    """`"native"` or `"reference"`: what `kvision.ops.<op_name>` would run here and now.

    Args:
        op_name: The op's name in `kvision.ops`, such as `"roi_align"`.
    """
    return "native" if use_native(op_name) else "reference"
