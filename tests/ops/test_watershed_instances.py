from pathlib import Path

import numpy as np
import pytest
from keras import ops

from kvision.ops import watershed_instances
from kvision.ops.watershed_instances import WatershedInstancesOperation
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
from tests.ops.component_cases import flooded

GOLDEN = Path(__file__).parents[1] / "golden" / "watershed_instances.npz"
ENERGY = Input("batch height width", draws.integers(0, 4), "int32")
SEMANTIC = Input("batch height width", draws.integers(0, 4), "int32")
GROW_WITHIN = Input("batch height width", draws.booleans(0.7), "bool")
INSTANCES = Output("batch height width", "int32")
NUMBERS = ("cut", "min_area", "grow")


def kernels(inputs, arguments, output_gradients):
    classes = max(np.size(arguments[name]) for name in NUMBERS)
    nothing = np.zeros((len(inputs["energy"]), 0, 0))
    given = {"semantic": nothing.astype("int32"), "grow_within": nothing.astype(bool)}
    per_class = {
        name: np.broadcast_to(arguments[name], (classes,)).astype("int64") for name in NUMBERS
    }
    return [
        KernelCall(
            "watershed_instances", {**given, **inputs, **arguments, **per_class}, {0: "instances"}
        )
    ]


# Table A9: two instances of 7 x 5 pixels that touch, and the levels of their distances.
LEVELS = np.zeros((1, 9, 12), "int32")
for row, column in np.ndindex(7, 10):
    LEVELS[0, 1 + row, 1 + column] = min(row, 6 - row, column % 5, 4 - column % 5)


def rectangles(*bounds, shape=(9, 12)):
    """Ids of `(top, bottom, left, right)`, later ones over earlier."""
    image = np.zeros((1, *shape), "int32")
    for number, (top, bottom, left, right) in enumerate(bounds, start=1):
        image[0, top:bottom, left:right] = number
    return image


class TestWatershedInstances(OpTests):
    contract = OpContract(
        name="watershed_instances",
        function=watershed_instances,
        inputs={"energy": ENERGY, "semantic": SEMANTIC, "grow_within": GROW_WITHIN},
        outputs={"instances": INSTANCES},
        arguments={"cut": (0, 1, 2), "min_area": 2, "grow": (1, 2, 0), "fill_holes": 3},
        sizes={"batch": 2, "height": 9, "width": 13},
        dtypes=("float32",),
        variants={
            "whole": Variant(),
            "classes": Variant({"connectivity": 4}, without=("grow_within",)),
            "one class": Variant({"cut": 1.5, "grow": 2}, without=("semantic",)),
            "alone": Variant({"cut": 2, "grow": 0}, without=("semantic", "grow_within")),
        },
        cases={
            "level > 1": Case(
                {"energy": LEVELS},
                rectangles((3, 6, 3, 4), (3, 6, 8, 9)),
                {"cut": 1, "min_area": 0, "grow": 0, "fill_holes": 64},
            ),
            "level > 1, grown": Case(
                {"energy": LEVELS},
                rectangles((2, 7, 2, 5), (2, 7, 7, 10)),
                {"cut": 1, "min_area": 3, "grow": 1, "fill_holes": 64},
            ),
            "level > 0": Case(
                {"energy": LEVELS},
                rectangles((2, 7, 2, 5), (2, 7, 7, 10)),
                {"cut": 0, "min_area": 15, "grow": 0, "fill_holes": 64},
            ),
            "too small": Case(
                {"energy": LEVELS},
                rectangles(),
                {"cut": 1, "min_area": 4, "grow": 1, "fill_holes": 64},
            ),
            "the later grows over the earlier": Case(
                {"energy": LEVELS},
                rectangles((1, 8, 1, 6), (1, 8, 6, 11)),
                {"cut": 1, "min_area": 0, "grow": 2, "fill_holes": 64},
            ),
            "and the class that comes later, whose id comes first": Case(
                {
                    "energy": LEVELS,
                    "semantic": np.where(np.arange(12) < 6, 2, 1)[None, None] + 0 * LEVELS,
                },
                rectangles((0, 9, 0, 7), (0, 9, 7, 12)),
                {"cut": (1, 1), "min_area": 0, "grow": 3, "fill_holes": 64},
            ),
        },
        invalid=(
            Invalid({"energy": np.zeros((4, 4), "int32")}, "`energy` must have shape"),
            Invalid({"energy": np.zeros((2, 9, 13))}, "`energy` must be integers", TypeError),
            Invalid({"semantic": np.zeros((2, 9, 1), "int32")}, "`semantic` must have shape"),
            Invalid({"semantic": np.zeros((2, 9, 13))}, "`semantic` must be integers", TypeError),
            Invalid({"grow_within": np.ones((9, 13), bool)}, "`grow_within` must have shape"),
            Invalid({"grow_within": np.ones((2, 9, 13))}, "`grow_within` must be bool", TypeError),
            Invalid({"cut": 1, "grow": 1}, "with `semantic`, `cut` must have a number"),
            Invalid({"cut": (1, 2)}, "`cut` must be a number or have one for each of 3"),
            Invalid({"cut": ()}, "`cut` must have a number for each class"),
            Invalid({"cut": (0, 1, np.nan)}, "`cut` must be between"),
            Invalid({"cut": (0, 1, 2**31)}, "`cut` must be between"),
            Invalid({"cut": (0, 1, "2")}, "`cut` must be a number", TypeError),
            Invalid({"min_area": -1}, "`min_area` must be a whole number between"),
            Invalid({"grow": (1, 2, 0.5)}, "`grow` must be a whole number between"),
            Invalid({"grow": None}, "`grow` must be a number", TypeError),
            Invalid({"fill_holes": -1}, "`fill_holes` must be a whole number between"),
            Invalid({"connectivity": 6}, "`connectivity` must be 4 or 8"),
        ),
        raw=(
            RawOp(
                name="watershed_instances",
                op="kvision_watershed_instances",
                inputs={"energy": ENERGY, "semantic": SEMANTIC, "grow_within": GROW_WITHIN},
                outputs={"instances": INSTANCES},
                arguments={
                    "cut": np.array([0, 1, 2]),
                    "min_area": np.array([2, 0, 3]),
                    "grow": np.array([1, 2, 0]),
                    "fill_holes": 3,
                },
                sizes={"batch": 2, "height": 9, "width": 13},
                dtypes=("float32",),
                invalid=(
                    Invalid({"energy": np.zeros((4, 4), "int32")}, "`energy` must have shape"),
                    Invalid({"semantic": np.zeros((3, 3), "int32")}, "`semantic` must have shape"),
                    Invalid({"connectivity": 6}, "`connectivity` must be 4 or 8", static=True),
                    Invalid({"fill_holes": -1}, "`fill_holes` must be between", static=True),
                    Invalid({"cut": np.array([1])}, "must have shape"),
                    Invalid({"grow": np.array([1, -2, 0])}, "`grow` must be between"),
                ),
            ),
        ),
        kernels=kernels,
        kernel_sizes={"height": 150, "width": 211},
        fuzzed_arguments={
            "cut": ((0, 1, 2), (1, 1, -5), (2**31 - 1, 0, -(2**31)), (0, 0, np.nan)),
            "min_area": (0, 1, 4, (0, 9, 2**31 - 1), -1),
            "grow": (0, 1, 5, (0, 2, 2**31 - 1), 0.5),
            "fill_holes": (0, 1, 6, 64, -1),
            "connectivity": (8, 4, 5),
        },
        fuzzed_sizes={"height": 12, "width": 70},
    )


def defined(energy, semantic, grow_within, cut, min_area, grow, connectivity, fill_holes):
    """The instances of one image, step by step, each window of each pixel painted."""
    height, width = energy.shape
    result = np.zeros((height, width), "int64")
    for index in range(len(cut)):
        mask = (energy > cut[index]) & (semantic == index + 1)
        labels = flooded(mask, 4)
        mask &= np.bincount(labels.ravel())[labels] >= min_area[index]
        if mask.any():
            labels = flooded(~mask, 4 if connectivity == 8 else 8)
            mask |= np.bincount(labels.ravel())[labels] < fill_holes
        labels, before, reach = flooded(mask, connectivity), result.max(initial=0), grow[index]
        for number in range(1, labels.max(initial=0) + 1):
            own = labels == number
            window = np.zeros_like(own)
            for y, x in np.argwhere(own):
                window[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1] = True
            result[window & grow_within] = before + number
        outside = (labels > 0) & ~grow_within
        result[outside] = before + labels[outside]
    _, first, ids = np.unique(result, return_index=True, return_inverse=True)
    is_instance = np.unique(result) > 0
    order = np.where(is_instance, first, -1).argsort().argsort() + (not (result == 0).any())
    return order[ids.reshape(result.shape)]


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize(
    "arguments",
    [
        {"cut": (0, 1, 1), "min_area": (1, 4, 6), "grow": (1, 0, 2), "fill_holes": 5},
        {"cut": (1, 1, 1), "min_area": (3, 3, 3), "grow": (0, 0, 0), "fill_holes": 30},
        {"cut": (-1, 2, 0), "min_area": (0, 0, 0), "grow": (40, 9, 1), "fill_holes": 0},
    ],
    ids=str,
)
def test_it_is_the_steps(implementation, connectivity, arguments):
    rng = np.random.default_rng(0)
    for height, width in [(23, 71), (1, 66), (40, 1), (8, 9)]:
        energy = rng.integers(0, 4, (3, height, width))
        semantic = rng.integers(0, 5, (3, height // 4 + 1, width // 4 + 1))
        semantic = semantic.repeat(4, 1).repeat(4, 2)[:, :height, :width]
        for within in (np.ones(energy.shape, bool), rng.random(energy.shape) < 0.7):
            found = watershed_instances(
                energy,
                semantic=semantic,
                grow_within=within,
                connectivity=connectivity,
                **arguments,
            )
            wanted = [
                defined(*image, connectivity=connectivity, **arguments)
                for image in zip(energy, semantic, within, strict=True)
            ]
            np.testing.assert_array_equal(ops.convert_to_numpy(found), wanted)


def test_it_is_the_published_pipeline(implementation):
    with np.load(GOLDEN) as golden:
        names = {key.rpartition("/")[0] for key in golden.files if "/" in key}
        assert len(names) == 12
        for name in sorted(names):
            case = {
                key: golden[f"{name}/{key}"]
                for key in ("energy", "semantic", *NUMBERS, "fill_holes", "instances")
            }
            numbers = {key: tuple(case[key].tolist()) for key in NUMBERS}
            found = watershed_instances(
                case["energy"][None],
                semantic=case["semantic"][None],
                fill_holes=int(case["fill_holes"]),
                **numbers,
            )
            np.testing.assert_array_equal(ops.convert_to_numpy(found)[0], case["instances"], name)


def test_an_empty_class_fills_nothing(implementation):
    energy = np.zeros((1, 5, 5), "int32")
    energy[0, 2, 2] = 3
    found = watershed_instances(energy, cut=3)
    np.testing.assert_array_equal(ops.convert_to_numpy(found), 0 * energy)
    # All that is left of the image is smaller than a hole.
    found = watershed_instances(energy, cut=2)
    np.testing.assert_array_equal(ops.convert_to_numpy(found), 0 * energy + 1)


def test_an_instance_that_is_painted_over_has_no_id(implementation):
    energy = np.array([[[5, 0, 5, 0, 0, 0, 5, 0, 0, 0]]])
    found = watershed_instances(energy, cut=0, grow=2, fill_holes=0)
    np.testing.assert_array_equal(ops.convert_to_numpy(found), [[[1, 1, 1, 1, 2, 2, 2, 2, 2, 0]]])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int64"])
def test_maps_of_any_integer_type(implementation, dtype):
    energy = np.array([[[2, 0, 2, 1, 2]]]).astype(dtype)
    semantic = np.array([[[1, 1, 2, 2, 1]]]).astype(dtype)
    found = watershed_instances(
        energy, cut=(1, 0), semantic=semantic, grow=1, grow_within=energy, fill_holes=0
    )
    np.testing.assert_array_equal(ops.convert_to_numpy(found), [[[1, 0, 2, 2, 2]]])


def test_operation_keeps_its_arguments():
    config = {
        "cut": (1, 2),
        "min_area": (3, 3),
        "grow": (0, 1),
        "connectivity": 4,
        "fill_holes": 7,
        "name": "n",
    }
    operation = WatershedInstancesOperation(**config)
    assert WatershedInstancesOperation.from_config(operation.get_config()).get_config() == config
