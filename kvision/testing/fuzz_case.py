"""A generated call: what it is made of, how it is drawn, and the arrays that it stands for."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from kvision.testing import op_results
from kvision.testing.op_signature import rounded

_NAN, _INF = float("nan"), float("inf")
# The worst first: they come more often.
_SPECIALS = {
    "f": (_NAN, _INF, -_INF, 0.0, -0.0, 1e-45, 1e-30, 0.5, -1.0, 65504.0, 1e9, 3e38, -3e38),
    "i": (-1, 0, 1, 2**31 - 1, -(2**31)),
    "b": (False, True),
}


@dataclasses.dataclass(frozen=True)
class FuzzCase:
    """A generated call, which can stand in a table as a regression.

    Attributes:
        variant: Name of the variant.
        dtype: What T is.
        sizes: Size of every named axis.
        arguments: Arguments that differ from the table's.
        seed: Of the inputs' values.
        strewn: Values put into the inputs: (input, position, value).
        fault: What is wrong with a shape: (input, axis, change of its size), or with `None` for
            the axis the change of the rank.
    """

    variant: str = ""
    dtype: str = "float32"
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    arguments: Mapping[str, object] = dataclasses.field(default_factory=dict)
    seed: int = 0
    strewn: Sequence[tuple[str, int, object]] = ()
    fault: tuple[str, int | None, int] | None = None


def cases(contract, level):
    """The strategy of hypothesis for calls at a level: see `kvision.testing.op_fuzz.explore`."""
    from hypothesis import strategies as st

    some = st.sampled_from

    def choice(values):
        return values(st) if callable(values) else some(list(values))

    @st.composite
    def case(draw):
        name = draw(st.sampled_from(sorted(contract.variants)))
        variant = contract.variants[name]
        greatest = getattr(contract, "fuzzed_sizes", {})
        # An empty axis now and then: with several, calls would have no values else.
        sizes = {
            axis: 0
            if draw(st.integers(0, 7)) == 7 and axis not in variant.nonempty
            else draw(st.integers(1, greatest.get(axis, 4)))
            for axis in contract.named_axes(variant)
        }
        served = level == "SavedModel"
        axes = contract.axes_of(variant)
        # Ranks and fixed sizes are part of a SavedModel's signature, which TensorFlow checks.
        faults = [
            (key, position, change)
            for key, words in axes.items()
            for position, word in (*enumerate(words), (None, ""))
            for change in (-1, 1)
            if not served or word in sizes
        ]
        # Of the other backends float64 is an option, or float32 in disguise.
        known = [d for d in contract.dtypes if d != "float64" or op_results.on_tensorflow()]
        dtype = contract.default_dtype if served else draw(st.sampled_from(known))
        strewn = [
            (key, draw(st.integers(0, 15)), draw(some(specials[:3]) | some(specials)))
            for key in draw(st.lists(st.sampled_from(sorted(axes)), max_size=4))
            if (specials := _specials(contract, key, dtype))
        ]
        arguments = {
            key: draw(choice(values))
            for key, values in ({} if served else contract.fuzzed_arguments).items()
            if draw(st.booleans())
        }
        return FuzzCase(
            variant=name,
            dtype=dtype,
            sizes=sizes,
            arguments=arguments,
            seed=draw(st.integers(0, 99)),
            strewn=tuple(strewn),
            fault=draw(st.none() | st.none() | st.sampled_from(faults)),
        )

    return case()


def _specials(contract, name, dtype):
    if contract.inputs[name].specials is not None:
        return contract.inputs[name].specials
    kind = rounded(0, contract.dtype_of(name, dtype)).dtype
    return _SPECIALS.get("f" if "float" in kind.name else kind.kind, ())


def build(contract, case):
    """Inputs, arguments and what is promised for them."""
    variant = contract.variants[case.variant]
    sizes = contract.sizes_of(variant, case.sizes)
    inputs = contract.draw(variant, sizes, case.dtype, case.seed)
    for name, position, value in case.strewn:
        array = inputs[name] = inputs[name].copy()
        if array.size:
            array.flat[position % array.size] = rounded(value, array.dtype.name)
    if case.fault is not None:
        name, axis, change = case.fault
        shape = list(inputs[name].shape)
        if axis is not None:
            shape[axis] = max(shape[axis] + change, 0)
        else:
            shape = [*shape, 1] if change > 0 else shape[1:]
        count = int(np.prod(shape))
        values = np.resize(inputs[name], count) if inputs[name].size else np.zeros(count)
        inputs[name] = rounded(values, inputs[name].dtype.name).reshape(shape)
    arguments = contract.arguments_of(variant, case.arguments)
    try:
        promised = contract.promised(variant, sizes, case.dtype, arguments)
    except (TypeError, ValueError):  # of a wrong argument, which is to be refused
        promised = {}
    return inputs, arguments, promised
