import functools
import math
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from kvision.ops import crop_masks
from kvision.ops.crop_masks import CropMasksOperation
from kvision.testing import (
    Case,
    Input,
    Invalid,
    KernelCall,
    OpContract,
    OpTests,
    Output,
    RawOp,
    draws,
)
from tests.ops.masks import run_lengths

GOLDEN = Path(__file__).parents[1] / "golden" / "masks.npz"
NAN, INF = np.nan, np.inf
HEIGHT, WIDTH = 13, 17


def patches(rng, shape, sizes):
    """Instances of three by three pixels and more."""
    batch, height, width = shape
    ids = rng.integers(0, 4, (batch, height // 3 + 1, width // 3 + 1))
    return ids.repeat(3, axis=1).repeat(3, axis=2)[:, :height, :width]


LABEL_MAP = Input("batch height width", patches, "int32")
RUNS = Input("batch num_instances num_runs", draws.integers(0, 14), "int32")
BOXES = Input("batch num_boxes 4", draws.boxes(-4.0, 16.0, 12.0), "float32")
ROWS = Input("batch num_boxes", draws.integers(-1, 4), "int32")
OUTPUT = Output("batch num_boxes output_size[0] output_size[1]", "float32")
RAW_OUTPUT = Output("batch num_boxes output_height output_width", "float32")

# The square of the fact sheet: rows 2 to 5, columns 3 to 6 of 8 by 8. And G2's other mask.
SQUARE = np.zeros((8, 8), "int32")
SQUARE[2:6, 3:7] = 1
CORNER = np.zeros((8, 8), "int32")
CORNER[:4, :4] = 1
WORKED = [
    (0.04297, 0.64453, 0.6875, 0.47266),
    (0.0625, 0.9375, 1, 0.6875),
    (0.05859, 0.87891, 0.9375, 0.64453),
    (0.00391, 0.05859, 0.0625, 0.04297),
]
# What gives zeros: a box without extent or that is not finite, a row that there is none of.
NOTHING = [
    ((3, 3, 3, 6), 0),
    ((5, 5, 4, 6), 0),
    ((NAN, 1, 7, 7), 0),
    ((1, 1, INF, 7), 0),
    ((-3e38, 1, 3e38, 7), 0),
    ((1, 1, 7, 7), -1),
    ((1, 1, 7, 7), 2**31 - 1),
    ((1, 1, 7, 7), 5),
]


def worked(masks, boxes=((1, 1, 7, 7),), rows=(0,), outputs=(WORKED,), **arguments):
    inputs = {"masks": masks, "boxes": [boxes], "rows": np.array([rows], "int32")}
    return Case(inputs, np.array([outputs], "float32"), {"output_size": 4, **arguments}, atol=6e-6)


def cases(form, **arguments):
    def masks(*images):
        return form(images)

    case = functools.partial(worked, **arguments)
    yield "the fact sheet's", case(masks(SQUARE))
    boxes, rows = zip(*NOTHING, strict=True)
    yield "nothing", case(masks(SQUARE), boxes, rows, np.zeros((len(rows), 4, 4)))
    # A narrow box is raised to a pixel: bins of a quarter, with one sample at the middle of each.
    yield "narrow", case(masks(SQUARE * 0 + 1), [(2, 2, 2.01, 2.5)], [0], np.ones((1, 4, 4)))
    across = [0.125, 0.375, 0.625, 0.875]
    yield (
        "narrow, on the border",
        case(masks(SQUARE), [(2, 3, 2.01, 4)], [0], np.tile(across, (1, 4, 1))),
    )


def label_map_of(images):
    """Images of one instance each, under one another where they do not overlap."""
    return np.array([sum(image * (i + 1) for i, image in enumerate(images))], "int32")


def runs_of(images):
    return run_lengths(images)[None]


def agree(found, wanted, inputs):
    """Sums in another order."""
    np.testing.assert_allclose(found["output"], wanted["output"], atol=2e-6)


def kernels(function, masks, **image):
    def calls(inputs, arguments, output_gradients):
        height, width = arguments["output_size"]
        values = {masks: inputs["masks"], "boxes": inputs["boxes"], "rows": inputs["rows"]}
        values |= {"output_height": height, "output_width": width, **image}
        return [KernelCall(function, values, {0: "output"})]

    return calls


SHARED_INVALID = (
    Invalid({"boxes": np.zeros((2, 3, 5), "float32")}, "`boxes` must have shape"),
    Invalid({"boxes": np.zeros((3, 4), "float32")}, "`boxes` must have shape"),
    Invalid({"rows": np.zeros((2, 3, 1), "int32")}, "`rows` must have shape"),
)
INVALID = (
    *SHARED_INVALID,
    Invalid({"rows": np.zeros((2, 4), "int32")}, "`masks`, `boxes` and `rows` must have"),
    Invalid({"boxes": np.zeros((3, 3, 4), "float32")}, "`masks`, `boxes` and `rows` must have"),
    Invalid({"boxes": np.zeros((2, 3, 4), "float16")}, "`boxes` must be float32", symbolic=True),
    Invalid({"rows": np.zeros((2, 3), "float32")}, "`rows` must be integers", TypeError, True),
    Invalid({"output_size": 0}, "`output_size` must be a positive"),
    Invalid({"output_size": (2, 3, 4)}, "`output_size` must be a positive"),
    Invalid({"output_size": math.inf}, "`output_size` must be a positive"),
)
RAW_INVALID = (
    *SHARED_INVALID,
    Invalid({"rows": np.zeros((2, 4), "int32")}, "`rows` must have shape"),
    Invalid({"output_height": 0}, "`output_height` and `output_width` must", static=True),
)
SIZES = {"batch": 2, "height": HEIGHT, "width": WIDTH}


class TestCropMasks(OpTests):
    contract = OpContract(
        name="crop_masks",
        function=crop_masks,
        inputs={"masks": LABEL_MAP, "boxes": BOXES, "rows": ROWS},
        outputs={"output": OUTPUT},
        arguments={"output_size": (3, 4)},
        sizes=SIZES,
        dtypes=("float32",),
        computes_in="float32",
        agree=agree,
        cases=dict(cases(label_map_of)),
        invalid=(
            *INVALID,
            Invalid({"masks": np.zeros((2, 8), "int32")}, "`masks` must have shape"),
            Invalid({"masks": np.zeros((2, 8, 8, 1), "int32")}, "`masks` must have shape"),
            Invalid({"masks": np.zeros((2, 8, 8))}, "`masks` must be integers", TypeError, True),
        ),
        raw=(
            RawOp(
                name="crop_masks",
                op="kvision_crop_masks",
                inputs={"label_map": LABEL_MAP, "boxes": BOXES, "rows": ROWS},
                outputs={"output": RAW_OUTPUT},
                arguments={"output_height": 3, "output_width": 4},
                sizes=SIZES,
                dtypes=("float32",),
                invalid=RAW_INVALID,
                fuzzed_arguments={"output_height": (1, 7, 0, -1), "output_width": (1, 28)},
            ),
        ),
        kernels=kernels("crop_masks", "label_map"),
        kernel_sizes={"height": 150, "width": 211, "num_boxes": 40},
        fuzzed_arguments={"output_size": (1, (2, 3), 28, 0, (1, 2, 3))},
        fuzzed_sizes={"height": 20, "width": 40},
    )


class TestCropMaskRuns(OpTests):
    contract = OpContract(
        name="crop_masks",
        function=crop_masks,
        inputs={"masks": RUNS, "boxes": BOXES, "rows": ROWS},
        outputs={"output": OUTPUT},
        arguments={"output_size": (3, 4), "image_size": (HEIGHT, WIDTH)},
        sizes={"batch": 2, "num_runs": 30},
        dtypes=("float32",),
        computes_in="float32",
        agree=agree,
        native_ops=("crop_mask_runs",),
        cases={
            **dict(cases(runs_of, image_size=8)),
            "a negative run": worked(
                np.array([[[26, 4, -1, 1, 4, 29]]], "int32"),
                outputs=np.zeros((1, 4, 4)),
                image_size=8,
            ),
            "runs beyond the image": worked(
                np.array([[[0, 2**31 - 1, 2**31 - 1, 2**31 - 1]]], "int32"),
                outputs=np.ones((1, 4, 4)),
                image_size=8,
            ),
            "pixels after the last run": worked(
                np.array([[[26, 4, 4, 4, 4, 4, 4, 4]]], "int32"), image_size=8
            ),
        },
        invalid=(
            *INVALID,
            Invalid({"masks": np.zeros((2, 8), "int32")}, "`masks` must have shape"),
            Invalid({"masks": np.zeros((2, 3, 8))}, "`masks` must be integers", TypeError, True),
            Invalid({"image_size": 0}, "`image_size` must be a positive"),
            Invalid({"image_size": (2**16, 2**15)}, "an image must have fewer than"),
        ),
        raw=(
            RawOp(
                name="crop_masks",
                op="kvision_crop_mask_runs",
                inputs={"runs": RUNS, "boxes": BOXES, "rows": ROWS},
                outputs={"output": RAW_OUTPUT},
                arguments={
                    "height": HEIGHT,
                    "width": WIDTH,
                    "output_height": 3,
                    "output_width": 4,
                },
                sizes={"batch": 2, "num_runs": 30},
                dtypes=("float32",),
                invalid=(
                    *RAW_INVALID,
                    Invalid({"runs": np.zeros((2, 3), "int32")}, "`runs` must have shape"),
                    Invalid({"height": 0}, "`height` and `width` must be", static=True),
                    Invalid({"height": 2**28}, "an image must have fewer", static=True),
                ),
                fuzzed_arguments={"height": (1, 9, 0), "width": (1, 30, -1), "output_height": (4,)},
            ),
        ),
        kernels=kernels("crop_mask_runs", "runs", height=HEIGHT, width=WIDTH),
        kernel_sizes={"num_runs": 60, "num_boxes": 300},
        fuzzed_arguments={
            "output_size": (1, (2, 3), 28, 0),
            "image_size": (1, (20, 40), (7, 1), 0, (2**16, 2**15)),
        },
        fuzzed_sizes={"num_runs": 20},
    )


def defined(mask, box, bins):
    """The bins of one box, as RoIAlign is defined: sample by sample, in float64."""
    height, width = mask.shape
    x1, y1, x2, y2 = (float(corner) for corner in box)
    step_x, step_y = max(x2 - x1, 1) / bins, max(y2 - y1, 1) / bins
    samples_x, samples_y = math.ceil(step_x), math.ceil(step_y)

    def sample(y, x):
        if not (-1 <= y <= height and -1 <= x <= width):
            return 0.0
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = mask[top, left] * (left + 1 - x) + mask[top, right] * (x - left)
        lower = mask[bottom, left] * (left + 1 - x) + mask[bottom, right] * (x - left)
        return upper * (top + 1 - y) + lower * (y - top)

    result = np.zeros((bins, bins))
    for i, j in np.ndindex(bins, bins):
        values = [
            sample(
                y1 + (i + (k + 0.5) / samples_y) * step_y, x1 + (j + (m + 0.5) / samples_x) * step_x
            )
            for k in range(samples_y)
            for m in range(samples_x)
        ]
        result[i, j] = np.mean(values)
    return result


@pytest.mark.parametrize("form", ["label map", "runs"])
def test_it_is_roi_align_of_the_mask(implementation, form):
    rng = np.random.default_rng(0)
    height, width, bins = 30, 41, 5
    label_map = patches(rng, (2, height, width), {}).astype("int32")
    label_map[1] = rng.integers(0, 4, (height, width))  # noise: as many runs as pixels
    centre = rng.uniform(-2, [width + 2, height + 2], (2, 12, 2))
    extent = rng.uniform(0.2, 1, (2, 12, 2)) * rng.choice([2, 12, 60], (2, 12, 1))
    boxes = np.concatenate([centre - extent / 2, centre + extent / 2], -1).astype("float32")
    rows = rng.integers(0, 3, (2, 12)).astype("int32")
    masks = label_map[:, None] == np.arange(1, 4)[:, None, None]
    if form == "runs":
        runs = np.stack([run_lengths(image, 2000) for image in masks])
        found = crop_masks(runs, boxes, rows, output_size=bins, image_size=(height, width))
    else:
        found = crop_masks(label_map, boxes, rows, output_size=bins)
    wanted = [
        [defined(masks[i, row], box, bins) for row, box in zip(rows[i], boxes[i], strict=True)]
        for i in range(2)
    ]
    np.testing.assert_allclose(ops.convert_to_numpy(found), wanted, atol=3e-6)


@pytest.mark.parametrize("form", ["label map", "runs"])
@pytest.mark.parametrize("name", ["wide", "high"])
def test_it_is_torchvisions_target(implementation, form, name):
    golden = np.load(GOLDEN)
    label_map, boxes, rows = (golden[f"{name}/{key}"] for key in ("label_map", "boxes", "rows"))
    crops = golden[f"{name}/crops"]
    arguments = {"output_size": crops.shape[-1]}
    masks = label_map
    if form == "runs":
        masks = run_lengths(label_map == np.arange(1, 5)[:, None, None])
        arguments["image_size"] = label_map.shape
    found = crop_masks(masks[None], boxes[None], rows[None], **arguments)
    last_bit_of_a_coordinate = np.spacing(np.float32(max(label_map.shape)))
    found = ops.convert_to_numpy(found)[0]
    np.testing.assert_allclose(found, crops, atol=last_bit_of_a_coordinate)


def test_the_mask_loss_of_the_fact_sheet(implementation):
    """G2: the loss of torchvision's `maskrcnn_loss` on these targets."""
    logits = 2 * np.sin(np.arange(3 * 3 * 16) * 0.37 + 0.2).reshape(3, 3, 4, 4)
    boxes = np.array([[(1, 1, 7, 7), (0, 0, 8, 8), (2, 3, 6, 7)]], "float32")
    runs = runs_of([SQUARE, CORNER])
    rows = np.array([[0, 1, 0]], "int32")
    targets = crop_masks(runs, boxes, rows, output_size=4, image_size=8)
    targets = ops.convert_to_numpy(targets)[0].astype("float64")
    chosen = logits[np.arange(3), np.array([1, 2])[rows[0]]]
    loss = np.mean(np.logaddexp(0, chosen) - chosen * targets)
    assert loss == pytest.approx(1.033703, abs=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64"])
def test_ids_of_any_integer_type(implementation, dtype):
    boxes, rows = np.array([[(1, 1, 7, 7)]], "float32"), np.array([[0]], "int64")
    found = crop_masks(SQUARE[None].astype(dtype), boxes, rows, output_size=4)
    np.testing.assert_allclose(ops.convert_to_numpy(found)[0, 0], WORKED, atol=6e-6)


def test_operation_keeps_its_arguments():
    config = {"output_size": (14, 28), "image_size": (4, 5), "name": "n"}
    operation = CropMasksOperation(**config)
    assert CropMasksOperation.from_config(operation.get_config()).get_config() == config
