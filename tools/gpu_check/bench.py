"""Part `bench`: every op against torchvision, cuDNN and CuPy, at sizes that fill the chip.

As a program, `python -m tools.gpu_check.bench DEVICE` with `KERAS_BACKEND=torch`, it measures and
writes build/gpu/bench.md. Both sides read and write tensors of PyTorch, each in the layout that it
is made for: channels last for kvision, channels first for the others.
"""

import importlib.metadata
import os
import subprocess
import sys
import time
import traceback

from tools.gpu_check import steps
from tools.gpu_check.steps import OUT, Step, python


def run(machine):
    """Measures in a process of its own; returns whether nothing failed."""
    step = Step("bench", python("bench", machine.device), {"KERAS_BACKEND": "torch"}, limit=420)
    return steps.run([step], machine.device)


def main(device):
    """Measures everything; returns whether nothing failed."""
    import torch

    from tools.gpu_check import bench_boxes, bench_regions
    from tools.gpu_check.timing import Clock, Table

    torch.manual_seed(0)
    clock = Clock(device)
    ceiling = _copy_ceiling(clock, device)
    table, passed = Table(ceiling), True
    heading = [_machine(device), "", _ceiling_line(ceiling), ""]
    print("\n".join([*heading, *table.lines]), flush=True)
    for measure in (*bench_regions.MEASURES, *bench_boxes.MEASURES):
        start = time.perf_counter()
        try:
            with torch.no_grad():
                measure(table, clock, device)
        except Exception:
            traceback.print_exc()
            passed = False
        if device == "cuda":
            torch.cuda.empty_cache()
        print(f"{measure.__name__}: {time.perf_counter() - start:.1f} s", flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "bench.md").write_text("\n".join([*heading, *table.lines, ""]))
    return passed


def _copy_ceiling(clock, device):
    """Bytes a second of a copy of 4 GiB, read and written ones counted."""
    import torch

    numbers = 1 << 30 if device == "cuda" else 1 << 20
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * numbers / clock.milliseconds(target.copy_, [(source,)]) * 1e3


def _ceiling_line(ceiling):
    return (
        f"A copy of 4 GiB moves {ceiling / 1e9:.0f} GB/s, bytes read and written counted. GB/s of "
        "an op: the least bytes that have to move, each input and output once, by its time."
    )


def _machine(device):
    import torch

    names = ("torch", "torchvision", "cupy-cuda13x")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    if device != "cuda":
        return f"{device}: a rehearsal, whose times mean nothing; {', '.join(versions)}"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    return (
        f"{torch.cuda.get_device_name()}, {processors} multiprocessors, driver {driver}, "
        f"CUDA {torch.version.cuda}; {', '.join(versions)}"
    )


if __name__ == "__main__":
    passed = main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0 if passed else 1)
