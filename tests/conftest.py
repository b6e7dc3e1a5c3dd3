"""Fixtures of all tests."""

import os
from pathlib import Path

import keras
import pytest

_ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets beside the repository; without them the tests that need them skip."""
    path = Path(os.environ.get("KVISION_DATA", _ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no data sets in {path} (KVISION_DATA names another place)")
    return path
