"""What pyproject.toml cannot say: CMake builds the library; the TensorFlow required varies."""

import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
BUILD_OPS = os.environ.get("KVISION_BUILD_OPS", "1") != "0"
BUILD_TF_OPS = (
    BUILD_OPS
    and os.environ.get("KVISION_TF", "ON") != "OFF"
    and os.environ.get("KVISION_TENSORFLOW") != "none"
)
OPTIONS = ("KVISION_CUDA", "KVISION_CUDA_ARCHITECTURES")


def tensorflow_requirements() -> tuple[list[str], list[str]]:
    """Which TensorFlow to install with kvision, and which to build the library for.

    Two distributions of it in one environment overwrite each other, and the library loads beside
    the very version it was built for: one that is there already is both.
    """
    there = Path(sysconfig.get_path("purelib"))
    name = os.environ.get("KVISION_TENSORFLOW", "")
    if not name:
        installed = any(there.glob("tensorflow-2*.dist-info"))
        on_linux_x86 = sys.platform == "linux" and platform.machine() == "x86_64"
        name = "tensorflow-cpu" if on_linux_x86 and not installed else "tensorflow"
    if name not in ("tensorflow", "tensorflow-cpu", "none"):
        raise ValueError(
            f"KVISION_TENSORFLOW must be tensorflow, tensorflow-cpu or none. Received: {name}"
        )
    if name == "none":
        return [], []
    kept = next(there.glob(f"{name.replace('-', '_')}-2.21.*.dist-info"), None)
    built_for = kept.stem.split("-")[1] if kept else "2.21.*"
    return [f"{name}==2.21.*"], [f"{name}=={built_for}"]


class CMakeBuild(build_ext):
    """Builds the libraries, `_C` and `_tf_ops.so`, by CMake straight into the package."""

    def run(self):
        import ninja

        version = self.distribution.get_version()
        output = Path(self.get_ext_fullpath("kvision._C")).parent.resolve()
        build = Path(os.environ.get("KVISION_BUILD_DIR", self.build_temp)).resolve()
        cmake = [sys.executable, "-m", "cmake"]
        options = [f"-D{name}={os.environ[name]}" for name in OPTIONS if name in os.environ]
        subprocess.run(
            [
                *cmake, "-G", "Ninja", "-S", ROOT, "-B", build, *options,
                f"-DKVISION_TF={'ON' if BUILD_TF_OPS else 'OFF'}",
                f"-DCMAKE_MAKE_PROGRAM={Path(ninja.BIN_DIR) / 'ninja'}",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-DKVISION_OUTPUT_DIRECTORY={output}",
                f"-DKVISION_VERSION={version}",
            ],
            check=True,
        )  # fmt: skip
        subprocess.run([*cmake, "--build", build], check=True)


to_install, to_build = tensorflow_requirements()
setup(
    ext_modules=[Extension("kvision._C", sources=[])] if BUILD_OPS else [],
    cmdclass={"build_ext": CMakeBuild},
    install_requires=["keras>=3.15", "numpy>=1.26", *to_install],
    # XLA's header comes with TensorFlow; without it, with JAX.
    setup_requires=(to_build if BUILD_TF_OPS else ["jaxlib"]) if BUILD_OPS else [],
)
