"""A kernel that gets no memory is an error of its op, not the end of the process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvision.ops import native

pytestmark = pytest.mark.skipif(
    not native.use_native() or not Path("/proc/self/statm").exists(),
    reason="needs the native ops, and a system that says how much memory a process has",
)


@pytest.mark.parametrize("door", ["arrays", "backend"])
def test_a_thread_without_memory_is_an_error(door):
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.short_of_memory", door],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    message, afterwards = done.stdout.splitlines()[-2:]
    assert "roi_pool: there is not enough memory" in message
    assert afterwards == "2.0 afterwards"
