"""The gradients of the native ops, each written once for every backend."""

import dataclasses
from collections.abc import Callable, Mapping

_gradients: dict[str, "Gradient"] = {}


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A call whose gradient is wanted.

    Attributes:
        tensors: The inputs and outputs that the gradient keeps, by name.
        shapes: Shape of every input by name, a list of them for a list of tensors. In a TensorFlow
            graph a size may be a tensor.
        attributes: The call's attributes by name.
    """

    tensors: Mapping[str, object]
    shapes: Mapping[str, object]
    attributes: Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Gradient:
    """The gradient of an op, for every backend.

    Attributes:
        function: Of a `Recorded` call and the gradient of each floating output; returns the
            gradients of inputs by name.
        keeps: Names of the inputs and outputs that it looks at.
    """

    function: Callable
    keeps: tuple[str, ...]


def gradient(name: str, keeps: tuple[str, ...]) -> Callable[[Callable], Callable]:
    """Decorator: the function is the gradient of a native op.

    Args:
        name: The op's, such as `"roi_align"`.
        keeps: Names of the inputs and outputs that the function looks at.
    """

    def decorate(function: Callable) -> Callable:
        _gradients[name] = Gradient(function, keeps)
        return function

    return decorate


def gradient_of(name: str) -> Gradient | None:
    """The gradient of a native op, or `None` where it has none and differentiation stops.

    Args:
        name: The op's, such as `"roi_align"`.
    """
    return _gradients.get(name)
