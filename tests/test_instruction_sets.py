"""The native library runs on every x86-64: newer instructions only where they are asked for."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FUNCTION = re.compile(r"^[0-9a-f]+ <(\S+)>:$")
# Instructions of AVX and later begin with v, those on mask registers with k.
NEWER = re.compile(r"^\s+[0-9a-f]+:\s+(?:\{\w+\} )?(?:v(?!er[rw]\b)|k)[a-z0-9]+\b")

# Loads the module by its path, and prints what its ops give.
RUN_OPS = """
import hashlib, importlib.util, sys
import numpy as np
spec = importlib.util.spec_from_file_location("_C", sys.argv[1])
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
random = np.random.default_rng(0)
boxes = np.sort(random.uniform(0, 30, (2, 90, 2, 2)), axis=2).reshape(2, 90, 4)
scores = random.uniform(size=(2, 90, 3)).astype("float32")
levels = np.zeros((2, 90), "int32")
results = [*native.nms(boxes[0], scores[0, :, 0], iou_threshold=0.5)]
results += native.batched_nms(
    boxes[:, :, None], scores, iou_threshold=0.5, max_output_size=50, max_output_size_per_class=50
)
for dtype in ("float32", "float64"):
    features = random.normal(size=(2, 30, 31, 37)).astype(dtype)
    corners = boxes.astype(dtype)
    given = {"boxes": corners, "levels": levels, "spatial_scales": [1.0]}
    pooled = native.roi_align([features], **given, output_height=7, output_width=7)
    results += [pooled]
    results += native.roi_align_gradient(pooled, **given, feature_shapes=[features.shape])
print(len(results), hashlib.sha256(b"".join(np.asarray(r).tobytes() for r in results)).hexdigest())
"""


def functions_with_newer_instructions(library):
    """Returns the mangled names of the functions in an object or archive that need AVX or more."""
    listing = subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", library],
        capture_output=True,
        text=True,
        check=True,
    )
    found, name = set(), None
    for line in listing.stdout.splitlines():
        if function := FUNCTION.match(line):
            name = function[1]
        elif NEWER.match(line):
            found.add(name)
    return found


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("objdump"), reason="needs x86-64 and objdump"
)
def test_newer_instructions_stay_in_the_namespaces_of_their_sets():
    """Of functions with one name the linker keeps any: a shared one must run everywhere."""
    libraries = list(ROOT.glob("build/*/libkvision_kernels.a"))
    if not libraries:
        pytest.skip("the native library was not built here")
    names = functions_with_newer_instructions(max(libraries, key=lambda path: path.stat().st_mtime))
    assert any("4avx2" in name for name in names)
    assert any("6avx512" in name for name in names)
    assert [name for name in names if "4avx2" not in name and "6avx512" not in name] == []


@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="needs qemu-x86_64 (qemu-user)")
def test_the_module_runs_on_a_processor_without_avx():
    module = next((ROOT / "kvision").glob("_C.*.so"), None)
    if module is None:
        pytest.skip("the native library was not built here")

    def run(*emulator):
        done = subprocess.run(
            [*emulator, sys.executable, "-c", RUN_OPS, module],
            env={**os.environ, "KVISION_ISA": "baseline", "OPENBLAS_CORETYPE": "Nehalem"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("qemu-x86_64", "-cpu", "Nehalem") == run()
