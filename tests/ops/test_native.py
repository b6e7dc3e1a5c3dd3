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
from kvision.ops import native

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="native ops run on the TensorFlow backend"
)


@pytest.fixture
def unloaded(monkeypatch):
    """The module as it is before anything wanted the library."""
    monkeypatch.setattr(native, "_loaded", None)
    monkeypatch.setattr(native, "_warned", False)
    monkeypatch.delenv("KVISION_REQUIRE_OPS", raising=False)
    return monkeypatch


@pytest.fixture
def no_library(unloaded, tmp_path):
    unloaded.setattr(native, "_LIBRARY", tmp_path / "_tf_ops.so")


@pytest.fixture
def other_tensorflow(unloaded, tmp_path):
    library = tmp_path / "_tf_ops.so"
    library.write_bytes(b"")
    unloaded.setattr(native, "_LIBRARY", library)
    unloaded.setattr(native, "build_info", lambda: {"tensorflow": "1.15.0"})


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
    code = f"""
import sys
sys.path.insert(0, {str(copied_package.parent)!r})
# The finder of an editable installation would find the module that the copy lacks.
sys.meta_path[:] = [finder for finder in sys.meta_path if "Editable" not in repr(finder)]
import kvision
try: kvision.load_ops()
except RuntimeError as error: print(error)
"""
    message = _run(code)
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
def test_a_damaged_library_is_explained(unloaded, tmp_path):
    import tensorflow as tf

    library = tmp_path / "_tf_ops.so"
    library.write_bytes(b"not a library")
    unloaded.setattr(native, "_LIBRARY", library)
    unloaded.setattr(native, "build_info", lambda: {"tensorflow": tf.__version__})
    with pytest.raises(RuntimeError, match=f"could not load {library}"):
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
from kvision.ops import native
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


@on_tensorflow
def test_what_xla_compiles_runs_through_the_reference():
    import tensorflow as tf

    chosen = []

    def inner():
        chosen.append(native.use_native())
        return tf.constant(0)

    def outer():
        return tf.function(inner)()

    tf.function(inner)()
    tf.function(inner, jit_compile=True)()
    tf.function(outer, jit_compile=True)()
    assert chosen == [True, False, False]
    with native.implementation("native"), pytest.raises(RuntimeError, match="no XLA kernels"):
        tf.function(native.use_native, jit_compile=True)()


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
    assert _run(code, KERAS_BACKEND=backend).split("\n")[0] == "[1, 2] False"


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
