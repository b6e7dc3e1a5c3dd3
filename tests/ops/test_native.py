"""The native library is loaded, or its absence explained."""

import importlib.machinery
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import pytest

import kvision
from kvision.ops import library, native
from kvision.ops.doors import tensorflow as tensorflow_door

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="native ops run on the TensorFlow backend"
)


@pytest.fixture
def unloaded(monkeypatch):
    """The module as it is before anything wanted the library."""
    monkeypatch.setattr(tensorflow_door, "_loaded", None)
    monkeypatch.setattr(native, "_warned", False)
    monkeypatch.delenv("KVISION_REQUIRE_OPS", raising=False)
    monkeypatch.delenv("KVISION_IMPLEMENTATION", raising=False)
    return monkeypatch


@pytest.fixture
def no_library(unloaded, tmp_path):
    def module():
        raise ImportError("no module")

    unloaded.setattr(library, "_FOLDER", tmp_path)
    unloaded.setattr(library, "module", module)


@pytest.fixture
def other_tensorflow(unloaded, tmp_path):
    (tmp_path / "_tf_ops.so").write_bytes(b"")
    unloaded.setattr(library, "_FOLDER", tmp_path)
    unloaded.setattr(library, "build_info", lambda: {"tensorflow": "1.15.0"})


@on_tensorflow
@pytest.mark.usefixtures("no_library")
def test_a_missing_library_warns_once_and_the_reference_runs():
    with pytest.warns(RuntimeWarning, match="no native library") as warned:
        assert not native.use_native()
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not native.use_native()
        kept = kvision.ops.nms([[0.0, 0.0, 2.0, 2.0]], [0.5], iou_threshold=0.5)
    assert keras.ops.convert_to_numpy(kept).tolist() == [0]


@on_tensorflow
@pytest.mark.usefixtures("no_library")
def test_a_required_library_that_is_missing_is_an_error(monkeypatch):
    monkeypatch.setenv("KVISION_REQUIRE_OPS", "1")
    with pytest.raises(RuntimeError, match="no native library"):
        native.use_native()


@on_tensorflow
@pytest.mark.usefixtures("no_library")
def test_the_native_scope_does_not_fall_back():
    with native.implementation("native"), pytest.raises(RuntimeError, match="no native library"):
        native.use_native()


@on_tensorflow
@pytest.mark.usefixtures("no_library")
def test_load_ops_says_why_it_cannot():
    with pytest.raises(RuntimeError, match="no native library"):
        kvision.load_ops()


@pytest.fixture
def copied_package(tmp_path):
    """A copy of the Python files alone, whose native files a test may spoil."""
    root = Path(__file__).parents[2] / "kvision"
    package = tmp_path / "kvision"
    shutil.copytree(root, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return package


# What is printed is what is wrong with a copy of the package.
_LOAD_COPY = """
import sys
sys.path.insert(0, {folder!r})
# The finder of an editable installation would find the module that the copy lacks.
sys.meta_path[:] = [finder for finder in sys.meta_path if "Editable" not in repr(finder)]
import kvision
try: kvision.load_ops()
except RuntimeError as error: print(error)
"""


@on_tensorflow
@pytest.mark.parametrize(
    ("suffix", "problem"),
    [
        (importlib.machinery.EXTENSION_SUFFIXES[0], "file too short"),
        (".cpython-30-x86_64-linux-gnu.so", "cannot import name '_C'"),
    ],
)
def test_a_module_that_python_cannot_import_is_explained(copied_package, suffix, problem):
    module = copied_package / f"_C{suffix}"
    module.write_bytes(b"")
    (copied_package / "_tf_ops.so").write_bytes(b"")
    message = _run(_LOAD_COPY.format(folder=str(copied_package.parent)))
    assert str(module) in message
    assert problem in message
    assert platform.python_version() in message


@on_tensorflow
@pytest.mark.usefixtures("other_tensorflow")
def test_another_tensorflow_is_refused_with_both_versions_and_the_remedy():
    import tensorflow as tf

    with pytest.raises(RuntimeError) as refused:
        kvision.load_ops()
    message = str(refused.value)
    assert "built for TensorFlow 1.15.0" in message
    assert f"TensorFlow {tf.__version__} is installed" in message
    assert "reinstall kvision" in message
    with pytest.warns(RuntimeWarning, match=r"1\.15\.0"):
        assert not native.use_native()


@on_tensorflow
@pytest.mark.parametrize("damaged", ["_tf_ops.so", "_xla_ops.so"])
def test_a_damaged_library_is_explained(copied_package, damaged):
    for file in native.library_path().parent.glob("_*.so"):
        if file.name == damaged:
            (copied_package / damaged).write_bytes(b"not a library")
        else:
            (copied_package / file.name).symlink_to(file)
    message = _run(_LOAD_COPY.format(folder=str(copied_package.parent)))
    assert f"could not load {copied_package / damaged}" in message


@on_tensorflow
def test_a_module_built_without_tensorflow_is_explained(unloaded):
    unloaded.setattr(library, "build_info", lambda: {"tensorflow": ""})
    unloaded.setattr(library, "library_path", lambda: Path("/nowhere/_tf_ops.so"))
    with pytest.raises(RuntimeError, match="it was built without TensorFlow; reinstall kvision"):
        kvision.load_ops()


@pytest.mark.usefixtures("no_library")
def test_the_reference_scope_wants_no_library():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with native.implementation("reference"):
            assert not native.use_native()


def test_scopes_nest_and_end():
    before = native._current_scope()
    with native.implementation("reference"):
        with native.implementation("auto"):
            assert native._current_scope() == "auto"
        assert native._current_scope() == "reference"
    assert native._current_scope() == before


def test_an_unknown_implementation_is_refused():
    with (
        pytest.raises(ValueError, match=r"implementation: `name` must be one of .*'fast'"),
        native.implementation("fast"),
    ):
        pass


@on_tensorflow
@pytest.mark.usefixtures("no_library")
def test_show_versions_explains_a_missing_library(capsys):
    kvision.show_versions()
    printed = capsys.readouterr().out
    for needed in (kvision.__version__, keras.__version__, "TensorFlow", "no native library"):
        assert needed in printed


@on_tensorflow
def test_loading_inside_a_traced_function_is_silent():
    code = """
import tensorflow as tf, kvision
kvision.ops.native.implementation("native").__enter__()
tf.function(kvision.ops.nms)([[0.0, 0.0, 1.0, 1.0]], [0.5], iou_threshold=0.5)
"""
    assert "WARNING:tensorflow" not in _run(code, errors=True)


@on_tensorflow
def test_replicas_of_a_strategy_follow_the_scope():
    code = """
import tensorflow as tf
from kvision.ops import library, native
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
def replica():
    print(native.use_native(), end=" ")
with native.implementation("reference"):
    strategy.run(tf.function(replica))
print(native.use_native())
"""
    assert _run(code).split() == ["False", "False", "True"]


def test_a_thread_follows_its_own_scope_first():
    with native.implementation("auto"), ThreadPoolExecutor(1) as pool:

        def scopes():
            before = native._current_scope()
            with native.implementation("reference"):
                opened.set()
                done.wait(10)
                return before, native._current_scope()

        opened, done = threading.Event(), threading.Event()
        future = pool.submit(scopes)
        assert opened.wait(10)
        assert native._current_scope() == "auto"
        with native.implementation("native"):
            done.set()
            assert future.result() == ("auto", "reference")


@pytest.mark.parametrize("name", kvision.ops.NATIVE)
def test_every_function_says_which_implementation_it_runs(implementation, name):
    assert kvision.ops.implementation_of(name) == implementation


def test_a_function_without_a_native_kernel_has_no_implementation_to_tell():
    with pytest.raises(ValueError, match="implementation_of: `name` must be one of .*'match'"):
        kvision.ops.implementation_of("match")


@pytest.fixture
def no_scope():
    """Outside any scope: the environment decides. A test that left one open is at fault."""
    assert not native._open_scopes


@pytest.mark.usefixtures("no_scope")
def test_the_environment_chooses(unloaded):
    unloaded.setenv("KVISION_IMPLEMENTATION", "reference")
    assert kvision.ops.implementation_of("nms") == "reference"
    with native.implementation("auto"):  # which it does not decide
        assert native._current_scope() == "auto"
    unloaded.setenv("KVISION_IMPLEMENTATION", "fast")
    with pytest.raises(ValueError, match="KVISION_IMPLEMENTATION must be one of .*'fast'"):
        native.use_native()


@on_tensorflow
@pytest.mark.usefixtures("no_scope", "no_library")
def test_the_environment_can_demand_native_kernels(unloaded):
    unloaded.setenv("KVISION_IMPLEMENTATION", "native")
    with pytest.raises(RuntimeError, match="no native library"):
        kvision.ops.implementation_of("nms")


@on_tensorflow
def test_what_xla_compiles_is_known_while_it_is_traced():
    import tensorflow as tf

    traced = []

    def inner():
        traced.append(native.traced_for_xla())
        return tf.constant(0)

    def outer():
        return tf.function(inner)()

    inner()
    tf.function(inner)()
    tf.function(inner, jit_compile=True)()
    tf.function(outer, jit_compile=True)()
    assert traced == [False, False, True, True]


@on_tensorflow
@pytest.mark.parametrize(
    "before",
    ["", "kvision.load_ops()", "tf.constant(1.0) + 1", "tf.function(abs, jit_compile=True)(1.0)"],
    ids=["nothing", "the library", "an op", "a compilation"],
)
def test_xla_calls_the_kernels_whatever_came_first(before):
    """TensorFlow takes notice of what is registered for XLA once."""
    code = f"""
import tensorflow as tf, kvision
{before}
kept = lambda *tensors: kvision.ops.nms(*tensors, iou_threshold=0.5, max_output_size=3)
kept = tf.function(kept, jit_compile=True, autograph=False)
boxes, scores = tf.constant([[0.0, 0.0, 1.0, 1.0]] * 2), tf.constant([0.5, 0.9])
print(kept(boxes, scores).numpy().tolist())
print(kept.experimental_get_compiler_ir(boxes, scores)(stage="optimized_hlo"))
"""
    result, program = _run(code).split("\n", 1)
    assert result == "[1, -1, -1]"
    assert 'custom_call_target="kvision_nms"' in program


def _run(code: str, *, errors: bool = False, **environment: str) -> str:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr if errors else done.stdout


# What `sys.modules` holds as None is not to be found, neither by an import nor by `find_spec`.
_BLOCK = """
import sys
sys.modules.update(dict.fromkeys({blocked!r}))
"""
_OPTIONAL = {"PIL", "faster_coco_eval", "matplotlib", "pycocotools", "sklearn", "torch"}


def test_import_pulls_in_nothing_heavy():
    code = """
import sys, keras
before = set(sys.modules)
import kvision
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""
    added = set(_run(code).split())
    assert not added & {*_OPTIONAL, "scipy", "pandas", "jax"}
    assert "kvision" in added


def test_import_loads_no_native_library():
    maps = "import kvision; print(open('/proc/self/maps').read())"
    assert "kvision/_" not in _run(maps)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_import_without_tensorflow_and_optional_packages(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    code = (
        _BLOCK.format(blocked={"tensorflow", *_OPTIONAL - {backend}})
        + """
import keras, kvision, numpy
boxes = numpy.array([[0, 0, 2, 2], [0, 0, 2, 2], [4, 4, 6, 6]], "float32")
kept = kvision.ops.nms(boxes, numpy.array([0.5, 0.9, 0.7], "float32"), iou_threshold=0.5)
print(keras.ops.convert_to_numpy(kept).tolist(), kvision.ops.native.use_native())
"""
    )
    info = native.build_info()
    built = bool(info and (backend == "torch" or info["xla_ffi"]))
    assert _run(code, KERAS_BACKEND=backend).split("\n")[0] == f"[1, 2] {built}"


@on_tensorflow
def test_no_module_imports_tensorflow_by_itself():
    # Keras has its TensorFlow already; for everything imported after it there is none.
    block = _BLOCK.format(blocked={"tensorflow", *_OPTIONAL})
    code = f"""
import keras
{block}
import kvision
print(kvision.ops.native.use_native())
"""
    assert _run(code, KVISION_REQUIRE_OPS="0") == "False\n"
