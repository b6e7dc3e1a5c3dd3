"""What a function of tensors takes and promises, in words: the half of a table that is shapes.

Shapes are written with named axes, `"batch num_boxes 4"`, so that the harness can make any axis
unknown, empty or wrong.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from kvision.testing.draws import normal

FLOATING = ("float16", "bfloat16", "float32", "float64")
# The dtype of an input that is float64 beside float64 and float32 beside all others.
AT_LEAST_FLOAT32 = {dtype: "float64" if dtype == "float64" else "float32" for dtype in FLOATING}
# A size that depends on data.
ANY = "?"


@dataclasses.dataclass(frozen=True)
class Input:
    """One tensor that an op takes.

    Attributes:
        axes: Its shape in words: names of axes, and numbers where a size is fixed.
        draw: Makes its values: `draw(rng, shape, sizes)`, see `kvision.testing.draws`.
        dtype: `"T"`, the dtype under test; the name of a dtype; or a mapping from T to one, such
            as `AT_LEAST_FLOAT32`.
        differentiable: Whether the outputs have a gradient to it. To one that has not, the
            gradient has to be `None`.
        comparable: Greatest magnitude up to which generated values give results that the native
            kernel and the reference must agree on. Infinite where the contract defines the result
            for every value, NaN included.
        specials: The values that fuzzing strews into it; by default the awkward ones of its dtype.
    """

    axes: str
    draw: Callable = dataclasses.field(default_factory=normal)
    dtype: str | Mapping[str, str] = "T"
    differentiable: bool = False
    comparable: float = float("inf")
    specials: Sequence | None = None


@dataclasses.dataclass(frozen=True)
class Output:
    """One tensor that an op returns.

    Attributes:
        axes: Its shape in words: names of axes, among them the table's `derived` ones, numbers,
            names of arguments that hold a size (`"max_output_size"`, `"output_size[0]"`), and
            `"?"` for a size that depends on data, as one whose argument is `None` does.
        dtype: As that of `Input`.
    """

    axes: str
    dtype: str | Mapping[str, str] = "T"


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to call the op that every check is repeated for.

    Attributes:
        arguments: Arguments that differ from the table's.
        axes: Shapes of inputs that differ from the table's.
        outputs: Shapes of outputs that differ from the table's.
        without: Inputs that are left out.
        nonempty: Axes that must not be of size 0 in this variant.
        has_slopes: Whether the gradient is the slope of the result; false where the op holds a
            part of it constant on purpose, and has a test of its own for that.
        symbolic: Whether KerasTensors and XLA are served, which need shapes that do not depend on
            data.
    """

    arguments: Mapping[str, object] = dataclasses.field(default_factory=dict)
    axes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    without: Sequence[str] = ()
    nonempty: Sequence[str] = ()
    has_slopes: bool = True
    symbolic: bool = True


@dataclasses.dataclass(frozen=True)
class Invalid:
    """A call that must be refused.

    Attributes:
        changes: What is wrong: inputs and arguments by name, put in place of valid ones.
        message: Regular expression of the message after `"<name of the op>: "`.
        error: Class of the error at the Python level.
        symbolic: Whether wrong inputs are refused as KerasTensors too; `None` for those whose
            shape is wrong.
        static: Of a raw op: whether tracing refuses it already; `None` for wrong shapes.
        by_tensorflow: Of a raw op: whether TensorFlow itself refuses it in words of its own, as
            it does an attribute below its declared minimum.
    """

    changes: Mapping[str, object]
    message: str = ""
    error: type[Exception] = ValueError
    symbolic: bool | None = None
    static: bool | None = None
    by_tensorflow: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signature:
    """A function of named tensors and plain arguments, and the shapes that it promises.

    Attributes:
        derived: Name of an axis of outputs -> the function of `(sizes, arguments)` that computes
            its size: `None` where a size that it needs is, and a `ValueError` for arguments that
            are to be refused.
    """

    name: str
    inputs: Mapping[str, Input]
    outputs: Mapping[str, Output]
    arguments: Mapping[str, object] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    derived: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
    dtypes: Sequence[str] = FLOATING
    variants: Mapping[str, Variant] = dataclasses.field(default_factory=lambda: {"": Variant()})
    invalid: Sequence[Invalid] = ()
    fuzzed_arguments: Mapping[str, object] = dataclasses.field(default_factory=dict)
    regressions: Sequence = ()

    @property
    def default_dtype(self):
        """The dtype of the checks that are not about dtypes."""
        return "float32" if "float32" in self.dtypes else self.dtypes[0]

    def axes_of(self, variant):
        """Name of an input -> its axes, for the inputs that the variant has."""
        return {
            name: variant.axes.get(name, value.axes).split()
            for name, value in self.inputs.items()
            if name not in variant.without
        }

    def named_axes(self, variant):
        """The axes that inputs name, in their order."""
        names = [axis for axes in self.axes_of(variant).values() for axis in axes]
        return [name for name in dict.fromkeys(names) if not name.isdecimal()]

    def sizes_of(self, variant, sizes=None):
        """The size of every named axis: the table's, or the given ones (default 3)."""
        return {
            name: (sizes or {}).get(name, self.sizes.get(name, 3))
            for name in self.named_axes(variant)
        }

    def arguments_of(self, variant, arguments=None):
        """The table's arguments, the variant's and the given ones, the later over the earlier."""
        return {**self.arguments, **variant.arguments, **(arguments or {})}

    def shapes(self, variant, sizes):
        """The shape of every input; sizes may be None."""
        return {
            name: tuple(_size(axis, sizes, {}) for axis in axes)
            for name, axes in self.axes_of(variant).items()
        }

    def promised(self, variant, sizes, dtype, arguments):
        """Shape and dtype of every output: sizes are None where unknown, "?" for any."""
        derived = {name: compute(sizes, arguments) for name, compute in self.derived.items()}
        sizes = {**sizes, **derived}
        return {
            name: (
                tuple(
                    _size(axis, sizes, arguments)
                    for axis in variant.outputs.get(name, output.axes).split()
                ),
                _dtype(output.dtype, dtype),
            )
            for name, output in self.outputs.items()
        }

    def dtype_of(self, name, dtype):
        """The dtype of an input where T is `dtype`."""
        return _dtype(self.inputs[name].dtype, dtype)

    def draw(self, variant, sizes, dtype, seed=0):
        """An array for every input, of its own dtype."""
        rng = np.random.default_rng(seed)
        arrays = {}
        for name, shape in self.shapes(variant, sizes).items():
            values = np.asarray(self.inputs[name].draw(rng, shape, {**self.sizes, **sizes}))
            arrays[name] = rounded(np.broadcast_to(values, shape), self.dtype_of(name, dtype))
        return arrays

    def is_input(self, name):
        """Whether a name is that of a tensor, not of an argument."""
        return name in self.inputs

    def differentiable(self, variant):
        """The inputs that have a gradient."""
        return [name for name in self.axes_of(variant) if self.inputs[name].differentiable]

    def named_outputs(self, results):
        """What a call returned, by the names of the outputs."""
        if isinstance(results, Mapping):
            return {name: results[name] for name in self.outputs}
        flat = keras.tree.flatten(results)
        if len(flat) != len(self.outputs):
            raise AssertionError(
                f"{self.name} returned {len(flat)} tensors, its table has {list(self.outputs)}."
            )
        return dict(zip(self.outputs, flat, strict=True))


def rounded(values, dtype):
    """An array of `dtype`, a name of NumPy's or `"bfloat16"`; what is too large becomes infinite.

    Args:
        values: Array.
        dtype: Name of the dtype.
    """
    if dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    with np.errstate(all="ignore"):
        return np.asarray(values).astype(dtype)


def _dtype(declared, dtype):
    if isinstance(declared, str):
        return dtype if declared == "T" else declared
    return declared[dtype]


def _size(axis, sizes, arguments):
    """The size that a word of a shape stands for."""
    if axis.isdecimal():
        return int(axis)
    if axis == ANY or axis in sizes:
        return sizes.get(axis, ANY)
    name, index = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", axis).groups()
    if name not in arguments:
        raise ValueError(f"A table names the axis {axis!r}, which no input or argument has.")
    value = arguments[name]
    if value is None:
        return ANY
    # A size that may be one number for all axes.
    return int(value if index is None or np.ndim(value) == 0 else value[int(index)])
