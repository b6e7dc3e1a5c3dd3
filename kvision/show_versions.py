"""What a bug report needs, printed."""

import platform
from importlib import metadata

import keras
import numpy

from kvision.ops import native

_OPTIONAL = ("matplotlib", "pillow", "scikit-learn", "faster-coco-eval", "jax", "torch")
_FEATURES = ("avx", "avx2", "fma", "f16c", "avx512f")


def show_versions() -> None:
    """Prints the versions of everything kvision stands on, and the state of its native library."""
    import kvision

    lines = {
        "kvision": kvision.__version__,
        "Python": platform.python_version(),
        "system": platform.platform(),
        "CPU": f"{_cpu_model()} ({' '.join(_cpu_features())})",
        "Keras": f"{keras.__version__}, backend {keras.backend.backend()}",
        "NumPy": numpy.__version__,
        "TensorFlow": _tensorflow(),
        "native ops": _native_state(),
        **{f"  built with {name}": value for name, value in native.build_info().items()},
        **{name: _version(name) for name in _OPTIONAL},
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _tensorflow() -> str:
    names = ("tensorflow", "tensorflow-cpu")
    found = [f"{name} {_version(name)}" for name in names if _version(name) != "not installed"]
    if len(found) > 1:
        return f"{' and '.join(found)}: they overwrite each other, uninstall both and install one"
    if not found:
        return "not installed"
    return f"{found[0]}, GPUs: {_gpus()}"


def _gpus() -> str:
    try:
        import tensorflow as tf

        return str(len(tf.config.list_physical_devices("GPU")))
    except Exception as error:  # a broken TensorFlow is what the report is about
        return f"unknown ({error})"


def _native_state() -> str:
    try:
        native.load_ops()
    except RuntimeError as error:
        return f"reference implementations only. {error}"
    on_tensorflow = keras.backend.backend() == "tensorflow"
    return f"loaded from {native.library_path() if on_tensorflow else native.module().__file__}"


def _cpu_info(key: str) -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            found = (line.split(":", 1)[1].strip() for line in lines if line.startswith(key))
            return next(found, "")
    except OSError:
        return ""


def _cpu_model() -> str:
    return _cpu_info("model name") or platform.machine()


def _cpu_features() -> list[str]:
    flags = _cpu_info("flags").split()
    return [name for name in _FEATURES if name in flags]
