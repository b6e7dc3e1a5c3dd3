"""Every native op is whole: shapes, gradient, kernels, reference, tests."""

import ast
import itertools
import os
import re
from pathlib import Path

import keras
import pytest

import kvision
from kvision.ops import native

ROOT = Path(__file__).parents[2]
OPS = {
    name: path
    for path in sorted((ROOT / "csrc").rglob("*_tf.cc"))
    for name in re.findall(r'REGISTER_OP\("([^"]+)"\)', path.read_text())
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


def _definition(name):
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(name)
    assert definition, f"{name} is in {OPS[name]}, but not in the library: rebuild it"
    return definition


def _snake(name):
    """`Kvision>RoiAlignGrad` -> `roi_align_grad`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removeprefix("Kvision>")).lower()


def _public_name(name):
    """`Kvision>RoiAlignGrad` -> `roi_align`."""
    return _snake(name).removesuffix("_grad")


def test_there_are_ops():
    assert OPS
    assert all(name.startswith("Kvision>") for name in OPS)


@pytest.mark.parametrize("name", OPS)
def test_it_stands_in_the_folder_of_its_name(name):
    assert OPS[name].parent.name == _public_name(name)
    assert OPS[name].name == f"{_public_name(name)}_tf.cc"


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
    assert _public_name(name) in kvision.ops.__all__
    assert (ROOT / "kvision" / "ops" / f"{_public_name(name)}.py").exists()
    tests = ROOT / "tests" / "ops" / f"test_{_public_name(name)}.py"
    assert _runs_both_implementations(tests.read_text())


@pytest.mark.parametrize("name", OPS)
def test_it_has_a_gradient_or_a_named_refusal(name):
    from tensorflow.python.framework import ops as tf_framework

    assert name in native._gradients
    assert tf_framework.gradient_registry.lookup(name) is native._gradients[name]


def _kernels(name):
    from tensorflow.python.framework import kernels

    found = {}
    for kernel in kernels.get_registered_kernels_for_op(name).kernel:
        types = {c.name: set(c.allowed_values.list.type) for c in kernel.constraint}
        found.setdefault(kernel.device_type, []).append(types)
    return found


@pytest.mark.parametrize("name", OPS)
def test_it_has_a_kernel_for_every_type_it_declares(name):
    kernels = _kernels(name)
    devices = {"CPU", "GPU"} if native.build_info()["cuda"] else {"CPU"}
    assert set(kernels) == devices
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
        function = getattr(native.tf_ops(), f"kvision_{_snake(name)}")
        outputs = tf.nest.flatten(function(**arguments))
    assert outputs
    assert None not in [output.shape.rank for output in outputs]
