"""What the tests of `soft_nms` and `matrix_nms` share: boxes, a call, IoUs, a table."""

import keras
import numpy as np
from keras import ops

from kvision.testing import (
    Case,
    Input,
    Invalid,
    KernelCall,
    OpContract,
    Output,
    RawOp,
    Variant,
    draws,
)
from tests.golden import nms_cases

# The worked example of both ops.
BOXES = np.array(
    [
        (0, 0, 10, 10),
        (1, 1, 11, 11),
        (0, 0, 10, 5),
        (20, 20, 30, 30),
        (21, 21, 31, 31),
        (0, 0, 5, 10),
    ],
    "float32",
)
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.95, 0.5], "float32")

NAN, INF = np.nan, np.inf


def run(function, boxes, scores, **arguments):
    """Indices and scores as lists of their own."""
    found = function(np.asarray(boxes, "float32"), np.asarray(scores, "float32"), **arguments)
    assert [keras.backend.standardize_dtype(x.dtype) for x in found] == ["int32", "float32"]
    indices, decayed = map(ops.convert_to_numpy, found)
    return indices.tolist(), decayed.tolist()


def ious(boxes, labels=None):
    """(N, N) float32, 0 without an area and between labels."""
    zero = np.float32(0)
    found = np.zeros((len(boxes), len(boxes)), "float32")
    with np.errstate(all="ignore"):
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        for i, j in np.ndindex(found.shape):
            width = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            height = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            positive = 0 < areas[i] < INF and 0 < areas[j] < INF and width > 0 and height > 0
            same = labels is None or labels[i] == labels[j]
            inter = width * height if positive and same else zero
            found[i, j] = inter / (areas[i] + areas[j] - inter) if inter > 0 else zero
    return found


def cases(method):
    """Yields boxes, scores, labels or None, and a generator for arguments.

    On grids, equal scores can decay to what only the rounding of `exp` tells apart, so that the
    Gaussian gets boxes of any coordinates and distinct scores.
    """
    seeds = range(2, 240, 4) if method == "gaussian" else range(60)
    for seed in seeds:
        if keras.backend.backend() != "tensorflow" and seed % 5:
            continue  # a compilation each
        boxes, scores, _ = nms_cases.nms_case(seed)
        rng = np.random.default_rng(seed)
        labels = rng.integers(-1, 2, len(boxes)).astype("int32") if seed % 3 == 0 else None
        yield boxes, scores, labels, rng


def worked(method, indices, scores):
    """The worked example as a `Case`."""
    return Case(
        {"boxes": BOXES, "scores": SCORES},
        {"indices": np.array(indices, "int32"), "scores": np.array(scores)},
        {"method": method, "max_output_size": len(indices)},
        rtol=3e-6,
    )


def contract(function, *, arguments, invalid=(), fuzzed_arguments=None, **table):
    """The table of either op.

    Args:
        function: The public function.
        arguments: The attributes of its kernels that have no default there.
        invalid: What only this op refuses, natively too.
        fuzzed_arguments: Of arguments that only this op has.
        **table: What else stands in the table.
    """
    name = function.__name__
    fuzzed_arguments = {**_FUZZED, **(fuzzed_arguments or {})}
    outputs = {
        "indices": Output("max_output_size", "int32"),
        "scores": Output("max_output_size", "float32"),
    }

    def kernels(inputs, given, _):
        labels = inputs.get("labels", np.zeros(len(inputs["scores"]), "int32"))
        tensors = {**inputs, "labels": labels}
        call = {"method": "gaussian", **tensors, **arguments, **given}
        return [KernelCall(name, call, {0: "indices", 1: "scores"})]

    raw = RawOp(
        name=name,
        op=f"kvision_{name}",
        inputs=_INPUTS,
        outputs={**outputs, "count": Output("", "int32")},
        arguments={"max_output_size": 4},
        sizes={"num_boxes": 5},
        dtypes=("float32",),
        variants={
            "": Variant(),
            "unlimited": Variant(
                {"max_output_size": -1}, outputs={"indices": "num_boxes", "scores": "num_boxes"}
            ),
        },
        invalid=(*_INVALID, *invalid),
        fuzzed_arguments={**fuzzed_arguments, "max_output_size": (0,)},
    )
    return OpContract(
        name=name,
        function=function,
        inputs=_INPUTS,
        outputs=outputs,
        arguments={"max_output_size": 4},
        sizes={"num_boxes": 5},
        variants={
            "": Variant(),
            "linear": Variant({"method": "linear"}),
            "one label": Variant(without=("labels",)),
        },
        invalid=(*_INVALID, *_INVALID_IN_PYTHON, *invalid),
        raw=(raw,),
        kernels=kernels,
        kernel_sizes={"num_boxes": 700},
        computes_in="float32",
        agree=_agree,
        fuzzed_arguments={**fuzzed_arguments, "max_output_size": (1, 4, 0, 2.5)},
        fuzzed_sizes={"num_boxes": 8},
        **table,
    )


_INPUTS = {
    "boxes": Input("num_boxes 4", draws.boxes()),
    "scores": Input("num_boxes", draws.distinct(0.1)),
    "labels": Input("num_boxes", draws.integers(0, 2), "int32"),
}
_FUZZED = {
    "method": ("linear", "gaussian", "hard"),
    "sigma": (0.1, 2.0, 1e-30, 1e30, 0.0, -1.0, NAN, INF),
    "score_threshold": (0.0, 0.3, -1.0, INF, -INF),
}
_INVALID = (
    Invalid({"boxes": np.ones((5, 5), "float32")}, r"`boxes` must have shape \(num_boxes, 4\)"),
    Invalid({"boxes": np.ones(4, "float32")}, r"`boxes` must have shape \(num_boxes, 4\)"),
    Invalid({"scores": np.ones((5, 1), "float32")}, r"`scores` must have shape \(num_boxes,\)"),
    Invalid({"scores": np.ones(6, "float32")}, r"\(num_boxes,\), where num_boxes is 5 in `boxes`"),
    Invalid({"labels": np.ones((5, 1), "int32")}, r"`labels` must have shape \(num_boxes,\)"),
    Invalid({"labels": np.ones(4, "int32")}, r"`labels` .*, where num_boxes is 5 in `boxes`"),
    Invalid({"method": "hard"}, '`method` must be "linear" or "gaussian"'),
    Invalid({"sigma": 0.0}, "`sigma` must be positive and finite"),
    Invalid({"sigma": NAN}, "`sigma` must be positive and finite"),
    Invalid({"sigma": INF}, "`sigma` must be positive and finite"),
    Invalid({"max_output_size": 0}, "`max_output_size` must be"),
)
_INVALID_IN_PYTHON = (
    Invalid({"boxes": np.ones((5, 4), "int32")}, "`boxes` must be floating point", TypeError),
    Invalid({"scores": np.ones(5, "int32")}, "`scores` must be floating point", TypeError),
    Invalid({"labels": np.ones(5, "float32")}, "`labels` must be integers", TypeError),
    Invalid({"score_threshold": NAN}, "`score_threshold` must not be NaN"),
    Invalid({"max_output_size": 2.5}, "`max_output_size` must be"),
)


def _agree(found, wanted, inputs):
    """The same boxes; scores as far as two implementations of `exp` agree."""
    np.testing.assert_array_equal(found["indices"], wanted["indices"])
    np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=1e-5)
