"""Native kernels on NumPy arrays, by the extension module itself."""

from kvision.ops import library


def load():
    """Raises `RuntimeError` where the kernels cannot be had."""
    library.require_module()


def call(name, tensors, attributes):
    """See `kvision.ops.native.call`."""
    return getattr(library.require_module(), name)(*tensors, **attributes)
