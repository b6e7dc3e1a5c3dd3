"""Fuzzes the CPU kernels of every op under the sanitizers: `make sanitize`.

An op's `<op>_fuzz.cc` runs under AddressSanitizer and UndefinedBehaviorSanitizer, under
ThreadSanitizer if it has threads, and as released: with each instruction set of this processor,
and on an emulated one older than AVX, where qemu-x86_64 is installed.
"""

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ninja

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "fuzz"
SANITIZERS = {"address": "address,undefined", "thread": "thread", "release": ""}
OLD_PROCESSOR = ("qemu-x86_64", "-cpu", "Nehalem")


def build(sanitizer):
    """Builds all targets into a folder of the sanitizer's name."""
    cmake = [sys.executable, "-m", "cmake"]
    configure = [
        *cmake, "-G", "Ninja", "-S", ROOT, "-B", BUILD / sanitizer,
        f"-DCMAKE_MAKE_PROGRAM={Path(ninja.BIN_DIR) / 'ninja'}",
        "-DKVISION_FUZZ=ON", "-DKVISION_CUDA=OFF", f"-DKVISION_SANITIZER={SANITIZERS[sanitizer]}",
    ]  # fmt: skip
    for command in (configure, [*cmake, "--build", BUILD / sanitizer]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)


def plan(ops, runs):
    """Returns (sanitizer, emulator, instruction set, op, runs) for each program to start."""
    programs = []
    for op in ops:
        programs.append(("address", (), "avx512", op, runs))
        if "ThreadsFor" in (ROOT / f"csrc/ops/{op}/{op}_fuzz.cc").read_text():
            programs.append(("thread", (), "avx512", op, runs))
        for isa in ("avx2", "baseline"):
            programs.append(("address", (), isa, op, runs // 4))
        for isa in ("avx512", "avx2", "baseline"):
            programs.append(("release", (), isa, op, runs // 4))
        if shutil.which(OLD_PROCESSOR[0]):
            programs.append(("release", OLD_PROCESSOR, "avx512", op, runs // 50))
    return programs


def run(program, seed):
    """Runs one program in the build folder, where an input that fails stays; returns success."""
    sanitizer, emulator, isa, op, runs = program
    done = subprocess.run(
        [*emulator, f"./{op}_fuzz", "--runs", str(runs), "--seed", str(seed)],
        cwd=BUILD / sanitizer,
        env={**os.environ, "KVISION_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    where = emulator[-1] if emulator else sanitizer
    print(f"{where:8}{done.stdout.strip() or f'{op}_fuzz {isa} failed'}", flush=True)
    if done.returncode:
        print(done.stderr[-8000:], f"in {BUILD / sanitizer}", flush=True)
    return done.returncode == 0


def main():
    """Runs every program, as many at once as there are cores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", help="ops to fuzz; all of them if none is named")
    parser.add_argument("--runs", type=int, default=100000, help="inputs an op")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other inputs")
    arguments = parser.parse_args()
    targets = sorted(path.parent.name for path in ROOT.glob("csrc/ops/*/*_fuzz.cc"))
    unknown = set(arguments.ops) - set(targets)
    if unknown:
        parser.error(f"no fuzz target for {', '.join(sorted(unknown))}; there are {targets}")
    for sanitizer in SANITIZERS:
        build(sanitizer)
    if not shutil.which(OLD_PROCESSOR[0]):
        print("No qemu-x86_64 (apt install qemu-user): the run on an older processor is left out.")
    programs = plan(arguments.ops or targets, arguments.runs)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        passed = list(pool.map(lambda program: run(program, arguments.seed), programs))
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
