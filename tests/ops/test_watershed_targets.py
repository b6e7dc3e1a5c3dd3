import math

import numpy as np
import pytest
from keras import ops

from kvision.ops import DWT_EDGES, watershed_targets
from kvision.ops.watershed_targets import WatershedTargetsOperation
from kvision.testing import Case, Input, Invalid, KernelCall, OpContract, OpTests, Output, RawOp
from tests.ops.label_maps import distances, ellipses, patches

INSTANCES = Input("batch height width", patches, "int32")
OUTPUTS = {
    "distance": Output("batch height width", "float32"),
    "direction": Output("batch height width 2", "float32"),
    "level": Output("batch height width", "int32"),
    "weight": Output("batch height width", "float32"),
}
ROOT = math.sqrt(0.5)


def agree(found, wanted, inputs):
    np.testing.assert_array_equal(found["level"], wanted["level"])
    for name in ("distance", "direction", "weight"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-6, atol=1e-6)


def kernels(inputs, arguments, output_gradients):
    return [KernelCall("watershed_targets", {**inputs, **arguments}, dict(enumerate(OUTPUTS)))]


def two_that_touch():
    image = np.zeros((9, 12), "int32")
    image[1:8, 1:6], image[1:8, 6:11] = 1, 2
    return image


class TestWatershedTargets(OpTests):
    contract = OpContract(
        name="watershed_targets",
        function=watershed_targets,
        inputs={"instances": INSTANCES},
        outputs=OUTPUTS,
        arguments={"level_edges": (0.0, 1.0, 1.5, 3.0), "image_border_is_outside": False,
                   "min_area": 3},
        sizes={"batch": 2, "height": 11, "width": 14},
        dtypes=("float32",),
        computes_in="float32",
        agree=agree,
        cases={
            # An instance on the border, one of two pixels, one that touches both.
            "a row": Case(
                {"instances": np.array([[[7, 7, 7, 3, 3, 9, 9, 9, 9, 0]]], "int32")},
                {
                    "distance": [[[3, 2, 1, 0, 0, 1, 2, 2, 1, 0]]],
                    "direction": [[[(-1, 0)] * 3 + [(0, 0)] * 2
                                   + [(1, 0)] * 2 + [(-1, 0)] * 2 + [(0, 0)]]],
                    "level": np.array([[[2, 2, 0, 0, 0, 0, 2, 2, 0, 0]]]),
                    "weight": [[[200 / 3**0.5] * 3 + [0, 0] + [100] * 4 + [0]]],
                },
            ),
            # The filter sees a frame of zeros.
            "an instance that fills the image": Case(
                {"instances": np.full((1, 3, 3), 2, "int32")},
                {
                    "distance": [[[1, 1, 1], [1, 2, 1], [1, 1, 1]]],
                    "direction": [[
                        [(ROOT, ROOT), (0, 1), (-ROOT, ROOT)],
                        [(1, 0), (0, 0), (-1, 0)],
                        [(ROOT, -ROOT), (0, -1), (-ROOT, -ROOT)],
                    ]],
                    "level": np.array([[[0, 0, 0], [0, 2, 0], [0, 0, 0]]]),
                    "weight": np.full((1, 3, 3), 200 / 3),
                },
            ),
        },
        invalid=(
            Invalid({"instances": np.zeros((4, 4), "int32")}, "`instances` must have shape"),
            Invalid(
                {"instances": np.zeros((1, 4, 4), "float32")},
                "`instances` must be bool or int",
                TypeError,
            ),
            Invalid({"instances": np.zeros((1, 1, 23170), "int32")}, "an image must be at most"),
            Invalid({"level_edges": ()}, "`level_edges` must be 1 to 256"),
            Invalid({"level_edges": 5}, "`level_edges` must be 1 to 256"),
            Invalid({"level_edges": (0, 2, 2)}, "`level_edges` must be 1 to 256"),
            Invalid({"level_edges": (0, 2, math.nan)}, "`level_edges` must be 1 to 256"),
            Invalid({"level_edges": (0, 1, math.inf)}, "`level_edges` must be 1 to 256"),
            Invalid({"level_edges": (1, 1 + 1e-9)}, "`level_edges` must be 1 to 256"),
            Invalid({"level_edges": tuple(range(257))}, "`level_edges` must be 1 to 256"),
            Invalid({"level_edges": (0, "1")}, "`level_edges` must be numbers", TypeError),
            Invalid({"min_area": -1}, "`min_area` must be a whole number of at least 0"),
            Invalid({"min_area": 1.5}, "`min_area` must be a whole number of at least 0"),
        ),
        raw=(
            RawOp(
                name="watershed_targets",
                op="kvision_watershed_targets",
                inputs={"instances": INSTANCES},
                outputs=OUTPUTS,
                arguments={"level_edges": (0.0, 1.0, 1.5, 3.0)},
                dtypes=("float32",),
                invalid=(
                    Invalid({"instances": np.zeros((4, 4), "int32")}, "`instances` must have sha"),
                    Invalid({"instances": np.zeros((1, 23170, 1), "int32")}, "an image must be"),
                    Invalid({"level_edges": (0.0, 0.0)}, "`level_edges` must be 1 to 256"),
                    Invalid({"min_area": -1}, "`min_area` must be at least 0", static=True),
                ),
                fuzzed_arguments={
                    "level_edges": ((0.0,), (-1.0, 0.0, 1.0, 2.5), (0.0, 3.0), (), (1.0, 0.0)),
                    "image_border_is_outside": (True, False),
                    "min_area": (0, 1, 9, 2**40, -1),
                },
            ),
        ),
        kernels=kernels,
        kernel_sizes={"height": 150, "width": 211},
        fuzzed_arguments={
            "level_edges": (DWT_EDGES, (0.5,), (-1, 0, 1, 2, 2.5), (0, 1e30), (), (1, 0)),
            "image_border_is_outside": (True, False),
            "min_area": (0, 1, 9, 2**40, -1),
        },
        fuzzed_sizes={"height": 20, "width": 40},
    )  # fmt: skip


def test_published_example(implementation):
    """Two instances that touch, and what the published code makes of them."""
    found = watershed_targets(two_that_touch()[None])
    found = {name: ops.convert_to_numpy(values)[0] for name, values in found.items()}
    assert found["distance"][4].tolist() == [0, 1, 2, 3, 2, 1, 1, 2, 3, 2, 1, 0]
    assert found["distance"][:, 3].tolist() == [0, 1, 2, 3, 3, 3, 2, 1, 0]
    assert found["level"][4].tolist() == [0, 0, 1, 2, 1, 0, 0, 1, 2, 1, 0, 0]
    np.testing.assert_allclose(found["weight"], 33.806170 * (two_that_touch() > 0), rtol=1e-7)
    directions = {(4, 1): (1, 0), (1, 3): (0, 1), (1, 1): (ROOT, ROOT), (4, 3): (0, 0),
                  (4, 5): (-1, 0), (4, 6): (1, 0), (4, 0): (0, 0)}  # fmt: skip
    for at, direction in directions.items():
        np.testing.assert_allclose(found["direction"][at], direction, rtol=1e-6)


def test_published_levels(implementation):
    """A row from a border is as far as any number of pixels; slanting distances lie between."""
    level = ops.convert_to_numpy(watershed_targets(np.arange(70)[None, None] < 60)["level"])[0, 0]
    published = {1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 5, 9: 6, 12: 7, 15: 8, 19: 9, 24: 10,
                 30: 11, 37: 12, 45: 13, 54: 14, 55: 15, 60: 15}  # fmt: skip
    assert {distance: level[60 - distance] for distance in published} == published
    # One pixel of background: the next but one, and those on the diagonal.
    image = np.ones((1, 5, 5), "int32")
    image[0, 0, 0] = 0
    level = ops.convert_to_numpy(watershed_targets(image)["level"])[0]
    assert [level[at] for at in [(0, 1), (1, 1), (0, 2), (1, 2)]] == [0, 1, 1, 2]


def defined(image, level_edges, border_is_outside, min_area):
    """The four targets by definition, in float64 from distances that are rounded once.

    And how far float32 may miss the direction: each side of a difference is a sum of up to four
    distances, rounded twice.
    """
    distance = distances(image, border_is_outside).astype("float32").astype("float64")
    targets = {"distance": np.zeros(image.shape), "direction": np.zeros((*image.shape, 2)),
               "level": np.zeros(image.shape, int), "weight": np.zeros(image.shape)}  # fmt: skip
    rounding = np.zeros((*image.shape, 1))
    for instance in np.unique(image[image > 0]):
        mask = image == instance
        area = mask.sum()
        if area < min_area:
            continue
        framed = border_is_outside or mask.all()
        own = np.pad(np.where(mask, distance, 0), 1, mode="constant" if framed else "edge")
        down, right = (own[:-2] + 2 * own[1:-1] + own[2:],
                       own[:, :-2] + 2 * own[:, 1:-1] + own[:, 2:])  # fmt: skip
        gradient = np.stack([down[:, 2:] - down[:, :-2], right[2:] - right[:-2]])
        ridge = np.abs(gradient).max(axis=0) <= 2.0**-20 * distance
        length = np.maximum(np.linalg.norm(gradient, axis=0), 1e-30)
        unit = np.where(ridge, 0, gradient / length)
        rounding[mask, 0] = np.where(ridge, 0, 16 * 2.0**-24 * (distance + 1.5) / length)[mask]
        targets["direction"][mask] = np.moveaxis(unit, 0, -1)[mask]
        targets["distance"][mask] = distance[mask]
        targets["level"][mask] = np.digitize(distance, level_edges[1:], right=True)[mask]
        targets["weight"][mask] = 200 / np.sqrt(area)
    return targets, rounding


@pytest.mark.parametrize(
    "arguments",
    [
        (DWT_EDGES, False, 0),
        (DWT_EDGES, True, 20),
        ((0.5,), False, 1),
        ((0, 1.25, 2.5), True, 0),
    ],
    ids=str,
)
def test_they_are_the_definition(implementation, arguments):
    rng = np.random.default_rng(0)
    for height, width in [(1, 40), (40, 1), (17, 33), (23, 50), (9, 70)]:
        images = [ellipses(rng, height, width, number) for number in (2, 5, 20)]
        images.append(rng.integers(0, 3, (height, width)).astype("int32"))
        images.append(np.full((height, width), 6, "int32"))
        names = ("level_edges", "image_border_is_outside", "min_area")
        found = watershed_targets(np.stack(images), **dict(zip(names, arguments, strict=True)))
        for i, image in enumerate(images):
            targets, rounding = defined(image, *arguments)
            for name, wanted in targets.items():
                missed = np.abs(ops.convert_to_numpy(found[name])[i] - wanted)
                allowed = 2e-6 + 1e-6 * np.abs(wanted)
                if name == "direction":
                    allowed = allowed + rounding
                assert (missed <= allowed).all(), name


def test_a_border_that_is_outside_is_a_frame_of_background(implementation):
    images = patches(np.random.default_rng(2), (3, 20, 30), {})
    found = watershed_targets(images, image_border_is_outside=True)
    framed = watershed_targets(np.pad(images, [(0, 0), (1, 1), (1, 1)]))
    for name, values in found.items():
        inner = ops.convert_to_numpy(framed[name])[:, 1:-1, 1:-1]
        np.testing.assert_array_equal(ops.convert_to_numpy(values), inner)


def test_operation_keeps_its_arguments():
    config = {
        "level_edges": (0.0, 2.0),
        "image_border_is_outside": True,
        "min_area": 7,
        "name": "n",
    }
    operation = WatershedTargetsOperation(**config)
    assert WatershedTargetsOperation.from_config(operation.get_config()).get_config() == config
