"""Part `sanitize`: small calls of every op under compute-sanitizer, one process a tool.

First the tool has to find a write out of bounds that was planted; some machines refuse it. As a
program, `python -m tools.gpu_check.sanitize` makes the calls, which are compared with nothing.
"""

import shutil
import subprocess

from tools.gpu_check import steps
from tools.gpu_check.build import gpu_architecture
from tools.gpu_check.steps import Step, python

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
    program = shutil.which("compute-sanitizer", path=steps.PATH)
    if machine.device == "cpu" or program is None:
        print("sanitize: compute-sanitizer is not available here")
        return True
    command = [program, "--error-exitcode", str(FOUND)]
    planted = _planted()
    if planted is None:
        return False
    if not _finds(command, planted):
        print("sanitize: compute-sanitizer is not available here")
        return True
    # Races take long to look for, and only those of our own kernels are ours to mend. What other
    # kernels write has to be followed, though, or it would pass for memory that nobody has written.
    filters = ["--kernel-regex", "kns=kvision"], ["--kernel-name", "kns=kvision"]
    ours = next((f for f in filters if _finds([*command, *f], planted)), [])
    # Each tensor is to be an allocation of its own.
    environment = {"KERAS_BACKEND": "torch", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    watched = [
        Step(
            tool,
            [*command, *(ours if tool == "racecheck" else []), "--tool", tool, *python("sanitize")],
            environment,
            limit=300,
        )
        for tool in TOOLS
    ]
    return steps.run(watched, machine.device)


def _planted():
    """The program that writes out of bounds, or `None` where it cannot be compiled."""
    source, program = steps.OUT / "planted.cu", steps.OUT / "planted"
    source.write_text(PLANTED)
    command = ["nvcc", f"-arch=sm_{gpu_architecture()}", "-o", program, source]
    return program if steps.run([Step("planted", command)], "cuda") else None


def _finds(command, planted):
    """Whether the tool finds what is planted, and nothing where there is nothing."""
    status, text = [], ""
    for beyond in ("0", "900"):  # the end
        try:
            done = subprocess.run(
                [*command, planted, beyond], capture_output=True, text=True, timeout=60, check=False
            )
            status.append(done.returncode)
            text += done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            text += str(error)
    words = " ".join(str(word) for word in command[1:])
    if status == [0, FOUND]:
        print(f"sanitize: with {words} it finds what is planted", flush=True)
        return True
    print(f"sanitize: with {words} it does not find what is planted: {status} {text[-600:]}")
    return False


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
