"""The module `kvision._C`: typed, documented, and refusing in the words of the house."""

import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kvision.ops import native

ROOT = Path(__file__).parents[2]
BOXES = np.array([(0, 0, 2, 2), (0, 0, 2, 1.5), (4, 4, 6, 6)], "float32")
SCORES = np.array([0.5, 0.9, 0.7], "float32")
MAP = np.ones((1, 4, 4, 1), "float32")


@pytest.fixture(scope="module")
def module():
    try:
        return native.require_module()
    except RuntimeError as error:
        if os.environ.get("KVISION_REQUIRE_OPS") == "1":
            raise
        pytest.skip(str(error))


def test_the_stub_is_what_the_module_offers(module):
    specification = importlib.util.spec_from_file_location("stub", ROOT / "tools" / "stub.py")
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    assert tool.STUB.read_text() == tool.stub(module), "run tools/stub.py"
    names = {name for name in dir(module) if not name.startswith("_")}
    assert names == {op["name"] for op in module.ops()} | set(tool.REST)


def test_signatures_can_be_inspected(module):
    for op in module.ops():
        signature = inspect.signature(getattr(module, op["name"]))
        names = [rule["name"] for rule in op["inputs"] + op["attributes"]]
        assert list(signature.parameters) == [*names, "num_threads"]
        for rule in op["attributes"]:
            parameter = signature.parameters[rule["name"]]
            assert parameter.kind is parameter.KEYWORD_ONLY
            assert rule["required"] or parameter.default == rule["default"]
    assert module.nms.__doc__.startswith("Greedy non-maximum suppression")


def test_arrays_of_other_layouts(module):
    reversed_boxes = np.asfortranarray(BOXES[::-1])
    kept, count = module.nms(reversed_boxes, SCORES[::-1], iou_threshold=0.5)
    assert kept.tolist()[: int(count)] == [1, 0]
    kept, count = module.nms(BOXES.tolist(), SCORES.tolist(), iou_threshold=0.5, num_threads=2)
    assert kept.tolist()[: int(count)] == [1, 2]


def test_threads_work_in_a_child_of_fork(module):
    code = f"""
import os, sys, time, numpy
from kvision.testing.kernel_process import load
module = load({module.__file__!r})
boxes = numpy.random.default_rng(0).uniform(0, 9, (1, 999, 4)).astype("float32")
threads = lambda: len(os.listdir("/proc/self/task"))
before, wanted = threads(), module.pairwise_iou(boxes, boxes, num_threads=2).tobytes()
started = threads() - before
if (child := os.fork()) == 0:
    before, found = threads(), module.pairwise_iou(boxes, boxes, num_threads=2).tobytes()
    os._exit(0 if found == wanted and threads() - before == started else 1)
print(started, os.waitpid(child, 0)[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == [str(len(os.sched_getaffinity(0)) - 1), "0"], done.stderr


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (TypeError, {}, "`iou_threshold` must be given"),
        (TypeError, {"scores": None, "iou_threshold": 0.5}, "`scores` must be given"),
        (TypeError, {"iou_threshold": "x"}, "`iou_threshold` has a wrong type: 'x'"),
        (TypeError, {"iou_threshold": 0.5, "colour": 1}, "there is no argument `colour`"),
        (TypeError, {"iou_threshold": 0.5, "num_threads": "a"}, "`num_threads` has a wrong type"),
        (TypeError, {"iou_threshold": 0.5, "max_output_size": 2.5}, "`max_output_size` has a wro"),
        (TypeError, {"iou_threshold": 0.5, "scores": SCORES + 1j}, "`scores` must be float32"),
        (TypeError, {"iou_threshold": 0.5, "boxes": [[0], [0, 1]]}, "`boxes` is no array"),
        (
            ValueError,
            {"iou_threshold": 0.5, "scores": SCORES[None]},
            r"`scores` must have shape \(",
        ),
        (ValueError, {"iou_threshold": 2.0}, r"`iou_threshold` must be in \[0, 1\]"),
    ],
)
def test_nms_refuses(module, error, arguments, message):
    given = {"boxes": BOXES, "scores": SCORES, **arguments}
    given = {name: value for name, value in given.items() if value is not None}
    with pytest.raises(error, match=f"^nms: {message}"):
        module.nms(**given)


@pytest.mark.parametrize(
    ("error", "changes", "message"),
    [
        (TypeError, {"features": 5}, "`features` must be a list of arrays"),
        (TypeError, {"features": [MAP.astype(int)]}, "`features` must be float16, bfloat16, "),
        (TypeError, {"levels": np.zeros((1, 3))}, "`levels` must be int32"),
        (TypeError, {"spatial_scales": ["x"]}, "`spatial_scales` has a wrong type"),
        (ValueError, {"spatial_scales": [1.0, 2.0]}, "`spatial_scales` must have shape"),
        (ValueError, {"sampling_ratio": -1}, "`sampling_ratio` must lie between"),
    ],
)
def test_roi_align_refuses(module, error, changes, message):
    given = {
        "features": [MAP],
        "boxes": BOXES[None],
        "levels": np.zeros((1, 3), "int32"),
        "spatial_scales": [1.0],
        "output_height": 2,
        "output_width": 2,
    }
    with pytest.raises(error, match=f"^roi_align: {message}"):
        module.roi_align(**{**given, **changes})
