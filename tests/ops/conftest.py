"""Fixtures of the tests of ops."""

import os

import pytest

from kvision.ops import native


@pytest.fixture(params=["reference", "native"])
def implementation(request):
    """Runs a test with the reference, and with the native kernel where it can be had."""
    with native.implementation(request.param):
        if request.param == "native":
            try:
                native.use_native()
            except RuntimeError as error:
                if os.environ.get("KVISION_REQUIRE_OPS") == "1":
                    raise
                pytest.skip(str(error))
        yield request.param
