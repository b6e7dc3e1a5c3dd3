"""Part `sanitize`: small calls of every op under compute-sanitizer, one process a tool.

First the tool has to find a write out of bounds that was planted; some machines refuse it. As a
program, `python -m tools.gpu_check.sanitize` makes the calls, which are compared with nothing.
"""

import shutil
import subprocess

from tools.gpu_check import steps
from tools.gpu_check.build import gpu_architecture
from tools.gpu_check.steps import OUT, Step, python

TOOLS = ("memcheck", "racecheck", "initcheck")
# The word `kvision` is in its name, as in those of the ops' kernels.
PLANTED = """
#include <cstdio>
#include <cstdlib>
__global__ void kvision_planted(int* to, int size) { to[blockIdx.x * size + threadIdx.x] = 1; }
int main(int argc, char** argv) {
  const int beyond = std::atoi(argv[1]);
  int* to = nullptr;
  if (cudaMalloc(&to, 32 * sizeof(int)) != cudaSuccess) return 2;
  kvision_planted<<<1, 32 + beyond>>>(to, 32);
  const cudaError_t error = cudaDeviceSynchronize();
  if (error != cudaSuccess) std::puts(cudaGetErrorString(error));
  return error == cudaSuccess ? 0 : 3;
}
"""
FOUND = 9  # the exit status with which the tool says that it found something


def run(machine):
    """Runs every tool, unless the machine has none or refuses it, which is said."""
    program = shutil.which("compute-sanitizer")
    if machine.device == "cpu" or program is None:
        print("sanitize: compute-sanitizer is not available here")
        return True
    common = [program, "--error-exitcode", str(FOUND)]
    filtering = _usable(common)
    if filtering is None:
        return True
    # Each tensor is to be an allocation of its own.
    environment = {"KERAS_BACKEND": "torch", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    watched = [
        Step(
            tool,
            [*common, *filtering, "--tool", tool, *python("sanitize")],
            environment,
            limit=300,
        )
        for tool in TOOLS
    ]
    return steps.run(watched, machine.device)


def _usable(common):
    """The options that keep the tool to our kernels, or `None` where it cannot be used."""
    source, planted = OUT / "planted.cu", OUT / "planted"
    source.write_text(PLANTED)
    compiler = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    compiled = subprocess.run(
        [compiler, f"-arch=sm_{gpu_architecture()}", "-o", planted, source],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if compiled.returncode:
        print(f"sanitize: nvcc failed: {compiled.stderr[-500:]}")
        return None
    text = ""
    for filtering in (["--kernel-regex", "kns=kvision"], ["--kernel-name", "kns=kvision"], []):
        status = []
        for beyond in ("0", "900"):  # within bounds, and beyond
            done = subprocess.run(
                [*common, *filtering, planted, beyond],
                capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            status.append(done.returncode)
            text = (done.stdout + done.stderr)[-600:]
        if status == [0, FOUND]:
            print(f"sanitize: finds what was planted {' '.join(filtering)}", flush=True)
            return filtering
    print(f"sanitize: compute-sanitizer is not available here: {text}")
    return None


def main():
    """Makes every small call once on the GPU, forward and backward."""
    from tools.gpu_check.calls import all_calls
    from tools.gpu_check.doors import Torch

    door, number = Torch(), 0
    for call in all_calls(small=True):
        door.run(call, "cuda")
        number += 1
    print(f"{number} calls")


if __name__ == "__main__":
    main()
