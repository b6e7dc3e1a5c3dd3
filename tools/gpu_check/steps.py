"""Steps: processes that run side by side, each with a time limit, a log and a PASS or FAIL line."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "gpu"
SITE = OUT / f"site-{sys.implementation.cache_tag}"
# The tools of this Python's environment and of CUDA are not always on it.
PATH = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent), "/usr/local/cuda/bin"]
)


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where everything runs.

    Attributes:
        device: `"cuda"`, or `"cpu"` for a rehearsal.
        wheels: Folder of the wheels to install from.
    """

    device: str
    wheels: str


@dataclasses.dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        name: Of the step, in front of its lines, and of its log.
        command: The program and its arguments.
        environment: Variables beside those of `environment_of`.
        limit: Seconds after which it is ended, and has failed.
    """

    name: str
    command: Sequence[object]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    limit: float = 400


def python(module, *arguments):
    """The command that runs a module of this package."""
    return [sys.executable, "-m", f"tools.gpu_check.{module}", *arguments]


def environment_of(device):
    """The variables of every step: what is installed for it, and native kernels or an error."""
    variables = {
        **os.environ,
        "PATH": PATH,
        "PYTHONPATH": os.pathsep.join(
            [str(SITE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "KVISION_REQUIRE_OPS": "1",
        # Several processes share the card.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if device == "cpu":
        variables |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    return variables


def run(steps, device):
    """Runs steps side by side; returns whether all succeeded."""
    with ThreadPoolExecutor(len(steps)) as pool:
        return all(list(pool.map(lambda step: _run(step, device), steps)))


def _run(step, device):
    start = time.perf_counter()
    log = OUT / "logs" / f"{step.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        process = subprocess.Popen(
            [str(word) for word in step.command],
            cwd=ROOT,
            env={**environment_of(device), **step.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        )
    except OSError as error:
        print(f"{step.name:>11}: FAIL ({error})", flush=True)
        return False
    ended = threading.Timer(step.limit, os.killpg, (process.pid, signal.SIGKILL))
    ended.start()
    with log.open("w") as file:
        for line in process.stdout:
            file.write(line)
            print(f"{step.name:>11} | {line.rstrip()}", flush=True)
    status = process.wait()
    ended.cancel()
    word = f"FAIL (exit status {status})" if status else "pass"
    print(f"{step.name:>11}: {word} in {time.perf_counter() - start:.0f} s", flush=True)
    return status == 0
