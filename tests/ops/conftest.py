"""Fixtures of the tests of ops."""

import pytest

from kvision.testing import running


@pytest.fixture(params=["reference", "native"])
def implementation(request):
    """Runs a test with the reference, and with the native kernel where it can be had."""
    with running(request.param):
        yield request.param
