"""A detector trained and saved on one backend is the same detector on another."""

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.integration.trade_weights import EPOCHS

ROOT = Path(__file__).parents[2]
# A backend that this environment lacks runs in the one whose Python is named here.
PYTHONS = {
    "tensorflow": os.environ.get("KVISION_PYTHON_TENSORFLOW"),
    "jax": os.environ.get("KVISION_PYTHON_JAX"),
    "torch": os.environ.get("KVISION_PYTHON_TORCH"),
}


def run(backend, *arguments):
    installed = importlib.util.find_spec(backend)
    python = sys.executable if installed else PYTHONS[backend]
    if not python:
        pytest.skip(f"{backend} is not installed, and KVISION_PYTHON_{backend.upper()} is not set")
    done = subprocess.run(
        [python, "-m", "tests.integration.trade_weights", *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`saved(backend)`: the folder of what was trained and saved there."""
    folders = {}

    def folder(backend):
        if backend not in folders:
            path = tmp_path_factory.mktemp(backend)
            run(backend, path)
            folders[backend] = path
        return folders[backend]

    return folder


@pytest.mark.parametrize(("there", "here"), list(itertools.product(PYTHONS, repeat=2)))
def test_a_model_saved_there_answers_alike_here(saved, there, here, tmp_path):
    run(here, saved(there), "--load", tmp_path)
    expected = np.load(saved(there) / "answers.npz")
    assert expected["num_detections"].min() > 0
    whole, weights = (np.load(tmp_path / f"{name}.npz") for name in ("whole", "weights"))
    assert set(whole) == set(expected)
    for actual in (whole, weights):
        for name in actual:
            if name != "steps":
                np.testing.assert_allclose(
                    actual[name], expected[name], rtol=1e-4, atol=1e-4, err_msg=name
                )
    assert whole["steps"] == expected["steps"] == weights["steps"] + 1 == 2 * EPOCHS + 1
    assert whole["iterations"] == expected["iterations"] == 2 * EPOCHS + 1
