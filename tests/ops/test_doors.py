"""Every backend that can be had reaches the native kernels, whichever the tests run on."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import keras, numpy, kvision
from kvision.ops import native
boxes = numpy.array([[[0, 0, 2, 2], [1, 0, 3, 2], [4, 4, 6, 6]]], "float32")
with native.implementation("native"):
    overlaps = kvision.ops.pairwise_iou(boxes, boxes, kind="giou")
wanted = native.module().pairwise_iou(boxes, boxes, kind="giou")
print(keras.backend.backend(), (keras.ops.convert_to_numpy(overlaps) == wanted).all())
"""


@pytest.mark.parametrize("backend", ["numpy", "tensorflow", "jax", "torch"])
def test_a_backend_runs_the_kernels(backend):
    package = "jax" if backend == "numpy" else backend  # Keras' own needs JAX for both
    python = sys.executable
    if importlib.util.find_spec(package) is None:
        python = ROOT / "build" / "backends" / package / "bin" / "python"
        if not python.exists():
            pytest.skip(f"{package} is not installed, nor is there {python}")
    if (
        importlib.util.find_spec("kvision._C") is None
        and os.environ.get("KVISION_REQUIRE_OPS") != "1"
    ):
        pytest.skip("there is no native library")
    done = subprocess.run(
        [python, "-c", CODE],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [backend, "True"], done.stderr
