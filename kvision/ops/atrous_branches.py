"""What the two atrous pyramid poolings share: branches of a kernel, a rate and a bias each."""

import keras
from keras import ops

from kvision.ops import native
from kvision.ops.arguments import is_int
from kvision.ops.operation import call_operation

_ACTIVATIONS = (None, "relu")
# Of the native kernels; the references keep to them too.
_MAX_BRANCHES = 16
_MAX_RATE = 2**31 - 1
_FARTHEST = 2**31 - 1  # of int32: farther than any map is large


def call_branches(operation_class, x, kernels, dilation_rates, biases, activation):
    """Calls the operation of a public function, which takes lists.

    Raises:
        TypeError: If kernels, rates or biases are no lists.
    """
    lists = {"kernels": kernels, "dilation_rates": dilation_rates, "biases": biases}
    for name, value in lists.items():
        if not isinstance(value, list | tuple) and not (name == "biases" and value is None):
            raise TypeError(
                f"{operation_class.op}: `{name}` must be a list. Received: {type(value).__name__}."
            )
    return call_operation(
        operation_class,
        (x, list(kernels), None if biases is None else list(biases)),
        dilation_rates=tuple(dilation_rates),
        activation=activation,
    )


class AtrousBranches(keras.Operation):
    """Base of the operations: checks what both take.

    A subclass has the name of its op, `op`, the two implementations, of `(x, kernels, biases,
    dilation_rates, activation)`, what a kernel must be, and the spec of the result.
    """

    op = None

    def __init__(self, *, dilation_rates, activation=None, name=None):
        super().__init__(name=name)
        for rate in dilation_rates:
            if not is_int(rate) or not 1 <= rate <= _MAX_RATE:
                raise ValueError(
                    f"{self.op}: `dilation_rates` must be ints between 1 and {_MAX_RATE}. "
                    f"Received: {list(dilation_rates)}."
                )
        if activation not in _ACTIVATIONS:
            raise ValueError(
                f"{self.op}: `activation` must be one of {_ACTIVATIONS}. Received: {activation!r}."
            )
        self.dilation_rates = [int(rate) for rate in dilation_rates]
        self.activation = activation

    def native(self, x, kernels, biases, dilation_rates, activation):
        raise NotImplementedError

    def reference(self, x, kernels, biases, dilation_rates, activation):
        raise NotImplementedError

    def check_kernel(self, name, shape, x_shape):
        """Raises `ValueError` for a kernel's shape that is not taken."""
        raise NotImplementedError

    def filters(self, x, kernels):
        """The number of channels of the result of each branch."""
        raise NotImplementedError

    def call(self, x, kernels, biases=None):
        x = ops.convert_to_tensor(x)
        kernels = [ops.convert_to_tensor(kernel) for kernel in kernels]
        if biases is not None:
            biases = [ops.convert_to_tensor(bias) for bias in biases]
        self._check(x, kernels, biases)
        return (self.native if native.use_native() else self.reference)(
            x, kernels, biases, self.dilation_rates, self.activation
        )

    def compute_output_spec(self, x, kernels, biases=None):
        self._check(x, kernels, biases)
        filters = self.filters(x, kernels)
        channels = None if None in filters else sum(filters)
        return keras.KerasTensor((*x.shape[:3], channels), dtype=x.dtype)

    def _check(self, x, kernels, biases):
        lengths = [len(kernels), len(self.dilation_rates)]
        lengths += [] if biases is None else [len(biases)]
        if not 1 <= len(kernels) <= _MAX_BRANCHES or len(set(lengths)) > 1:
            raise ValueError(
                f"{self.op}: `kernels`, `dilation_rates` and `biases` must have one element for "
                f"each branch, 1 to {_MAX_BRANCHES}. Received: {' and '.join(map(str, lengths))}."
            )
        shape = tuple(x.shape)
        if len(shape) != 4:
            raise ValueError(
                f"{self.op}: `x` must have shape (batch, height, width, channels). "
                f"Received: {shape}."
            )
        dtype = keras.backend.standardize_dtype(x.dtype)
        if dtype not in ("float16", "bfloat16", "float32", "float64"):
            raise ValueError(
                f"{self.op}: `x` must be float16, bfloat16, float32 or float64. Received: {dtype}."
            )
        for index, kernel in enumerate(kernels):
            self.check_kernel(f"kernels[{index}]", tuple(kernel.shape), shape)
            self._check_dtype(f"kernels[{index}]", kernel, dtype)
        for index, (bias, filters) in enumerate(
            zip(biases or [], self.filters(x, kernels), strict=False)
        ):
            found = tuple(bias.shape)
            if len(found) != 1 or (None not in (found[0], filters) and found[0] != filters):
                raise ValueError(
                    f"{self.op}: `biases[{index}]` must have shape ({filters},). Received: {found}."
                )
            self._check_dtype(f"biases[{index}]", bias, dtype)

    def _check_dtype(self, name, tensor, dtype):
        found = keras.backend.standardize_dtype(tensor.dtype)
        if found != dtype:
            raise ValueError(f"{self.op}: `{name}` must be {dtype}, as `x` is. Received: {found}.")


def product_of_tap(multiply, x, down, right):
    """What every pixel of a map `(batch, height, width, channels)` takes from one tap.

    Args:
        multiply: Function of the part of `x` that the tap finds, which keeps its first three axes.
        x: The map.
        down: How many pixels below the pixel the tap lies.
        right: How many to the right of it.

    Returns:
        What `multiply` gives at the pixels whose tap lies on the map, and zeros at the others: the
        padding is not multiplied.
    """
    steps = [_steps_on_map(down, ops.shape(x)[1]), _steps_on_map(right, ops.shape(x)[2])]
    for axis, offset, size in zip((1, 2), (down, right), steps, strict=True):
        found = slice(size, None) if offset > 0 else slice(None, ops.shape(x)[axis] - size)
        x = x[(slice(None),) * axis + (found,)]
    product = multiply(x)
    for axis, offset, size in zip((1, 2), (down, right), steps, strict=True):
        shape = list(ops.shape(product))
        shape[axis] = size
        padding = ops.zeros(shape, product.dtype)
        parts = [product, padding] if offset > 0 else [padding, product]
        product = ops.concatenate(parts, axis=axis)
    return product


def _steps_on_map(offset, size):
    """How far a tap reaches off the map: all of it at most. `size` may be a tensor."""
    steps = min(abs(offset), _FARTHEST)
    return min(steps, size) if isinstance(size, int) else ops.minimum(steps, size)
