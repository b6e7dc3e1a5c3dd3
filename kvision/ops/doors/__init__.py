"""How each Keras backend reaches the native kernels: one module a backend.

Each has two functions: `load()`, which raises `RuntimeError` with the remedy where the kernels
cannot be had, and `call(name, tensors, attributes)`. They are made from the library's own
descriptions of its ops, so that no op is named in them.
"""

__all__ = []
