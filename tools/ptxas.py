"""Registers and spills of every CUDA kernel, as ptxas tells them: `make ptxas`.

Fails if a kernel keeps any register in memory. Says so and does nothing where nvcc is missing.
"""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
ARCHITECTURES = ("sm_80", "sm_90")
KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<architecture>\w+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def kernels_of(nvcc, source):
    """Compiles a source for every architecture; returns what ptxas says of its kernels."""
    codes = [f"-gencode=arch=compute_{a[3:]},code={a}" for a in ARCHITECTURES]
    done = subprocess.run(
        [nvcc, "-std=c++17", "-O3", "-DNDEBUG", f"-I{ROOT / 'csrc'}", *codes, "-Xptxas=-v"]
        + ["-c", source, "-o", os.devnull],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return [kernel.groupdict() for kernel in KERNEL.finditer(done.stderr)]


def short_name(mangled):
    """`ForwardKernel<float, 4>` for the symbol of it."""
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    return re.sub(r"\(anonymous namespace\)::|\w+::|^void |\(.*$", "", name.strip())


def main():
    """Prints a line a kernel and architecture, CUB's kernels only if they spill."""
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if not nvcc:
        print("No nvcc, so the CUDA kernels were not compiled: nothing is known of their spills.")
        return
    sources = sorted(ROOT.glob("csrc/**/*.cu"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda source: kernels_of(nvcc, source), sources))
    spills = 0
    for source, kernels in zip(sources, found, strict=True):
        for kernel in kernels:
            spilled = int(kernel["stores"]) + int(kernel["loads"])
            spills += spilled > 0
            if "7kvision" in kernel["name"] or spilled:  # the rest is CUB's
                print(
                    f"{source.stem:20} {kernel['architecture']} {kernel['registers']:>3} registers "
                    f"{spilled:>4} bytes spilled  {short_name(kernel['name'])}"
                )
    print(f"{sum(map(len, found))} kernels, {spills} with spills")
    sys.exit(1 if spills or not any(found) else 0)


if __name__ == "__main__":
    main()
