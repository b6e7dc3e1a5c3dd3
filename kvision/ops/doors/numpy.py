"""Native kernels on NumPy arrays, by the extension module itself."""

from kvision.ops import native


def load():
    """Raises `RuntimeError` where the kernels cannot be had."""
    native.require_module()


def call(name, tensors, attributes):
    """See `kvision.ops.native.call`."""
    return getattr(native.require_module(), name)(*tensors, **attributes)
