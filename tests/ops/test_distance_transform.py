import numpy as np
import pytest
from keras import ops

from kvision.ops import distance_transform
from kvision.ops.watershed_targets import DistanceTransformOperation
from kvision.testing import Case, Input, Invalid, KernelCall, OpContract, OpTests, Output, RawOp
from tests.ops.label_maps import distances, ellipses, patches

INSTANCES = Input("batch height width", patches, "int32")
OUTPUT = Output("batch height width", "float32")


def kernels(inputs, arguments, output_gradients):
    return [KernelCall("distance_transform", {**inputs, **arguments}, {0: "output"})]


class TestDistanceTransform(OpTests):
    contract = OpContract(
        name="distance_transform",
        function=distance_transform,
        inputs={"instances": INSTANCES},
        outputs={"output": OUTPUT},
        arguments={"image_border_is_outside": False},
        sizes={"batch": 2, "height": 11, "width": 14},
        dtypes=("float32",),
        computes_in="float32",
        cases={
            "a mask on the border": Case(
                {"instances": np.array([[[1, 1, 1, 0]]], "int32")}, [[[3, 2, 1, 0]]]
            ),
            "a border that is outside": Case(
                {"instances": np.array([[[1, 1, 1, 0]] * 3], "int32")},
                [[[1, 1, 1, 0], [1, 2, 1, 0], [1, 1, 1, 0]]],
                {"image_border_is_outside": True},
            ),
            "an instance that fills the image": Case(
                {"instances": np.full((1, 3, 4), 9, "int32")},
                [[[1, 1, 1, 1], [1, 2, 2, 1], [1, 1, 1, 1]]],
            ),
            "two that touch": Case(
                {"instances": np.array([[[5, 5, 5, 7, 7]]], "int32")}, [[[3, 2, 1, 1, 2]]]
            ),
            "one in two places": Case(
                {"instances": np.array([[[4, 4, -3, 0, 4]]], "int32")}, [[[2, 1, 0, 0, 1]]]
            ),
        },
        invalid=(
            Invalid({"instances": np.zeros((4, 4), "int32")}, "`instances` must have shape"),
            Invalid(
                {"instances": np.zeros((1, 4, 4), "float32")},
                "`instances` must be bool or integers",
                TypeError,
            ),
            Invalid({"instances": np.zeros((1, 23170, 1), "int32")}, "an image must be at most"),
        ),
        raw=(
            RawOp(
                name="distance_transform",
                op="kvision_distance_transform",
                inputs={"instances": INSTANCES},
                outputs={"output": OUTPUT},
                dtypes=("float32",),
                invalid=(
                    Invalid({"instances": np.zeros((4, 4), "int32")}, "`instances` must have sha"),
                    Invalid({"instances": np.zeros((1, 1, 23170), "int32")}, "an image must be"),
                ),
                fuzzed_arguments={"image_border_is_outside": (True, False)},
            ),
        ),
        kernels=kernels,
        kernel_sizes={"height": 150, "width": 211},
        fuzzed_arguments={"image_border_is_outside": (True, False)},
        fuzzed_sizes={"height": 20, "width": 40},
    )


@pytest.mark.parametrize("border_is_outside", [False, True])
def test_it_is_the_definition(implementation, border_is_outside):
    rng = np.random.default_rng(0)
    for height, width in [(1, 40), (40, 1), (17, 33), (23, 50), (9, 70)]:
        images = [ellipses(rng, height, width, number) for number in (2, 5, 20)]
        images.append(rng.integers(0, 3, (height, width)).astype("int32"))
        images.append(np.full((height, width), 6, "int32"))
        images.append(images[-1].copy())
        images[-1][height // 3, width // 4] = 0
        found = distance_transform(np.stack(images), image_border_is_outside=border_is_outside)
        wanted = np.stack([distances(image, border_is_outside) for image in images])
        np.testing.assert_allclose(ops.convert_to_numpy(found), wanted, rtol=1e-6)


@pytest.mark.parametrize("border_is_outside", [False, True])
def test_large_instances_equal_scipy(border_is_outside):
    """Runs long enough for the search that does not look at every pixel between."""
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(1)
    for height, width in [(200, 700), (700, 300), (431, 431)]:
        image = (ellipses(rng, height, width, 3, radii=(90, 400)) > 0).astype("int32")
        image[rng.integers(0, height, 2), rng.integers(0, width, 2)] = 0
        image += 3 * (np.arange(width) > 0.8 * width).astype("int32") * image
        wanted = np.zeros(image.shape)
        for instance in np.unique(image[image > 0]):
            mask = np.pad(image == instance, 1, mode="constant" if border_is_outside else "edge")
            distance = ndimage.distance_transform_edt(mask)[1:-1, 1:-1]
            wanted = np.where(image == instance, distance, wanted)
        found = distance_transform(image[None], image_border_is_outside=border_is_outside)
        np.testing.assert_allclose(ops.convert_to_numpy(found)[0], wanted, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int64"])
def test_masks_of_any_type(implementation, dtype):
    mask = (ellipses(np.random.default_rng(0), 20, 30, 4) > 0).astype(dtype)
    found = ops.convert_to_numpy(distance_transform(mask[None]))
    np.testing.assert_allclose(found[0], distances(mask.astype("int32"), False), rtol=1e-6)


def test_operation_keeps_its_arguments():
    config = {"image_border_is_outside": True, "name": "n"}
    operation = DistanceTransformOperation(**config)
    assert DistanceTransformOperation.from_config(operation.get_config()).get_config() == config
