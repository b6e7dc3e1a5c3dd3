"""Builds, checks, trains and measures on a machine with an NVIDIA GPU: `make gpu-check`.

The parts are `build`, `check`, `sanitize`, `train` and `bench`; docs/gpu.md says what each does. It
needs neither TensorFlow nor the network: what Python lacks comes from a folder of wheels. All that
a part leaves behind is under build/gpu, and what is missing there is made again.
"""

import argparse
import sys
import time

from tools.gpu_check import bench, build, check, sanitize, train
from tools.gpu_check.steps import Machine

PARTS = {"build": build, "check": check, "sanitize": sanitize, "train": train, "bench": bench}


def main():
    """Runs the parts that are asked for, one after the other."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--wheels", default=".wheels", help="folder of wheels to install from")
    # A rehearsal on a machine without a GPU: the same code with small sizes.
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    machine = Machine(arguments.device, arguments.wheels)
    passed = {}
    for part in arguments.parts or PARTS:
        print(f"== gpu-check {part}", flush=True)
        start = time.perf_counter()
        passed[part] = (part == "build" or build.run(machine)) and PARTS[part].run(machine)
        word = "PASS" if passed[part] else "FAIL"
        print(f"== gpu-check {part}: {word} in {time.perf_counter() - start:.0f} s", flush=True)
        if part == "build" and not passed[part]:
            break  # the others would only fail to build it again
    print("gpu-check:", *(f"{part} {'PASS' if p else 'FAIL'}" for part, p in passed.items()))
    sys.exit(0 if all(passed.values()) else 1)


if __name__ == "__main__":
    main()
