import numpy as np
import pytest
from keras import ops

from kvision.ops import connected_components
from kvision.ops.connected_components import ConnectedComponentsOperation
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

MASK = Input("batch height width", draws.booleans(0.5), "bool")
LABELS = Output("batch height width", "int32")


def kernels(inputs, arguments, output_gradients):
    return [KernelCall("connected_components", {**inputs, **arguments}, {0: "labels"})]


def mask_of(*rows):
    return {"mask": np.array([[pixel != "." for pixel in row] for row in rows])[None]}


class TestConnectedComponents(OpTests):
    contract = OpContract(
        name="connected_components",
        function=connected_components,
        inputs={"mask": MASK},
        outputs={"labels": LABELS},
        arguments={"connectivity": 8},
        sizes={"batch": 2, "height": 9, "width": 13},
        dtypes=("float32",),
        variants={"8": Variant(), "4": Variant({"connectivity": 4})},
        cases={
            # skimage.measure.label(np.eye(3)) has one component by default.
            "a diagonal": Case(mask_of("x..", ".x.", "..x"), np.eye(3, dtype="int32")[None]),
            "a diagonal of sides": Case(
                mask_of("x..", ".x.", "..x"), np.diag([1, 2, 3])[None], {"connectivity": 4}
            ),
            # The second component's first pixel comes before those of the others that it holds.
            "raster order": Case(
                mask_of("..x.x", "x.x..", "x.xxx"),
                np.array([[[0, 0, 1, 0, 2], [3, 0, 1, 0, 0], [3, 0, 1, 1, 1]]]),
                {"connectivity": 4},
            ),
            "a comb is one": Case(
                mask_of("x.x.x", "x.x.x", "xxxxx"),
                np.array([[[1, 0, 1, 0, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]]]),
            ),
            "none": Case(mask_of("...", "..."), np.zeros((1, 2, 3), "int32")),
        },
        invalid=(
            Invalid({"mask": np.zeros((4, 4), bool)}, "`mask` must have shape"),
            Invalid({"mask": np.zeros((1, 4, 4, 1), bool)}, "`mask` must have shape"),
            Invalid({"mask": np.zeros((1, 4, 4), "float32")}, "`mask` must be bool", TypeError),
            Invalid({"connectivity": 6}, "`connectivity` must be 4 or 8"),
            Invalid({"connectivity": True}, "`connectivity` must be 4 or 8"),
            Invalid({"connectivity": None}, "`connectivity` must be 4 or 8"),
        ),
        raw=(
            RawOp(
                name="connected_components",
                op="kvision_connected_components",
                inputs={"mask": MASK},
                outputs={"labels": LABELS},
                dtypes=("float32",),
                invalid=(
                    Invalid({"mask": np.zeros((4, 4), bool)}, "`mask` must have shape"),
                    Invalid({"connectivity": 6}, "`connectivity` must be 4 or 8", static=True),
                ),
                fuzzed_arguments={"connectivity": (8, 4, 0)},
            ),
        ),
        kernels=kernels,
        kernel_sizes={"height": 150, "width": 1011},
        fuzzed_arguments={"connectivity": (8, 4, 5)},
        fuzzed_sizes={"height": 20, "width": 140},
    )


def spiral(side):
    """A line that winds inwards: the component whose ends are farthest apart."""
    image = np.zeros((side, side), bool)
    y, x, dy, dx = 0, 0, 0, 1
    image[0, 0] = True
    for length in [side - 1] + [n for n in range(side - 1, 0, -2) for _ in (0, 1)]:
        for _ in range(length):
            y, x = y + dy, x + dx
            image[y, x] = True
        dy, dx = dx, -dy
    return image


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("density", [0.05, 0.4, 0.5, 0.6, 0.95])
def test_it_is_a_flood(implementation, connectivity, density):
    rng = np.random.default_rng(0)
    for shape in [(3, 20, 130), (2, 65, 64), (1, 1, 70), (1, 70, 1), (4, 40, 33)]:
        masks = rng.random(shape) < density
        found = ops.convert_to_numpy(connected_components(masks, connectivity=connectivity))
        np.testing.assert_array_equal(found, [flooded(image, connectivity) for image in masks])


def test_a_spiral_is_one(implementation):
    image = spiral(47)
    found = ops.convert_to_numpy(connected_components(np.stack([image, ~image])))
    np.testing.assert_array_equal(found, [flooded(image, 8), flooded(~image, 8)])
    assert found.max() == 1


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "uint16", "int64"])
def test_masks_of_any_type(implementation, dtype):
    image = np.array([[[0, 3, 0, 1], [0, 0, 2, 0]]]).astype(dtype)
    found = ops.convert_to_numpy(connected_components(image, connectivity=4))
    np.testing.assert_array_equal(found, [[[0, 1, 0, 2], [0, 0, 3, 0]]])


def test_operation_keeps_its_arguments():
    config = {"connectivity": 4, "name": "n"}
    operation = ConnectedComponentsOperation(**config)
    assert ConnectedComponentsOperation.from_config(operation.get_config()).get_config() == config
