"""The table of an op: its signature, the cases it is held to, and what stands behind it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from kvision.ops import native
from kvision.testing.op_signature import Signature
from kvision.testing.vjp import to_tensor


@dataclasses.dataclass(frozen=True)
class Case:
    """A call whose results an independent source has told: a worked table, another library.

    Attributes:
        inputs: Array of each input; lists become float32.
        outputs: Expected array, or a mapping from an output's name to it where there are several.
        arguments: Arguments that differ from the table's.
        output_gradient: Array that arrives as gradient, in the form of `outputs`.
        gradients: Expected gradient of each differentiable input, for `output_gradient`.
        rtol: Relative tolerance; integers must be equal.
        atol: Absolute tolerance.
    """

    inputs: Mapping[str, object]
    outputs: object = None
    arguments: Mapping[str, object] = dataclasses.field(default_factory=dict)
    output_gradient: object = None
    gradients: Mapping[str, object] | None = None
    rtol: float = 1e-6
    atol: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawOp(Signature):
    """A registered TensorFlow op, called without the Python that guards it.

    Attributes:
        name: The name that its messages start with: that of the public function.
        inputs: The tensors. Those of a list input stand here one by one.
        outputs: The tensors that it returns, lists flattened.
        arguments: Its attributes.
        sizes: Sizes of the named axes, 3 where not given.
        derived: As in `OpContract`.
        dtypes: The dtypes that T may be.
        variants: As in `OpContract`.
        invalid: Calls that it has to refuse.
        fuzzed_arguments: As in `OpContract`.
        regressions: As in `OpContract`.
        op: Name of the function in `kvision.ops.native.tf_ops()`, or a function that takes
            tensors and attributes by name.
        lists: Name of a list input -> the names in `inputs` of its elements.
    """

    op: str | Callable
    lists: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def is_input(self, name):
        """Whether a name is that of a tensor, or of an element of a list of them."""
        return name in {*self.inputs, *(n for names in self.lists.values() for n in names)}

    @property
    def label(self):
        """Its name among the raw ops of a table."""
        return self.op if isinstance(self.op, str) else self.op.__name__

    def call(self, tensors, arguments):
        """The outputs by name."""
        tensors = dict(tensors)
        for name, elements in self.lists.items():
            tensors[name] = [tensors.pop(element) for element in elements if element in tensors]
        function = getattr(native.tf_ops(), self.op) if isinstance(self.op, str) else self.op
        return self.named_outputs(function(**tensors, **arguments))


@dataclasses.dataclass(frozen=True)
class KernelCall:
    """A call of a kernel on NumPy arrays, as `kvision._C` offers it without TensorFlow.

    Attributes:
        function: Name of the function in the module.
        arguments: What it is given, without `num_threads`: arrays, numbers and lists of them.
        equals: Index among its results -> the output of the op that it is, bit for bit;
            `"gradient of <input>"` for a gradient.
    """

    function: str
    arguments: Mapping[str, object]
    equals: Mapping[int, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpContract(Signature):
    """The table of an op.

    Attributes:
        name: The name that every message starts with.
        inputs: Name -> `Input`.
        outputs: Name -> `Output`. A function that returns a dictionary has to use these names;
            the tensors of any other structure are named in their order.
        arguments: The arguments of an ordinary call.
        sizes: Sizes of the named axes, 3 where not given.
        derived: Name of an axis of outputs -> the function of `(sizes, arguments)` that computes
            its size.
        dtypes: What T stands for, one after the other.
        variants: Name -> `Variant`: every check is repeated for each.
        invalid: Calls that have to be refused.
        fuzzed_arguments: Name -> values to choose from, or a function that makes a strategy of
            `hypothesis.strategies`; wrong values belong among them.
        regressions: `FuzzCase`s found by fuzzing, or written by hand; they are run every time.
        function: The public function; it takes the tensors and arguments by name. Where it takes
            a structure of tensors, a function that packs them.
        cases: Name -> `Case`.
        raw: The raw ops behind it.
        kernel_name: The name that the messages of its kernels start with, where it runs those of
            another op.
        kernels: Function of `(inputs, arguments, output_gradients)` that returns one `KernelCall`
            a kernel, or `None` where the kernels are not offered on arrays.
        kernel_module: Path of the module that holds the kernels; `kvision._C` by default.
        kernel_sizes: Sizes for the checks of the kernels: enough work for several threads.
        isa_tolerance: Greatest difference between instruction sets, relative to the greatest
            magnitude of a result (at least 1); 0 demands the same bits.
        libraries: Paths of op libraries, beside that of kvision, that a SavedModel needs.
        computes_in: The dtype that every T is converted to first, or `None`: the result is then
            exactly that of the converted inputs, and the native kernel's exactly the reference's.
        accumulates_in_float32: Whether half types are summed in float32 and rounded once.
        agree: Comparison of native and reference results of one call, in place of the default:
            `agree(native, reference, inputs)` on dictionaries of arrays, raising
            `AssertionError`. Integers equal and floats within rounding by default.
        gradient_step: Step of the finite differences.
        gradient_rtol: Relative tolerance against finite differences.
        gradient_dtype: Dtype of the finite differences.
        compiles: Whether XLA compiles the function.
        native_ops: The ops of kvision's library that the function runs, those that what XLA
            compiles has to call; by default the one of its name, if there is one. Where such an op
            has a gradient op, the function's gradient has to call that.
        fuzzed_sizes: Greatest sizes that fuzzing takes, 4 where not given.
    """

    function: Callable
    cases: Mapping[str, Case] = dataclasses.field(default_factory=dict)
    raw: Sequence[RawOp] = ()
    kernel_name: str | None = None
    kernels: Callable | None = None
    kernel_module: str | None = None
    kernel_sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    isa_tolerance: float = 0.0
    libraries: Sequence[str] = ()
    computes_in: str | None = None
    accumulates_in_float32: bool = True
    agree: Callable | None = None
    gradient_step: float = 1e-5
    gradient_rtol: float = 1e-6
    gradient_dtype: str = "float64"
    compiles: bool = True
    native_ops: Sequence[str] | None = None
    fuzzed_sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def call(self, inputs, arguments):
        """The outputs by name, from arrays or tensors by name."""
        tensors = {
            name: to_tensor(value) if isinstance(value, np.ndarray) else value
            for name, value in inputs.items()
        }
        return self.named_outputs(self.function(**tensors, **arguments))
