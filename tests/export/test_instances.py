"""What a served instance segmenter answers, and when two answers agree."""

import types

import numpy as np
import pytest

from kvision.export.answers import Instances

SIZE = (40, 80)
# They fill the upper left (40, 60) and (20, 80) of the model's images.
SIZES = np.array([(20, 30), (10, 40)], "int32")


def model_of(decoded, policy="letterbox"):
    """A model that answers what is given, whatever it sees."""
    return types.SimpleNamespace(
        image_size=SIZE, resize_policy=policy, decode=lambda raw: dict(decoded)
    )


def answer(tf, decoded, **kwargs):
    decoded = {name: tf.constant(value) for name, value in decoded.items()}
    answers = Instances.answer(model_of(decoded, **kwargs), None, tf.constant(SIZES))
    return {name: value.numpy() for name, value in answers.items()}


@pytest.fixture
def detected():
    """Two boxes of each image, the second under the first; all pixels of both are the object's."""
    boxes = np.tile(np.array([(8, 4, 24, 12), (16, 4, 48, 20)], "float32"), (2, 1, 1))
    return {
        "boxes": boxes,
        "scores": np.array([[0.9, 0.8], [0.9, 0.0]], "float32"),
        "labels": np.array([[3, 1], [2, -1]], "int32"),
        "num_detections": np.array([2, 1], "int32"),
        "masks": np.ones((2, 2, 8, 8), "float32") * np.float32([(1, 1), (1, 0)])[..., None, None],
    }


def test_masks_become_ids_in_the_pixels_of_each_image(tf, detected):
    answers = answer(tf, detected)
    expected = np.zeros((2, 20, 40), "int32")
    expected[:, 2:10, 8:24] = 2  # half the size of the model's images
    expected[0, 9, 23] = 0  # a corner that bilinear interpolation covers by 0.625 * 0.75
    expected[1] = 0
    expected[:, 2:6, 4:12] = 1
    np.testing.assert_array_equal(answers["instance_ids"], expected)
    np.testing.assert_array_equal(answers["sizes"], SIZES)
    np.testing.assert_allclose(answers["boxes"][0], detected["boxes"][0] / 2)
    np.testing.assert_array_equal(answers["masks"], detected["masks"])
    assert set(answers) == set(Instances.damaged)


@pytest.mark.parametrize(("policy", "scale"), [("letterbox", (2, 2)), ("stretch", (4, 2))])
def test_a_label_map_is_brought_to_the_size_of_each_image(tf, policy, scale):
    ids = np.arange(2 * 40 * 80, dtype="int32").reshape(2, 40, 80)
    answers = answer(tf, {"instance_ids": ids}, policy=policy)
    assert set(answers) == {"instance_ids", "sizes"}
    step = scale[0]
    np.testing.assert_array_equal(
        answers["instance_ids"][1, :10], ids[1, step // 2 : 10 * step : step, 1::2]
    )
    assert (answers["instance_ids"][1, 10:] == 0).all()
    assert (answers["instance_ids"][0, :, 30:] == 0).all()


def scene():
    ids = np.zeros((1, 100, 100), "int32")
    ids[0, 10:30, 10:30], ids[0, 50:90, 40:80] = 1, 2
    return ids


def compared(ids, others):
    return Instances.compare({"instance_ids": ids}, {"instance_ids": others})


def test_ids_may_be_exchanged():
    other = np.array([0, 7, 1])[scene()]
    assert compared(scene(), other) == (2, {})


def test_pixels_of_a_border_may_differ_but_no_more():
    other = scene()
    other[0, 10, 10:19] = 0
    assert compared(scene(), other) == (2, {})
    other[0, 10:12, 10:30] = 0
    with pytest.raises(ValueError, match="0.40% of an image's pixels are of another instance"):
        compared(scene(), other)


@pytest.mark.parametrize("change", ["merged", "lost", "split"])
def test_other_instances_are_seen(change):
    other = scene()
    if change == "merged":
        other[other == 2] = 1
    elif change == "lost":
        other[other == 1] = 0
    else:
        other[0, 50:70, 40:80] = 3
    with pytest.raises(ValueError, match="of another instance"):
        compared(scene(), other)


def test_masks_are_compared_by_detection(detected):
    answers = {**detected, "instance_ids": scene()}
    count, differences = Instances.compare(answers, answers)
    assert count == 2
    assert differences == {"boxes": 0.0, "scores": 0.0, "masks": 0.0}
    other = {**answers, "masks": detected["masks"] * 0.99}
    with pytest.raises(ValueError, match="masks differ by up to 0.01"):
        Instances.compare(answers, other)
