"""Arguments of a wrong type are refused in the words of the op, whatever the backend."""

import keras
import numpy as np
import pytest

import kvision.ops as kops

BOXES = np.array([[0, 0, 4, 4], [1, 1, 5, 5]], "float32")
SCORES = np.array([0.9, 0.8], "float32")
MAP = np.ones((1, 4, 4, 1), "float32")
MUST_BE_A_NUMBER = "must be a number, known when the op is called or traced"


def nms(**changes):
    kops.nms(
        *map(keras.ops.convert_to_tensor, (BOXES, SCORES)), **{"iou_threshold": 0.5, **changes}
    )


def roi_align(**changes):
    tensors = map(keras.ops.convert_to_tensor, (MAP, BOXES[None]))
    kops.roi_align(*tensors, **{"output_size": 2, **changes})


@pytest.mark.parametrize(
    ("call", "changes", "message"),
    [
        (nms, {"iou_threshold": "0.5"}, f"nms: `iou_threshold` {MUST_BE_A_NUMBER}"),
        (nms, {"score_threshold": "a"}, f"nms: `score_threshold` {MUST_BE_A_NUMBER}"),
        (roi_align, {"spatial_scale": None}, f"roi_align: `spatial_scale` {MUST_BE_A_NUMBER}"),
        (roi_align, {"spatial_scale": (1, 1)}, f"roi_align: `spatial_scale` {MUST_BE_A_NUMBER}"),
        (roi_align, {"sampling_ratio": "2"}, f"roi_align: `sampling_ratio` {MUST_BE_A_NUMBER}"),
    ],
)
def test_numbers(call, changes, message):
    with pytest.raises(TypeError, match=message):
        call(**changes)


@pytest.mark.parametrize("output_size", [7.5, None, "7", (1, 2, 3), (0, 1)])
def test_output_size(output_size):
    with pytest.raises(
        ValueError, match="roi_align: `output_size` must be a positive int or a pair"
    ):
        roi_align(output_size=output_size)


def test_a_pyramid_is_a_dictionary():
    with pytest.raises(TypeError, match="multiscale_roi_align: `pyramid` and `strides` must be"):
        kops.multiscale_roi_align([MAP], BOXES[None], output_size=2)


def test_no_boxes_at_all():
    with pytest.raises(TypeError, match="nms: `scores` must be floating point. Received: None."):
        kops.nms(BOXES, None, iou_threshold=0.5)


def test_an_op_that_does_not_exist():
    with pytest.raises(ValueError, match="there is no native op 'foo'"):
        kops.native.description("foo")
