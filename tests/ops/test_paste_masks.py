import math
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from kvision.ops import paste_masks
from kvision.ops.paste_masks import PasteMasksOperation
from kvision.testing import (
    Case,
    Input,
    Invalid,
    KernelCall,
    OpContract,
    OpTests,
    Output,
    RawOp,
    Variant,
    draws,
)
from tests.ops.masks import masks_of, run_lengths

GOLDEN = Path(__file__).parents[1] / "golden" / "masks.npz"
NAN, INF = np.nan, np.inf
HEIGHT, WIDTH = 13, 17
MASKS = Input("batch num_boxes mask_height mask_width", draws.uniform(), "float32")
BOXES = Input("batch num_boxes 4", draws.boxes(-4.0, 16.0, 12.0), "float32")
SIZES = {"batch": 2, "mask_height": 4, "mask_width": 5}
RULES = ("detectron2", "torchvision")
VARIANTS = {rule: Variant({"rule": rule}) for rule in RULES}

# The fact sheet's: two by two cells in a box of four by four pixels, row 2 of seven.
DIAGONAL = np.eye(2, dtype="float32")
SQUARE = (1, 1, 5, 5)
ROW_2 = {
    "detectron2": (0.1875, 0.5625, 0.625, 0.375, 0.1875, 0.0625, 0),
    "torchvision": (0.15741, 0.57716, 0.89506, 0.5, 0.10494, 0.03395, 0.00926),
}
NOTHING = [(3, 3, 3, 6), (5, 5, 4, 6), (NAN, 1, 5, 5), (1, 1, INF, 5), (-3e38, 1, 3e38, 5)]


def worked(masks, boxes, output, **arguments):
    masks = np.array([masks], "float32")
    return Case({"masks": masks, "boxes": [boxes]}, output, {"image_size": 7, **arguments})


def label_map_cases():
    ones = np.ones((2, 2))
    # All cells are 1, and outside of the box values fall: at a half, the box's own pixels.
    inside = np.zeros((1, 7, 7), "int32")
    inside[0, 1:5, 1:5] = 1
    yield "a box of pixels", worked([ones], [SQUARE], inside)
    over = inside.copy()
    over[0, 3:6, 2:7] = np.where(inside[0, 3:6, 2:7] == 1, 1, 2)
    yield "the first on top", worked([ones, ones], [SQUARE, (2, 3, 7, 6)], over)
    number = len(NOTHING)
    for rule in RULES:
        nothing = worked([ones] * number, NOTHING, np.zeros((1, 7, 7), "int32"), rule=rule)
        yield f"nothing, {rule}", nothing
    nan = [[NAN, 1], [1, 1]]
    # Whatever has a part in a NaN is out: the pixels between the centres of the cells too.
    out = inside.copy()
    out[0, 1:4, 1:4] = 0
    yield "a value that is NaN", worked([nan], [SQUARE], out)


def run_cases():
    ones = np.ones((2, 2))
    runs = np.array([8, 4, 3, 4, 3, 4, 3, 4, 16] + [0] * 6, "int32")
    yield "a box of pixels", worked([ones], [SQUARE], runs[None, None])
    exact = worked([ones], [SQUARE], runs[None, None, :9], num_runs=9)
    yield "just enough runs", exact
    few = np.full((1, 1, 8), -1, "int32")
    yield "too few runs", worked([ones], [SQUARE], few, num_runs=8)
    whole = np.array([[[0, 49] + [0] * 13]], "int32")
    yield "the whole image", worked([ones], [(-9, -9, 19, 19)], whole)
    nothing = np.array([[[49] + [0] * 14] * len(NOTHING)], "int32")
    for rule in RULES:
        case = worked([ones] * len(NOTHING), NOTHING, nothing, rule=rule)
        yield f"nothing, {rule}", case


def kernels(function, **sizes):
    def calls(inputs, arguments, output_gradients):
        height, width = arguments["image_size"]
        values = {**inputs, "height": height, "width": width, "rule": arguments["rule"], **sizes}
        return [KernelCall(function, values, {0: "output"})]

    return calls


SHARED_INVALID = (
    Invalid({"masks": np.zeros((2, 3, 4), "float32")}, "`masks` must have shape"),
    Invalid({"boxes": np.zeros((2, 3, 5), "float32")}, "`boxes` must have shape"),
)
INVALID = (
    *SHARED_INVALID,
    Invalid({"masks": np.zeros((2, 4, 4, 5), "float32")}, "`masks` and `boxes` must have"),
    Invalid({"masks": np.zeros((2, 3, 4, 5), "int32")}, "`masks` must be floats", TypeError, True),
    Invalid({"boxes": np.zeros((2, 3, 4), "float16")}, "`boxes` must be float32", symbolic=True),
    Invalid({"image_size": 0}, "`image_size` must be a positive"),
    Invalid({"image_size": (2**16, 2**15)}, "an image must have fewer than"),
    Invalid({"threshold": 0.0}, "`threshold` must be positive"),
    Invalid({"threshold": NAN}, "`threshold` must be positive"),
    Invalid({"threshold": None}, "`threshold` must be a number", TypeError),
    Invalid({"rule": "caffe2"}, "`rule` must be one of"),
    Invalid({"form": "polygons"}, "`form` must be one of"),
)
RAW_INVALID = (
    *SHARED_INVALID,
    Invalid({"boxes": np.zeros((2, 4, 4), "float32")}, "`boxes` must have shape"),
    Invalid({"height": 0}, "`height` and `width` must be positive", static=True),
    Invalid({"width": 2**30}, "an image must have fewer than", static=True),
    Invalid({"threshold": 0.0}, "`threshold` must be positive", static=True),
    Invalid({"threshold": INF}, "`threshold` must be positive", static=True),
    Invalid({"rule": "caffe2"}, "`rule` must be", static=True),
)
FUZZED = {"threshold": (0.5, 0.25, 1.0, 1e-30, 0.0, NAN), "rule": (*RULES, "none")}
RAW = {
    "name": "paste_masks",
    "inputs": {"masks": MASKS, "boxes": BOXES},
    "dtypes": ("float32",),
    "sizes": SIZES,
    "variants": VARIANTS,
    "fuzzed_arguments": {**FUZZED, "height": (1, 20, 0), "width": (1, 40)},
}


class TestPasteMasks(OpTests):
    contract = OpContract(
        name="paste_masks",
        function=paste_masks,
        inputs={"masks": MASKS, "boxes": BOXES},
        outputs={"output": Output("batch image_size[0] image_size[1]", "int32")},
        arguments={"image_size": (HEIGHT, WIDTH), "rule": "detectron2"},
        sizes=SIZES,
        variants=VARIANTS,
        dtypes=("float32",),
        computes_in="float32",
        cases=dict(label_map_cases()),
        invalid=(*INVALID, Invalid({"num_runs": 3}, "`num_runs` must be a positive int, and")),
        raw=(
            RawOp(
                op="kvision_paste_masks",
                outputs={"label_map": Output("batch height width", "int32")},
                arguments={"height": HEIGHT, "width": WIDTH},
                invalid=RAW_INVALID,
                **RAW,
            ),
        ),
        kernels=kernels("paste_masks"),
        kernel_sizes={"num_boxes": 300},
        fuzzed_arguments={**FUZZED, "image_size": (1, (20, 40), (7, 1), 0)},
    )


class TestPasteMaskRuns(OpTests):
    contract = OpContract(
        name="paste_masks",
        function=paste_masks,
        inputs={"masks": MASKS, "boxes": BOXES},
        outputs={"output": Output("batch num_boxes num_runs", "int32")},
        arguments={
            "image_size": (HEIGHT, WIDTH),
            "rule": "detectron2",
            "form": "runs",
            "num_runs": 20,
        },
        sizes=SIZES,
        variants=VARIANTS,
        dtypes=("float32",),
        computes_in="float32",
        native_ops=("paste_mask_runs",),
        cases={
            name: Case(
                case.inputs,
                case.outputs,
                {"num_runs": case.outputs.shape[-1], **case.arguments},
            )
            for name, case in run_cases()
        },
        invalid=(
            *INVALID,
            Invalid({"num_runs": 0}, "`num_runs` must be a positive int, and"),
            Invalid({"num_runs": 1.5}, "`num_runs` must be a positive int, and"),
        ),
        raw=(
            RawOp(
                op="kvision_paste_mask_runs",
                outputs={"runs": Output("batch num_boxes num_runs", "int32")},
                arguments={"height": HEIGHT, "width": WIDTH, "num_runs": 20},
                invalid=(
                    *RAW_INVALID,
                    Invalid({"num_runs": 0}, "`num_runs` must be positive", static=True),
                ),
                **RAW,
            ),
        ),
        kernels=kernels("paste_mask_runs", num_runs=20),
        kernel_sizes={"num_boxes": 300},
        fuzzed_arguments={
            **FUZZED,
            "image_size": (1, (20, 40), (7, 1), 0),
            "num_runs": (1, 7, 100, 0),
        },
    )


def defined(mask, box, height, width):
    """The values of detectron2's rule at all pixels, in float64: bilinear, with zeros around."""
    x1, y1, x2, y2 = (float(corner) for corner in box)

    def weights(start, end, size, cells):
        position = (np.arange(size) + 0.5 - start) / (end - start) * cells - 0.5
        return np.maximum(1 - np.abs(position[:, None] - np.arange(cells)), 0)

    rows = weights(y1, y2, height, mask.shape[0])
    columns = weights(x1, x2, width, mask.shape[1])
    return rows @ mask @ columns.T


@pytest.mark.parametrize("rule", RULES)
def test_the_row_of_the_fact_sheet(rule):
    arguments = {"image_size": 7, "form": "dense", "threshold": None, "rule": rule}
    boxes = np.array([[SQUARE]], "float32")
    found = ops.convert_to_numpy(paste_masks(DIAGONAL[None, None], boxes, **arguments))
    np.testing.assert_allclose(found[0, 0, 2], ROW_2[rule], atol=5e-6)


def drawn(rng, number, cells, height, width):
    """Smooth masks, and boxes of all sizes, many of them over the edge."""
    coarse = rng.normal(size=(2, number, 3, 3))
    spread = np.maximum(1 - np.abs(np.linspace(0, 2, cells)[:, None] - np.arange(3)), 0)
    masks = 1 / (1 + np.exp(-3 * spread @ coarse @ spread.T))
    centre = rng.uniform(-2, [width + 2, height + 2], (2, number, 2))
    extent = rng.uniform(0.2, 1, (2, number, 2)) * rng.choice([2, 12, 60], (2, number, 1))
    boxes = np.concatenate([centre - extent / 2, centre + extent / 2], -1)
    return masks.astype("float32"), boxes.astype("float32")


def test_it_is_the_formula(implementation):
    height, width = 31, 45
    masks, boxes = drawn(np.random.default_rng(0), 20, 7, height, width)
    values = np.array(
        [
            [defined(mask, box, height, width) for mask, box in zip(*pair, strict=True)]
            for pair in zip(masks, boxes, strict=True)
        ]
    )
    near = np.abs(values - 0.4) < 1e-5
    wanted = np.where(near, False, values >= 0.4)
    arguments = {"image_size": (height, width), "threshold": 0.4}
    runs = ops.convert_to_numpy(paste_masks(masks, boxes, form="runs", **arguments))
    assert runs.shape == (2, 20, 4 * width + 1)
    assert np.all(runs >= 0)
    found = np.array([masks_of(image, height, width) for image in runs])
    np.testing.assert_array_equal(np.where(near, False, found), wanted)
    assert np.mean(wanted) > 0.05
    assert np.sum(near) < 10
    for image, runs_of_image in zip(found, runs, strict=True):
        np.testing.assert_array_equal(runs_of_image, run_lengths(image, 4 * width + 1))
    # The label map is of the same pixels, the first row on top.
    label_map = np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0)
    pasted = ops.convert_to_numpy(paste_masks(masks, boxes, **arguments))
    np.testing.assert_array_equal(pasted, label_map)


@pytest.mark.parametrize("name", ["wide", "high"])
def test_it_pastes_as_torchvision(implementation, name):
    golden = np.load(GOLDEN)
    masks, boxes, values = (golden[f"{name}/{key}"] for key in ("probabilities", "boxes", "pasted"))
    height, width = values.shape[1:]
    arguments = {"image_size": (height, width), "rule": "torchvision"}
    dense = paste_masks(masks[None], boxes[None], form="dense", threshold=None, **arguments)
    np.testing.assert_allclose(ops.convert_to_numpy(dense)[0], values, atol=2e-6)
    runs = paste_masks(masks[None], boxes[None], form="runs", **arguments)
    found = masks_of(ops.convert_to_numpy(runs)[0], height, width)
    near = np.abs(values - 0.5) < 1e-6
    np.testing.assert_array_equal(found | near, (values >= 0.5) | near)


def test_noise_takes_more_runs_than_there_are(implementation):
    rng = np.random.default_rng(1)
    masks = rng.choice([0.0, 1.0], (1, 2, 28, 28)).astype("float32")
    boxes = np.array([[(0, 0, 56, 56), (0, 0, 5, 5)]], "float32")
    runs = ops.convert_to_numpy(paste_masks(masks, boxes, image_size=56, form="runs"))
    assert np.all(runs[0, 0] == -1)
    assert np.all(runs[0, 1] >= 0)
    assert runs[0, 1].sum() == 56 * 56
    room = paste_masks(masks, boxes, image_size=56, form="runs", num_runs=2000)
    room = ops.convert_to_numpy(room)
    assert np.all(room >= 0)
    assert np.count_nonzero(room[0, 0]) > 4 * 56 + 1


def test_dense_masks():
    masks, boxes = drawn(np.random.default_rng(2), 3, 5, 20, 30)
    arguments = {"image_size": (20, 30), "form": "dense"}
    values = ops.convert_to_numpy(paste_masks(masks, boxes, threshold=None, **arguments))
    wanted = [defined(*pair, 20, 30) for pair in zip(masks[0], boxes[0], strict=True)]
    np.testing.assert_allclose(values[0], wanted, atol=1e-5)
    found = ops.convert_to_numpy(paste_masks(masks, boxes, threshold=0.3, **arguments))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, values >= np.float32(0.3))


def test_operation_keeps_its_arguments():
    config = {
        "image_size": (4, 5),
        "form": "runs",
        "threshold": 0.25,
        "rule": "torchvision",
        "num_runs": 8,
        "name": "n",
    }
    operation = PasteMasksOperation(**config)
    assert PasteMasksOperation.from_config(operation.get_config()).get_config() == config


def test_infinity_is_no_capacity():
    with pytest.raises(ValueError, match="`num_runs` must be a positive int"):
        PasteMasksOperation(image_size=4, form="runs", num_runs=math.inf)
