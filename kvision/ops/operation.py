"""How the public functions call their operations."""

import functools

import keras


def call_operation(operation_class, tensors, **arguments):
    """Calls an operation on tensors, or makes it a node where one of them is a KerasTensor.

    Off a functional model, calls with equal arguments share one operation, which keeps nothing of
    a call: to make one takes longer than a small op.

    Args:
        operation_class: A `keras.Operation`.
        tensors: What its `call` takes: tensors, dictionaries and lists of them, `None`.
        **arguments: Of its constructor.

    Returns:
        What `call` returns.
    """
    if any(map(keras.utils.is_keras_tensor, _leaves(tensors))):
        return operation_class(**arguments).symbolic_call(*tensors)
    if is_compiling():
        # Keras would count the operations that have no name, and each count be compiled anew.
        return operation_class(**arguments, name=operation_class.__name__).call(*tensors)
    try:
        operation = _shared(operation_class, **arguments)
    except TypeError:  # a list or a dictionary among the arguments cannot be a key
        operation = operation_class(**arguments)
    return operation.call(*tensors)


def _leaves(tensors):
    for tensor in tensors:
        if isinstance(tensor, dict):
            yield from tensor.values()
        elif isinstance(tensor, list | tuple):
            yield from tensor
        else:
            yield tensor


@functools.lru_cache(maxsize=256, typed=True)
def _shared(operation_class, **arguments):
    return operation_class(**arguments)


def is_compiling():
    """Whether `torch.compile` is tracing, which looks through caches and warns of them."""
    return False


if keras.backend.backend() == "torch":
    from torch.compiler import is_compiling  # noqa: F811
