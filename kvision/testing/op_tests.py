"""The tests that every op passes, made from its table."""

import functools
import tempfile
from pathlib import Path

from kvision.testing import (
    op_compiled,
    op_fuzz,
    op_gradients,
    op_kernels,
    op_refusals,
    op_results,
    op_saved_model,
    op_shapes,
    op_sizes,
    op_values,
    op_xla,
)
from kvision.testing.op_results import running


class OpTests:
    """Base class of an op's tests for pytest.

    A subclass sets `contract`, the `OpContract` of its op, and adds the tests that are the op's
    own::

        class TestRoIAlign(OpTests):
            contract = OpContract(name="roi_align", function=roi_align, ...)

    A test that takes one of these arguments runs once for each value of it:

    - `implementation`: the reference, the native kernel.
    - `variant`: of the table; of each raw op with `raw`.
    - `case`, `invalid`, `dtype`: of the table.
    - `raw`, `raw_invalid`, `where`: the raw ops, what they refuse eagerly, in graphs, to XLA.
    - `unknown`, `empty`: the axis in question.
    - `regression`, `raw_regression`: calls once found by fuzzing.
    """

    contract = None

    def __init_subclass__(cls, **kwargs):
        """Leaves out the tests for which the table has nothing."""
        super().__init_subclass__(**kwargs)
        contract = cls.contract
        given = {
            "test_value": contract.cases,
            "test_regression": contract.regressions,
            "test_raw_static_shape": contract.raw,
            "test_raw_invalid": contract.raw,
            "test_fuzz_raw": contract.raw,
            "test_fuzz_raw_xla": contract.compiles and contract.raw,
            "test_raw_regression": [case for raw in contract.raw for case in raw.regressions],
            "test_threads": contract.kernels,
            "test_instruction_sets": contract.kernels,
            "test_xla": contract.compiles,
            "test_xla_dtype": contract.compiles,
            "test_xla_empty": contract.compiles,
            "test_xla_changing_sizes": contract.compiles,
            "test_xla_invalid": contract.compiles,
            "test_fuzz_xla": contract.compiles,
        }
        for name, value in given.items():
            if not value:
                setattr(cls, name, None)

    def pytest_generate_tests(self, metafunc):
        """Parametrises the tests from the table."""
        if self.contract is not None:
            for names, values in _parameters(self.contract, set(metafunc.fixturenames)):
                ids = [_identifier(value) for value in values]
                metafunc.parametrize(names, values, ids=ids)

    def test_value(self, implementation, case):
        with running(implementation):
            op_values.check_case(self.contract, self.contract.cases[case])

    def test_dtype(self, variant, dtype):
        if not op_results.on_tensorflow() and dtype == "float64":
            _skip("float64 is an option of JAX, and Keras computes it in float32 on PyTorch")
        with running("native"):
            op_values.check_dtype(self.contract, self.contract.variants[variant], dtype)

    def test_static_shape(self, implementation, variant, unknown):
        _need_tensorflow("graphs are TensorFlow's")
        with running(implementation):
            op_shapes.check_static_shape(self.contract, self.contract.variants[variant], unknown)

    def test_symbolic_shape(self, variant, unknown):
        self._need_symbolic(variant)
        op_shapes.check_symbolic(self.contract, self.contract.variants[variant], unknown)

    def test_raw_static_shape(self, raw, raw_variant):
        _need_tensorflow("raw ops are TensorFlow's")
        with running("native"):
            op_shapes.check_raw_static_shape(raw, raw.variants[raw_variant])

    def test_gradient(self, implementation, variant):
        _need_tensorflow("float64 is an option of JAX, and float32 in Keras on PyTorch")
        with running(implementation):
            called = self.contract.variants[variant]
            if called.has_slopes and self.contract.differentiable(called):
                op_gradients.check_finite_differences(self.contract, called)
            op_gradients.check_no_gradient(self.contract, called)

    def test_empty(self, implementation, variant, empty):
        with running(implementation):
            op_sizes.check_empty(self.contract, self.contract.variants[variant], empty)

    def test_invalid(self, implementation, invalid):
        with running(implementation):
            op_refusals.check_refusal(self.contract, self.contract.invalid[invalid])

    def test_raw_invalid(self, raw, raw_invalid, where):
        _need_tensorflow("raw ops are TensorFlow's")
        with running("native"):
            op_refusals.check_raw_refusal(raw, raw.invalid[raw_invalid], where)

    def test_changing_sizes(self, implementation, variant):
        _need_tensorflow("graphs are TensorFlow's")
        with running(implementation):
            op_sizes.check_changing_sizes(self.contract, self.contract.variants[variant])

    def test_functional_model(self, implementation, variant, tmp_path):
        self._need_symbolic(variant)
        with running(implementation):
            op_sizes.check_functional_model(
                self.contract, self.contract.variants[variant], tmp_path
            )

    def test_xla(self, variant):
        called, sizes = self._variant(variant)
        with _under_xla():
            if called.symbolic:
                op_xla.check_xla(self.contract, called, self.contract.default_dtype, sizes)
            else:
                op_xla.check_xla_refusal(self.contract, called)

    def test_xla_dtype(self, dtype):
        called, sizes = self._variant(next(iter(self.contract.variants)))
        with _under_xla():
            op_xla.check_xla(self.contract, called, dtype, sizes)

    def test_xla_empty(self, variant, empty):
        self._need_symbolic(variant)
        called, sizes = self._variant(variant)
        with _under_xla():
            sizes = op_sizes.emptied(sizes, empty)
            op_xla.check_xla(self.contract, called, self.contract.default_dtype, sizes)

    def test_xla_changing_sizes(self, variant):
        self._need_symbolic(variant)
        with _under_xla():
            op_xla.check_xla_changing_sizes(self.contract, self.contract.variants[variant])

    def test_xla_invalid(self, invalid):
        with _under_xla():
            op_xla.check_xla_invalid(self.contract, self.contract.invalid[invalid])

    def test_compiled(self, variant):
        if op_results.on_tensorflow():
            _skip("it is the way of JAX and PyTorch; XLA is TensorFlow's")
        self._need_symbolic(variant)
        with running("native"):
            op_compiled.check_compiled(self.contract, self.contract.variants[variant])

    def test_saved_model(self, variant):
        _need_tensorflow("SavedModels are TensorFlow's")
        with running("native"):
            op_saved_model.check_saved_model(self.contract, variant, self._saved())

    def test_threads(self):
        with running("native"):
            op_kernels.check_threads(self.contract)

    def test_instruction_sets(self, tmp_path):
        with running("native"):
            op_kernels.check_instruction_sets(self.contract, tmp_path)

    def test_fuzz(self):
        with running("native"):
            check = functools.partial(op_fuzz.check_function, self.contract)
            op_fuzz.explore(self.contract, check, "function")

    def test_fuzz_xla(self):
        with _under_xla():
            check = functools.partial(op_fuzz.check_under_xla, self.contract)
            op_fuzz.explore(self.contract, check, "XLA")

    def test_fuzz_raw(self, raw):
        _need_tensorflow("raw ops are TensorFlow's")
        with running("native"):
            op_fuzz.explore(raw, functools.partial(op_fuzz.check_raw_op, raw), "raw op")

    def test_fuzz_raw_xla(self, raw):
        with _under_xla():
            check = functools.partial(op_fuzz.check_raw_op, raw, jit_compile=True)
            op_fuzz.explore(raw, check, "raw op")

    def test_fuzz_saved_model(self):
        _need_tensorflow("SavedModels are TensorFlow's")
        with running("native"):
            check = functools.partial(op_fuzz.check_served, self.contract, self._saved())
            op_fuzz.explore(self.contract, check, "SavedModel")

    def test_regression(self, regression):
        with running("native"):
            op_fuzz.check_function(self.contract, self.contract.regressions[regression])

    def test_raw_regression(self, raw, raw_regression):
        _need_tensorflow("raw ops are TensorFlow's")
        with running("native"):
            op_fuzz.check_raw_op(raw, raw.regressions[raw_regression])

    @classmethod
    def _saved(cls):
        """The folder of the op's SavedModel, which is made once."""
        return _save(cls)[1]

    def _variant(self, name):
        """A variant and the sizes of its axes."""
        variant = self.contract.variants[name]
        return variant, self.contract.sizes_of(variant)

    def _need_symbolic(self, variant):
        if not self.contract.variants[variant].symbolic:
            _skip("the table says that KerasTensors are refused")


@functools.cache
def _save(tests):
    folder = tempfile.TemporaryDirectory(prefix="kvision_")
    op_saved_model.save(tests.contract, folder.name)
    return folder, Path(folder.name)


def _under_xla():
    _need_tensorflow("it is TensorFlow's way to XLA")
    return running("native")


def _parameters(contract, wanted):
    """Pairs (names, values) for the arguments that a test wants; names joined vary together."""
    if {"variant", "unknown"} <= wanted:
        yield "variant, unknown", _pairs(contract.variants, op_shapes.unknown_axes, contract)
    elif {"variant", "empty"} <= wanted:
        yield "variant, empty", _pairs(contract.variants, op_sizes.empty_axes, contract)
    elif "variant" in wanted:
        yield "variant", list(contract.variants)
    if "implementation" in wanted:
        yield "implementation", op_results.IMPLEMENTATIONS
    for name, values in {"case": contract.cases, "dtype": contract.dtypes}.items():
        if name in wanted:
            yield name, list(values)
    for name, values in {
        "invalid": contract.invalid,
        "regression": contract.regressions,
    }.items():
        if name in wanted:
            yield name, range(len(values))
    own = {
        "raw_variant": lambda raw: raw.variants,
        "raw_invalid": lambda raw: range(len(raw.invalid)),
        "raw_regression": lambda raw: range(len(raw.regressions)),
    }
    for name, values in own.items():
        if name in wanted:
            yield f"raw, {name}", [(raw, value) for raw in contract.raw for value in values(raw)]
            break
    else:
        if "raw" in wanted:
            yield "raw", list(contract.raw)
    if "where" in wanted:
        yield "where", op_refusals.WHERE[: None if contract.compiles else -1]


def _pairs(variants, axes, contract):
    return [(name, axis) for name, value in variants.items() for axis in axes(contract, value)]


def _identifier(value):
    if isinstance(value, tuple):
        return "-".join(_identifier(part) for part in value)
    return getattr(value, "label", None) or str(value) or "default"


def _need_tensorflow(reason):
    if not op_results.on_tensorflow():
        _skip(reason)


def _skip(reason):
    import pytest

    pytest.skip(reason)
