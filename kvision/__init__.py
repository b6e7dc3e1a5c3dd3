"""Detection for Keras 3 and TensorFlow, on native ops."""

from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec

from kvision.ops.native import load_ops
from kvision.show_versions import show_versions

__version__ = "0.1.0"

for _name in (
    "backbones",
    "boxes",
    "data",
    "export",
    "layers",
    "losses",
    "metrics",
    "models",
    "ops",
    "visualization",
    "weights",
):
    if find_spec(f"kvision.{_name}"):
        with suppress(ModuleNotFoundError):  # until every package has landed
            import_module(f"kvision.{_name}")

__all__ = ["__version__", "load_ops", "show_versions"]
