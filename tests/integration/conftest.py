"""Training runs of their own processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def train_digits():
    """`run(*arguments) -> state`: what train_digits.py prints, or None if it was killed."""

    def run(*arguments):
        script = Path(__file__).parent / "train_digits.py"
        command = [sys.executable, str(script), *(str(argument) for argument in arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode == -9:
            return None
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def uninterrupted(train_digits):
    """The run that the others are held against."""
    return train_digits("--validate")
