from pathlib import Path

import numpy as np
import pytest

from kvision.ops import multiscale_roi_align, roi_align
from kvision.testing import (
    AT_LEAST_FLOAT32,
    Case,
    Input,
    Invalid,
    OpContract,
    OpTests,
    Output,
    Variant,
    draws,
    to_numpy,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "roi_align.npz"


def waves(size, frequency):
    return np.sin(np.arange(size**2) * frequency + 0.2).astype("float32").reshape(1, size, size, 1)


def constant_pyramid(levels=(2, 3, 4, 5)):
    """Maps that hold their level's number, so that a result says which map was read."""
    return {f"P{k}": np.full((1, 2**5 >> k, 2**5 >> k, 1), k, dtype="float32") for k in levels}


def level_read(side, pyramid=None, **kwargs):
    boxes = np.array([[(0, 0, side, side)]], dtype="float32")
    pyramid = pyramid or constant_pyramid()
    # One sample, in the middle of a box that is scaled down to lie on a map of any size.
    strides = {name: 1e4 for name in pyramid}
    result = multiscale_roi_align(
        pyramid, boxes, output_size=1, sampling_ratio=1, strides=strides, **kwargs
    )
    return float(to_numpy(result).item())


def pooled(boxes, pyramid=None, **named):
    """The op with every map of the pyramid, "P2" and so on, as an input of its own."""
    maps = {name: named.pop(name) for name in sorted(named) if name[1:].isdecimal()}
    return multiscale_roi_align(maps if pyramid is None else pyramid, boxes, **named)


def worked_case():
    sizes, frequencies = (16, 8, 4, 2), (0.37, 0.51, 0.73, 0.9)
    pyramid = {
        f"P{level}": waves(size, frequency)
        for level, size, frequency in zip((2, 3, 4, 5), sizes, frequencies, strict=True)
    }
    boxes = np.array([[(4, 4, 30, 28), (0, 0, 64, 64), (10, 20, 60, 63)]], dtype="float32")
    expected = [
        (0.232711, 0.895085, -0.659825, 0.329451),
        (0.124386, -0.025202, -0.246756, 0.15351),
        (-0.359651, 0.703338, -0.453304, -0.107962),
    ]
    return Case(
        {**pyramid, "boxes": boxes},
        np.reshape(expected, (1, 3, 2, 2, 1)),
        {
            "output_size": 2,
            "strides": None,
            "sampling_ratio": 2,
            "aligned": False,
            "canonical_size": 224,
        },
        rtol=0,
        atol=1e-6,
    )


def torchvision_case():
    golden = np.load(GOLDEN)
    levels = [f"P{level}" for level in (2, 3, 4, 5)]
    return Case(
        {"boxes": golden["pyramid/boxes"], **{name: golden[f"pyramid/{name}"] for name in levels}},
        golden["pyramid/output"],
        {
            "output_size": (3, 2),
            "strides": None,
            "sampling_ratio": 2,
            "aligned": False,
            "canonical_size": 48,
        },
        golden["pyramid/output_gradient"],
        {name: golden[f"pyramid/{name}/gradient"] for name in levels},
        rtol=0,
        atol=1e-5,
    )


class TestMultiscaleRoIAlign(OpTests):
    contract = OpContract(
        name="multiscale_roi_align",
        function=pooled,
        inputs={
            "P2": Input("batch height2 width2 channels", differentiable=True, comparable=1e30),
            "P3": Input("batch height3 width3 channels", differentiable=True, comparable=1e30),
            # Of the sides of both levels.
            "boxes": Input("batch num_boxes 4", draws.boxes(-8, 24, 90), AT_LEAST_FLOAT32),
        },
        outputs={"output": Output("batch num_boxes output_size[0] output_size[1] channels")},
        arguments={
            "output_size": (2, 3),
            "strides": {"P2": 4, "P3": 10},
            "canonical_size": 80,
        },
        sizes={"batch": 2, "height2": 7, "width2": 8, "num_boxes": 6},
        variants={"adaptive": Variant(), "fixed": Variant({"sampling_ratio": 2, "aligned": False})},
        cases={"worked example": worked_case(), "torchvision": torchvision_case()},
        invalid=(
            Invalid({"pyramid": {}}, "`pyramid` must have successive levels"),
            Invalid({"pyramid": constant_pyramid((2, 4))}, "`pyramid` must have successive levels"),
            Invalid({"pyramid": {"C2": np.ones((2, 2, 2, 1))}}, "`pyramid` must have successive"),
            Invalid({"pyramid": {"P2": np.ones((2, 2, 1))}}, r"`pyramid\['P2'\]` must have shape"),
            Invalid({"P2": np.ones((2, 2, 1))}, r"`pyramid\['P2'\]` must have shape"),
            Invalid({"P3": np.ones((2, 2, 2, 2))}, "the same channels and dtype"),
            Invalid(
                {"pyramid": {f"P{k}": np.ones((2, 1, 1, 1), "float32") for k in range(9)}}
                | {"strides": None},
                "`pyramid` must have at most 8 levels. Received: 9",
            ),
            Invalid({"boxes": np.ones((2, 2, 5))}, "`boxes` must have shape"),
            Invalid({"boxes": np.ones((3, 2, 4))}, "the same batch size"),
            Invalid({"strides": {"P2": 4}}, "`strides` must name every level"),
            Invalid({"strides": {"P2": 4, "P3": 0}}, "`strides` must be positive"),
            Invalid({"canonical_size": 0}, "`canonical_size` must be positive"),
            Invalid({"output_size": -2}, "`output_size` must be"),
            Invalid({"sampling_ratio": -1}, "`sampling_ratio` must be"),
        ),
        kernel_name="roi_align",
        native_ops=("roi_align",),
        # Linear: differences are exact whatever the step.
        gradient_step=1e-4,
        gradient_rtol=1e-9,
        fuzzed_arguments={
            "output_size": (1, (2, 3), 0),
            "strides": (None, {"P2": 1, "P3": 1e-30}, {"P2": -1, "P3": 1}, {"P2": 4}),
            "sampling_ratio": (0, 1, 3, 128, 129),
            "canonical_size": (1, 1e9, 0, np.nan),
            "canonical_level": (4, -3, 100),
        },
    )


@pytest.mark.parametrize(
    ("side", "level"),
    [(0, 2), (1, 2), (55.9, 2), (56, 2), (111.9, 2), (112, 3), (223.99, 3), (224, 4), (447, 4)]
    + [(448, 5), (1000, 5), (1e4, 5)],
)
def test_level_of_a_box(implementation, side, level):
    assert level_read(side) == level


def test_levels_are_those_of_the_pyramid(implementation):
    assert level_read(56, constant_pyramid((3, 4))) == 3
    assert level_read(1000, constant_pyramid((4, 3))) == 4
    assert level_read(112, canonical_size=112) == 4
    assert level_read(112, canonical_size=112, canonical_level=3) == 3


def test_eight_levels(implementation):
    pyramid = {f"P{k}": np.full((1, 1, 1, 1), k, dtype="float32") for k in range(8)}
    assert level_read(1000, pyramid) == 6


def test_reversed_and_empty_boxes_take_a_level(implementation):
    boxes = np.array([[(900, 0, 0, 900), (5, 5, 5, 900), (900, 900, 0, 0)]], dtype="float32")
    pyramid = {name: np.ones((1, 4, 4, 1), "float32") * int(name[1]) for name in ("P2", "P3")}
    result = multiscale_roi_align(
        pyramid, boxes, output_size=1, sampling_ratio=1, strides={"P2": 1000, "P3": 1000}
    )
    np.testing.assert_allclose(to_numpy(result).ravel(), (2, 2, 3), 1e-6)


def test_each_box_is_pooled_as_from_its_level_alone(implementation):
    rng = np.random.default_rng(1)
    pyramid = {
        name: rng.normal(size=(2, size, size, 3)).astype("float32")
        for name, size in (("P3", 8), ("P4", 4))
    }
    boxes = np.array([[(0, 0, 50, 50), (10, 10, 300, 280)]] * 2, dtype="float32")
    result = multiscale_roi_align(pyramid, boxes, output_size=3, strides={"P3": 12, "P4": 20})
    for index, (name, stride) in enumerate((("P3", 12), ("P4", 20))):
        one = roi_align(
            pyramid[name], boxes[:, index : index + 1], output_size=3, spatial_scale=1 / stride
        )
        np.testing.assert_allclose(to_numpy(result)[:, index], to_numpy(one)[:, 0], 0, 1e-6)
