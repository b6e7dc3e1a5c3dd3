import math

import numpy as np
import pytest
from keras import ops

from kvision.ops import border_weight_map
from kvision.ops.border_weight_map import BorderWeightMapOperation
from kvision.testing import Case, Input, Invalid, KernelCall, OpContract, OpTests, Output, RawOp
from tests.ops.label_maps import ellipses, patches

INSTANCES = Input("batch height width", patches, "int32")
OUTPUT = Output("batch height width", "float32")


def agree(found, wanted, inputs):
    np.testing.assert_allclose(found["output"], wanted["output"], rtol=2e-6, atol=1e-35)


def kernels(inputs, arguments, output_gradients):
    background, foreground = arguments["class_weights"]
    numbers = {name: arguments[name] for name in ("border_weight", "sigma")}
    numbers |= {"background_weight": background, "foreground_weight": foreground}
    return [KernelCall("border_weight_map", {**inputs, **numbers}, {0: "output"})]


def on_a_row(*ids):
    return {"instances": np.array([[ids]], "int32")}


class TestBorderWeightMap(OpTests):
    contract = OpContract(
        name="border_weight_map",
        function=border_weight_map,
        inputs={"instances": INSTANCES},
        outputs={"output": OUTPUT},
        arguments={"class_weights": (0.5, 2.0), "border_weight": 10.0, "sigma": 5.0},
        sizes={"batch": 2, "height": 11, "width": 14},
        dtypes=("float32",),
        computes_in="float32",
        agree=agree,
        cases={
            # Distances 0 and 2, 1 and 1, 2 and 0; the published weights.
            "one pixel between": Case(
                on_a_row(4, 0, 9),
                [[[2 + 9.231163, 0.5 + 9.231163, 2 + 9.231163]]],
            ),
            # Anywhere between two pixels, d1 + d2 is their distance.
            "eight pixels apart": Case(
                on_a_row(0, 3, 0, 0, 0, 0, 0, 0, 0, 5),
                [[[0.5 + 1.353353, *[w + 2.780373 for w in (2, *[0.5] * 7, 2)]]]],
            ),
            "one cell": Case(on_a_row(0, 3, 3, 0), [[[0.5, 2, 2, 0.5]]]),
            "no cell": Case(on_a_row(0, -1, -5), [[[0.5, 0.5, 0.5]]]),
            "a cell that fills the image": Case(on_a_row(3, 3, 3), [[[2, 2, 2]]]),
        },
        invalid=(
            Invalid({"instances": np.zeros((4, 4), "int32")}, "`instances` must have shape"),
            Invalid({"instances": np.zeros((1, 4, 4, 1), "int32")}, "`instances` must have shape"),
            Invalid(
                {"instances": np.zeros((1, 4, 4), "float32")},
                "`instances` must be bool or integers",
                TypeError,
            ),
            Invalid({"instances": np.zeros((1, 23171, 1), "int32")}, "an image must be at most"),
            Invalid({"class_weights": (1.0,)}, "`class_weights` must be two numbers"),
            Invalid({"class_weights": 1.0}, "`class_weights` must be two numbers"),
            Invalid({"class_weights": (1.0, -1.0)}, "`class_weights` must be finite"),
            Invalid({"class_weights": (1.0, "2")}, "`class_weights` must be a number", TypeError),
            Invalid({"border_weight": -1.0}, "`border_weight` must be finite"),
            Invalid({"border_weight": math.inf}, "`border_weight` must be finite"),
            Invalid({"sigma": 0.0}, "`sigma` must be positive"),
            Invalid({"sigma": math.nan}, "`sigma` must be positive"),
            Invalid({"sigma": 1e39}, "`sigma` must be positive"),
        ),
        raw=(
            RawOp(
                name="border_weight_map",
                op="kvision_border_weight_map",
                inputs={"instances": INSTANCES},
                outputs={"output": OUTPUT},
                dtypes=("float32",),
                invalid=(
                    Invalid({"instances": np.zeros((4, 4), "int32")}, "`instances` must have sha"),
                    Invalid({"instances": np.zeros((1, 1, 23171), "int32")}, "an image must be"),
                    Invalid({"foreground_weight": -1.0}, "`class_weights` must be", static=True),
                    Invalid({"border_weight": math.inf}, "`border_weight` must be", static=True),
                    Invalid({"sigma": 0.0}, "`sigma` must be positive", static=True),
                ),
                fuzzed_arguments={
                    "background_weight": (1.0, 0.0, 1e-3, -1.0, math.nan),
                    "foreground_weight": (1.0, 0.0, 50.0, math.inf),
                    "border_weight": (10.0, 0.0, 1e-3, -1.0, math.nan),
                    "sigma": (5.0, 0.5, 300.0, 1e-30, 0.0, math.inf),
                },
            ),
        ),
        kernels=kernels,
        kernel_sizes={"height": 150, "width": 211},
        fuzzed_arguments={
            "class_weights": ((1.0, 1.0), (0.0, 0.0), (0.5, 20.0), (1e-3, 0.0), (-1.0, 1.0), ()),
            "border_weight": (10.0, 0.0, 1e-3, 1e3, -1.0, math.nan),
            "sigma": (5.0, 0.5, 300.0, 1e-44, 1e30, 0.0, math.inf),
        },
        fuzzed_sizes={"height": 20, "width": 40},
    )


def defined(image, class_weights=(1.0, 1.0), border_weight=10.0, sigma=5.0):
    """The weights of one image, all distances to all border pixels written out, in float64."""
    height, width = image.shape
    points = np.stack(np.mgrid[:height, :width], axis=-1).reshape(-1, 2)
    borders = {}
    for y, x in points:
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        around = [image[v, u] for v, u in around if 0 <= v < height and 0 <= u < width]
        if image[y, x] > 0 and any(near != image[y, x] for near in around):
            borders.setdefault(image[y, x], []).append((y, x))
    weights = np.where(image > 0, class_weights[1], class_weights[0]).astype("float64")
    if len(borders) < 2:
        return weights
    nearest = [
        np.linalg.norm(points[:, None] - np.array(border)[None], axis=-1).min(axis=1)
        for border in borders.values()
    ]
    first, second = np.sort(nearest, axis=0)[:2].reshape(2, height, width)
    return weights + border_weight * np.exp(-((first + second) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"class_weights": (0.25, 3.0), "sigma": 1.5},
        {"class_weights": (0.0, 0.0)},  # all of the second term is seen
        {"class_weights": (0.0, 1.0), "border_weight": 1e3, "sigma": 40.0},
    ],
    ids=str,
)
def test_it_is_the_formula(implementation, arguments):
    rng = np.random.default_rng(0)
    shapes = [(1, 40), (40, 1), (17, 33), (23, 50), (50, 23), (9, 70)]
    for height, width in shapes:
        images = [ellipses(rng, height, width, number) for number in (2, 5, 20)]
        images.append(rng.integers(0, 3, (height, width)).astype("int32"))  # hardly a pixel inside
        found = ops.convert_to_numpy(border_weight_map(np.stack(images), **arguments))
        wanted = np.stack([defined(image, **arguments) for image in images])
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-30)


def test_the_second_cell_may_be_far_behind_the_first(implementation):
    # In the columns of the large cell the small one is never the nearest.
    image = np.zeros((1, 30, 64), "int32")
    image[0, 10:20, 5:60] = 1
    image[0, 28, 30] = 2
    arguments = {"class_weights": (0.0, 0.0), "sigma": 20.0}
    found = ops.convert_to_numpy(border_weight_map(image, **arguments))
    np.testing.assert_allclose(found[0], defined(image[0], **arguments), rtol=2e-5)


def test_background_between_cells_weighs_most_for_common_re_implementations_too(implementation):
    """On the background the distance to a cell is that to its border."""
    rng = np.random.default_rng(1)
    image = ellipses(rng, 30, 40, 12)
    points = np.argwhere(np.ones(image.shape))
    distances = [
        np.linalg.norm(points[:, None] - np.argwhere(image == i)[None], axis=-1).min(axis=1)
        for i in np.unique(image[image > 0])
    ]
    first, second = np.sort(distances, axis=0)[:2].reshape(2, *image.shape)
    theirs = 10 * np.exp(-((first + second) ** 2) / 50) * (image == 0)
    found = ops.convert_to_numpy(border_weight_map(image[None], class_weights=(0.0, 0.0)))[0]
    np.testing.assert_allclose(found * (image == 0), theirs, rtol=2e-5, atol=1e-30)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int64"])
def test_ids_of_any_integer_type(implementation, dtype):
    image = patches(np.random.default_rng(0), (1, 9, 12), {}) % 100
    found = ops.convert_to_numpy(border_weight_map(image.astype(dtype)))
    np.testing.assert_allclose(found[0], defined(image[0]), rtol=2e-5)


def test_operation_keeps_its_arguments():
    config = {"class_weights": (0.5, 2.0), "border_weight": 3.0, "sigma": 1.0, "name": "n"}
    operation = BorderWeightMapOperation(**config)
    assert BorderWeightMapOperation.from_config(operation.get_config()).get_config() == config
