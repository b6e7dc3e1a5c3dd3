"""Vision models for Keras 3 on TensorFlow, JAX and PyTorch, on native ops."""

from kvision import (
    backbones,
    boxes,
    data,
    export,
    layers,
    losses,
    metrics,
    models,
    ops,
    training,
    visualization,
    weights,
)
from kvision.backbones import receptive_field
from kvision.models.catalog import create, list_models
from kvision.ops.native import load_ops
from kvision.show_versions import show_versions

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "backbones",
    "boxes",
    "create",
    "data",
    "export",
    "layers",
    "list_models",
    "load_ops",
    "losses",
    "metrics",
    "models",
    "ops",
    "receptive_field",
    "show_versions",
    "training",
    "visualization",
    "weights",
]
