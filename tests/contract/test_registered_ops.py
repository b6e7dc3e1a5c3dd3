"""Every native op is whole: shapes, gradient, kernels, reference, tests."""

import ast
import itertools
import os
import re
import sys
from pathlib import Path

import keras
import pytest

import kvision
from kvision.ops import native

ROOT = Path(__file__).parents[2]
# Name of an op -> where it is described; a RegisteredOp has the name of its op.
OPS = {
    name: path
    for path in sorted((ROOT / "csrc" / "ops").rglob("*.cc"))
    for name in re.findall(r"^const RegisteredOp (\w+)\(", path.read_text(), re.MULTILINE)
}

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="native ops run on the TensorFlow backend"
)


@pytest.fixture(autouse=True, scope="module")
def _library():
    try:
        native.load_ops()
    except RuntimeError as error:
        if os.environ.get("KVISION_REQUIRE_OPS") == "1":
            raise
        pytest.skip(str(error))


def _tensorflow_name(name):
    """`roi_align_gradient` -> `Kvision>RoiAlignGradient`."""
    return "Kvision>" + name.title().replace("_", "")


def _definition(name):
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(_tensorflow_name(name))
    assert definition, f"{name} is in {OPS[name]}, but not in the library: rebuild it"
    return definition


def _public_name(name):
    """The function that runs an op, `roi_align` of `roi_align_gradient`, or that of its folder."""
    function = name.removesuffix("_gradient").removesuffix("_kernel")
    return function if function in kvision.ops.NATIVE else OPS[name].parent.name


def test_the_library_has_every_op_once():
    assert OPS
    assert sorted(op["name"] for op in native.module().ops()) == sorted(OPS)


@pytest.mark.parametrize("name", OPS)
def test_it_stands_in_the_one_file_of_its_folder(name):
    assert OPS[name].name == f"{OPS[name].parent.name}_op.cc"


def _runs_both_implementations(tests):
    """Whether tests have a table for the harness, or take the fixture `implementation` of both."""
    if re.search(r"^class \w+\(OpTests\):\n    contract = OpContract\(", tests, re.MULTILINE):
        return True
    conftest = (ROOT / "tests" / "ops" / "conftest.py").read_text()
    fixture = re.compile(r"@pytest\.fixture\(params=(\[[^]]*\])\)\ndef implementation\(")
    params = fixture.search(tests) or fixture.search(conftest)
    return set(ast.literal_eval(params[1])) == {"native", "reference"} and bool(
        re.search(r"^def test_\w+\((\w+, )*implementation\b", tests, re.MULTILINE)
    )


def test_tests_of_one_implementation_do_not_do():
    assert _runs_both_implementations("class TestA(OpTests):\n    contract = OpContract(\n")
    assert not _runs_both_implementations("class TestA(OpTests):\n    pass\n")
    assert _runs_both_implementations("def test_a(implementation):\n    ...")
    assert not _runs_both_implementations("def test_a():\n    ...")
    one = '@pytest.fixture(params=["native"])\ndef implementation(request):\n    ...\n'
    assert not _runs_both_implementations(one + "def test_a(implementation):\n    ...")


@pytest.mark.parametrize("name", OPS)
def test_it_has_a_reference_and_tests(name):
    folder = OPS[name].parent.name
    assert _public_name(name) in kvision.ops.NATIVE
    assert getattr(kvision.ops, _public_name(name)).__module__ == f"kvision.ops.{folder}"
    tests = ROOT / "tests" / "ops" / f"test_{folder}.py"
    assert _runs_both_implementations(tests.read_text())


def test_what_is_called_native_runs_an_op():
    for name in kvision.ops.NATIVE:
        function = getattr(kvision.ops, name)
        module = sys.modules[function.__module__]
        assert re.search(r"\bnative\.call\(|\balign_levels\(", Path(module.__file__).read_text())


@pytest.mark.parametrize("name", OPS)
def test_it_has_a_gradient_or_says_that_it_has_none(name):
    from tensorflow.python.framework import ops as tf_framework

    registered = tf_framework.gradient_registry.lookup(_tensorflow_name(name))
    assert (registered is None) == (native.gradient_of(name) is None)
    if native.gradient_of(name) is not None:
        described = native.description(name)
        tensors = {rule["name"] for rule in (*described["inputs"], *described["outputs"])}
        assert tensors.issuperset(native.gradient_of(name).keeps)


@pytest.fixture(scope="module")
def _compiled():
    """XLA's kernels are registered when something is compiled."""
    import tensorflow as tf

    tf.function(lambda x: -x, jit_compile=True)(tf.constant(1.0))


def _kernels(name):
    from tensorflow.python.framework import kernels

    found = {}
    for kernel in kernels.get_registered_kernels_for_op(_tensorflow_name(name)).kernel:
        types = {c.name: set(c.allowed_values.list.type) for c in kernel.constraint}
        found.setdefault(kernel.device_type, []).append(types)
    return found


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("name", OPS)
def test_it_has_a_kernel_for_every_type_it_declares(name):
    kernels = _kernels(name)
    devices = {"CPU", "XLA_CPU_JIT"} | ({"GPU"} if native.build_info()["cuda"] else set())
    # Of a TensorFlow for GPUs that for them too, whether or not there is one.
    assert set(kernels) - {"XLA_GPU_JIT"} == devices
    declared = {
        attribute.name: attribute.allowed_values.list.type
        for attribute in _definition(name).attr
        if attribute.type == "type"
    }
    for device, (attribute, types) in itertools.product(devices, declared.items()):
        served = [kernel.get(attribute) for kernel in kernels[device]]
        for dtype in types:
            assert any(one is None or dtype in one for one in served), (device, attribute, dtype)


def _smallest(attribute):
    """The smallest legal value of an attribute."""
    if attribute.type == "int":
        return max(attribute.minimum, 1)
    if attribute.type == "float":
        return 0.5
    assert attribute.type == "type", f"give {attribute.type} attributes a value here"
    return attribute.allowed_values.list.type[-1]


@pytest.mark.parametrize("name", OPS)
def test_its_shape_function_knows_the_ranks_when_no_shape_is_known(name):
    import tensorflow as tf

    definition = _definition(name)
    values = {a.name: _smallest(a) for a in definition.attr if not a.HasField("default_value")}
    inferred = set()
    with tf.Graph().as_default():
        for argument in definition.input_arg:
            dtype = tf.as_dtype(argument.type or values[argument.type_attr])
            value = tf.compat.v1.placeholder(dtype)
            values[argument.name] = [value] if argument.number_attr else value
            inferred |= {argument.type_attr, argument.number_attr}
        arguments = {key: value for key, value in values.items() if key not in inferred}
        function = getattr(native.tf_ops(), f"kvision_{name}")
        outputs = tf.nest.flatten(function(**arguments))
    assert outputs
    assert None not in [output.shape.rank for output in outputs]
