"""The part of the check on a GPU that needs none: its table of calls, and how it compares."""

import numpy as np
import pytest

from kvision.ops import native
from tools.gpu_check import calls
from tools.gpu_check.check import Report

pytest.importorskip("kvision._C")


@pytest.mark.parametrize("small", [False, True])
def test_every_op_is_called_in_every_dtype(small):
    called = {}
    for call in calls.all_calls(small):
        flat = [t for t in call.tensors if not isinstance(t, list)]
        flat = [*(t for ts in call.tensors if isinstance(ts, list) for t in ts), *flat]
        called.setdefault(call.op, set()).update(tensor.dtype.name for tensor in flat)
        assert len(call.tensors) == len(native.description(call.op)["inputs"])
    forward = {
        op["name"]: op["dtypes"] for op in native.module().ops() if "_gradient" not in op["name"]
    }
    assert called.keys() == forward.keys()
    for name, dtypes in forward.items():
        if not small:
            assert set(dtypes) <= called[name]


@pytest.mark.parametrize(
    ("found", "wanted", "tolerance", "right"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0, True),
        ([1.0, 2.0], [1.0, 2.000001], 0, False),
        ([1.0, 2.0], [1.0, 2.000001], 1e-6, True),
        ([1.0, 2.0], [1.0, 2.00001], 1e-6, False),
        ([np.nan, 2.0], [np.nan, 2.0], 0, True),
        ([np.nan, 2.0], [1.0, 2.0], 1e-6, False),
        ([np.inf, 2.0], [-np.inf, 2.0], 1e-6, False),
        ([np.inf, 2.0], [np.inf, 2.0], 1e-6, True),
        ([1, 2], [1, 3], 1.0, False),
        ([1.0], [1.0, 1.0], 1.0, False),
    ],
)
def test_comparison(found, wanted, tolerance, right):
    report = Report()
    report.compare("op", np.asarray(found), np.asarray(wanted), tolerance)
    assert (report.right, len(report.wrong)) == (int(right), int(not right))
