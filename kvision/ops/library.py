"""The native library: where it is, what it holds, and why it cannot be had."""

import functools
import platform
from pathlib import Path
from types import ModuleType

_FOLDER = Path(__file__).parents[1]


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
    for op in require_module().ops():
        if op["name"] == name:
            return op
    raise ValueError(f"kvision: there is no native op {name!r}.")
