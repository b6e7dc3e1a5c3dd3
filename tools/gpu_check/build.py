"""Part `build`: installs what Python lacks from wheels, and builds the kernels for this GPU.

Nothing is done that was done already: a stamp beside the library tells of which sources, for which
Python and for which GPU it is. Libraries of another machine are built again.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tools.gpu_check import steps
from tools.gpu_check.steps import OUT, ROOT, SITE, Step

NEEDED = {"keras": "keras", "optree": "optree", "namex": "namex"}
# Without it there is no AP.
OPTIONAL = {"faster_coco_eval": "faster-coco-eval"}
MODULE = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"


def run(machine):
    """Installs and builds; returns whether everything is there."""
    if not (_install(machine) and _build(machine)):
        return False
    # The package is used from its source tree.
    built, placed = OUT / MODULE, ROOT / "kvision" / MODULE
    if not placed.exists() or placed.read_bytes() != built.read_bytes():
        placed.unlink(missing_ok=True)  # a process may have it open
        shutil.copy2(built, placed)
    return True


def gpu_architecture():
    """The compute capability of the first GPU, such as `"90"`."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return found.stdout.split()[0].replace(".", "")
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "90"


def _install(machine):
    missing = {
        module: package
        for module, package in (NEEDED | OPTIONAL).items()
        if not _importable(module)
    }
    wheels = Path(ROOT, machine.wheels)
    there = {path.name.split("-")[0].replace("_", "-").lower() for path in wheels.glob("*.whl")}
    lacking = [p for m, p in missing.items() if p not in there and m in NEEDED]
    if lacking:
        print(
            f"build: {wheels} has no wheel of {', '.join(lacking)}; docs/gpu.md says what it needs"
        )
        return False
    packages = [package for package in missing.values() if package in there]
    if not packages:
        return True
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
        "--no-compile", "--no-cache-dir", "--upgrade", "--target", SITE, "--find-links", wheels,
        *packages,
    ]  # fmt: skip
    return steps.run([Step("install", command)], machine.device)


def _importable(module):
    return (SITE / module).is_dir() or importlib.util.find_spec(module) is not None


def _build(machine):
    options = {
        "KVISION_TF": "OFF",
        "KVISION_CUDA": "ON" if machine.device == "cuda" else "OFF",
        "KVISION_CUDA_ARCHITECTURES": f"{gpu_architecture()}-real",
    }
    stamp = OUT / "stamp.json"
    about = {"module": MODULE, "jaxlib": _version("jaxlib"), "sources": _sources()}
    wanted = json.dumps({**options, **about})
    if stamp.exists() and stamp.read_text() == wanted and (OUT / MODULE).exists() and _loads():
        return True
    OUT.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    objects = ROOT / "build" / "gpu-objects"  # large, and nobody's business later
    ninja = shutil.which("ninja", path=steps.PATH)
    configure = [
        *_cmake(), "--fresh", "-G", "Ninja", "-S", ROOT, "-B", objects,
        *([f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []),
        f"-DPython_EXECUTABLE={sys.executable}", f"-DKVISION_OUTPUT_DIRECTORY={OUT}",
        *(f"-D{name}={value}" for name, value in options.items()),
    ]  # fmt: skip
    for step in (Step("configure", configure), Step("compile", [*_cmake(), "--build", objects])):
        if not steps.run([step], machine.device):
            return False
    if not _loads():
        return False
    stamp.write_text(wanted)
    return True


def _cmake():
    if importlib.util.find_spec("cmake"):
        return [sys.executable, "-m", "cmake"]
    return ["cmake"]


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _sources():
    """A digest of everything that the library is made of."""
    digest = hashlib.sha256()
    for path in sorted([ROOT / "CMakeLists.txt", *(ROOT / "csrc").rglob("*.*")]):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def _loads():
    """Whether this Python, on this machine, can load what was built."""
    code = (
        "import importlib.util as u, sys; s = u.spec_from_file_location('_C', sys.argv[1]); "
        "m = u.module_from_spec(s); s.loader.exec_module(m); print(m.build_info())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, OUT / MODULE], capture_output=True, text=True, check=False
    )
    print(f"build: {MODULE}: {(done.stdout + done.stderr[-500:]).strip()}", flush=True)
    return done.returncode == 0
