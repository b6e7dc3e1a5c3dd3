"""Every check of the harness catches an op that is wrong in what it checks, and passes others."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from kvision.ops import native
from kvision.testing import (
    FuzzCase,
    KernelCall,
    OpTests,
    Output,
    Variant,
    op_fuzz,
    op_gradients,
    op_kernels,
    op_refusals,
    op_saved_model,
    op_shapes,
    op_sizes,
    op_values,
    op_xla,
    running,
)
from kvision.testing.op_results import on_tensorflow
from tests.testing.sum_op import (
    RIGHT,
    WRONG_DTYPE,
    WRONG_GRADIENT,
    WRONG_VALUE,
    baked_size,
    fails_on_empty,
    fails_on_nan,
    gradient_to_weights,
    make,
    make_raw,
    no_gradient,
    of_unknown_size,
    raw_sum,
    spoilt,
    summed_in_half,
)

pytestmark = pytest.mark.skipif(not on_tensorflow(), reason="the wrong ops are of TensorFlow")
DEFAULT = Variant()


class TestSum(OpTests):
    """A right op passes."""

    contract = make()


def fails(check, match):
    """Whether the check finds the fault, and says so."""
    with running("native"), pytest.raises(AssertionError, match=match):
        check()


def test_a_wrong_value():
    contract = make(WRONG_VALUE)
    fails(lambda: op_values.check_case(contract, contract.cases["by hand"]), "`sums`")
    fails(lambda: op_values.check_dtype(contract, DEFAULT, "float32"), "twice that of the ref")
    fails(
        lambda: op_fuzz.check_function(contract, FuzzCase(sizes={"rows": 2, "columns": 2})),
        "`sums`",
    )


def test_a_wrong_integer():
    contract = make(spoilt("count", lambda count: count + 1))
    fails(lambda: op_values.check_dtype(contract, DEFAULT, "float32"), "count")


def test_a_lost_dtype():
    contract = make(WRONG_DTYPE)
    fails(lambda: op_values.check_dtype(contract, DEFAULT, "float16"), "should be float16")
    op_values.check_dtype(contract, DEFAULT, "float32")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_summed_in_half(dtype):
    contract = make(summed_in_half, sizes={"columns": 40})
    fails(lambda: op_values.check_dtype(contract, DEFAULT, dtype), "twice that|accumulated")


def test_a_wrong_gradient():
    contract = make(WRONG_GRADIENT)
    fails(lambda: op_gradients.check_finite_differences(contract, DEFAULT), "gradient of `values`")
    fails(lambda: op_values.check_case(contract, contract.cases["by hand"]), "gradient of `values`")
    fails(lambda: op_values.check_dtype(contract, DEFAULT, "float32"), "gradient of values")


def test_a_missing_gradient():
    contract = make(no_gradient)
    fails(lambda: op_gradients.check_finite_differences(contract, DEFAULT), "gradient of `values`")


def test_a_gradient_too_many():
    contract = make(gradient_to_weights)
    fails(lambda: op_gradients.check_no_gradient(contract, DEFAULT), "`weights` is declared")


def test_a_static_shape_that_is_not_known():
    contract = make(of_unknown_size)
    fails(
        lambda: op_shapes.check_static_shape(contract, DEFAULT, op_shapes.NONE), "the static shape"
    )


def test_a_wrong_shape():
    contract = make(spoilt("sums", lambda sums: sums[:, None]))
    fails(lambda: op_shapes.check_static_shape(contract, DEFAULT, "rows"), "static shape")
    fails(lambda: op_sizes.check_empty(contract, DEFAULT, "rows"), "should have shape")


def test_a_wrong_symbolic_shape():
    contract = make(outputs={"sums": Output("columns"), "count": Output("", "int32")})
    with pytest.raises(AssertionError, match="should have shape"):
        op_shapes.check_symbolic(contract, DEFAULT, op_shapes.NONE)


def test_a_failure_on_empty_inputs():
    contract = make(fails_on_empty)
    with running("native"), pytest.raises(IndexError):
        op_sizes.check_empty(contract, DEFAULT, "rows")
    fails(lambda: op_fuzz.check_function(contract, FuzzCase(sizes={"rows": 0})), "IndexError")


def test_a_size_baked_into_a_graph():
    contract = make(baked_size)
    fails(lambda: op_sizes.check_changing_sizes(contract, DEFAULT), "count")


def test_a_call_that_is_not_refused():
    contract = make(check=lambda values, weights, scale: None)
    fails(lambda: op_refusals.check_refusal(contract, contract.invalid[0]), "Not refused")


def test_a_refusal_in_other_words():
    def check(values, weights, scale):
        raise ValueError("add: wrong")

    contract = make(check=check)
    fails(lambda: op_refusals.check_refusal(contract, contract.invalid[0]), "Refused, but not by")


def check_xla(**table):
    contract = make(**table)
    op_xla.check_xla(contract, DEFAULT, "float32", contract.sizes_of(DEFAULT))


def test_another_result_under_xla():
    other = spoilt("sums", lambda sums: sums * (1 + 2e-6 * native.traced_for_xla()))
    fails(lambda: check_xla(spoil=other), "in float32: sums")
    other = spoilt("count", lambda count: count + int(native.traced_for_xla()))
    fails(lambda: check_xla(spoil=other), "in float32: count")


def test_another_gradient_under_xla():
    def other(values, weights, outputs):
        return (WRONG_GRADIENT if native.traced_for_xla() else RIGHT)(values, weights, outputs)

    fails(lambda: check_xla(spoil=other), "in float32: gradient of values")


def test_generated_calls_under_xla():
    case = FuzzCase(sizes={"rows": 2, "columns": 2})
    op_fuzz.check_under_xla(make(), case)
    other = make(spoilt("sums", lambda sums: sums * (1 + 2e-6 * native.traced_for_xla())))
    fails(lambda: op_fuzz.check_under_xla(other, case), "`sums`")

    def refuse_xla(values, weights, scale):
        if native.traced_for_xla():
            raise ValueError("sum: not under XLA")

    fails(lambda: op_fuzz.check_under_xla(make(check=refuse_xla), case), "XLA refuses what")
    of_data = make(outputs={"sums": Output("?"), "count": Output("", "int32")})
    fails(lambda: op_fuzz.check_under_xla(of_data, case), "XLA takes what")


def test_a_program_without_the_native_call():
    fails(lambda: check_xla(native_ops=("nms",)), "does not call the native nms")


def test_a_shape_of_data_that_xla_is_given():
    fails(lambda: op_xla.check_xla_refusal(make(), DEFAULT), "Not refused")


def test_an_invalid_call_that_xla_compiles():
    contract = make(check=lambda values, weights, scale: None)
    fails(lambda: op_xla.check_xla_invalid(contract, contract.invalid[0]), "Not refused")


@pytest.mark.parametrize("where", op_refusals.WHERE)
def test_raw_refusals(where):
    # XLA leaves out the assertions by which this one refuses what is not static.
    for invalid in make_raw().invalid if where != "XLA" else ():
        op_refusals.check_raw_refusal(make_raw(), invalid, where)
    taken = make_raw(lambda values, weights, scale: ops.sum(values, axis=1))
    for invalid in taken.invalid:
        fails(lambda i=invalid: op_refusals.check_raw_refusal(taken, i, where), "Not refused")


def test_a_raw_shape_that_is_not_inferred():
    op_shapes.check_raw_static_shape(make_raw(), DEFAULT)

    def without_rank(values, weights, scale):
        import tensorflow as tf

        sums = raw_sum(values, weights, scale=scale)
        return tf.raw_ops.PlaceholderWithDefault(input=sums, shape=tf.TensorShape(None))

    fails(
        lambda: op_shapes.check_raw_static_shape(make_raw(without_rank), DEFAULT),
        "static shape of `sums` should be",
    )


def explore(contract, check, level="function"):
    with running("native"):
        op_fuzz.explore(contract, check, level)


def test_fuzzing_finds_what_only_nan_does(monkeypatch):
    monkeypatch.setattr(op_fuzz, "_EXAMPLES", 200)
    contract = make(fails_on_nan)
    with pytest.raises(AssertionError, match="ZeroDivisionError") as found:
        explore(contract, lambda case: op_fuzz.check_function(contract, case))
    assert "FuzzCase(" in "".join(found.value.__notes__)


def test_a_generated_argument_without_meaning_that_is_taken():
    contract = make(
        check=lambda values, weights, scale: None,
        outputs={"sums": Output("rows"), "count": Output("scale", "int32")},
    )
    case = FuzzCase(arguments={"scale": np.nan})
    fails(lambda: op_fuzz.check_function(contract, case), "a wrong argument was taken")


def test_fuzzing_a_raw_op():
    explore(make_raw(), lambda case: op_fuzz.check_raw_op(make_raw(), case), "raw op")

    def unguarded(values, weights, scale):
        import tensorflow as tf

        return tf.linalg.matvec(tf.ensure_shape(values, (None, None)), weights) * scale

    raw = make_raw(unguarded)
    with pytest.raises(AssertionError, match="refused by"):
        explore(raw, lambda case: op_fuzz.check_raw_op(raw, case), "raw op")


def test_a_saved_model_that_gives_something_else(tmp_path):
    with running("native"):
        op_saved_model.save(make(WRONG_VALUE), tmp_path)
        op_saved_model.check_saved_model(make(WRONG_VALUE), "", tmp_path)
    fails(lambda: op_saved_model.check_saved_model(make(), "", tmp_path), "Not equal")


def test_a_saved_model_that_ends_its_process(tmp_path):
    # A model that is not there is an error; a process that is gone fails the call that met it.
    process = op_saved_model.ServingProcess()
    name, _ = process.call(tmp_path / "nothing", "call_", {})
    assert name == "OSError"
    process._process.kill()
    with pytest.raises(AssertionError, match="ended its process: exit status -9"):
        process.call(tmp_path, "call_", {})


MODULE = """
import os
import numpy as np
def add(values, num_threads):
    return values + {difference}
"""


@pytest.mark.parametrize(
    ("difference", "match"),
    [
        ("0", None),
        ("num_threads * 1e-3", "threads"),
        ("(os.environ.get('KVISION_ISA') == 'avx2')", "add with avx2"),
    ],
)
def test_kernels_that_differ(tmp_path, difference, match):
    path = tmp_path / "kernels_of_sum.py"
    path.write_text(MODULE.format(difference=difference))
    contract = make(
        kernels=lambda inputs, arguments, gradients: [
            KernelCall("add", {"values": inputs["values"]})
        ],
        kernel_module=str(path),
    )

    def check():
        op_kernels.check_threads(contract)
        op_kernels.check_instruction_sets(contract, tmp_path)

    if match is None:
        with running("native"):
            check()
    else:
        fails(check, match)


def test_kernels_that_are_not_the_ops(tmp_path):
    path = tmp_path / "kernels_of_sum.py"
    path.write_text(MODULE.format(difference="0"))
    contract = make(
        kernels=lambda inputs, arguments, gradients: [
            KernelCall("add", {"values": inputs["values"]}, {0: "sums"})
        ],
        kernel_module=str(path),
    )
    fails(lambda: op_kernels.check_threads(contract), "`sums` of the op")


def test_a_call_that_does_not_end_ends_the_process():
    code = """
import time
from kvision.testing import op_fuzz
op_fuzz._SECONDS = 0.5
with op_fuzz._no_hang():
    time.sleep(60)
"""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr


def test_the_harness_needs_no_pytest_to_be_imported():
    code = """
import sys
sys.modules.update(dict.fromkeys(["pytest", "hypothesis"]))
import kvision.testing
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)
