import keras
import numpy as np
import pytest
from keras import ops

from kvision.layers import NonMaxSuppression
from kvision.ops import batched_nms


def inputs(num_classes=3):
    rng = np.random.default_rng(0)
    corner, extent = rng.uniform(0, 800, (2, 30, 2)), rng.uniform(1, 300, (2, 30, 2))
    boxes = np.concatenate([corner, corner + extent], -1).astype("float32")
    return boxes, rng.random((2, 30, num_classes), "float32")


def test_it_is_the_op():
    arguments = {"score_threshold": 0.2, "max_output_size": 9, "max_output_size_per_class": 4}
    found = NonMaxSuppression(0.4, **arguments)(*inputs())
    wanted = batched_nms(*inputs(), iou_threshold=0.4, **arguments)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (found[name], value)))


def test_boxes_and_scores_stay_float32_under_mixed_precision():
    with_policy = NonMaxSuppression(max_output_size=9, dtype="mixed_bfloat16")(*inputs())
    without = NonMaxSuppression(max_output_size=9)(*inputs())
    for name, value in without.items():
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (with_policy[name], value)))


def test_a_model_with_it_is_saved(tmp_path):
    boxes, scores = keras.Input((30, 4)), keras.Input((30, 3))
    layer = NonMaxSuppression(0.6, max_output_size=5, class_agnostic=True)
    model = keras.Model([boxes, scores], layer(boxes, scores))
    assert model.output["boxes"].shape == (None, 5, 4)
    assert model.output["num_detections"].dtype == "int32"
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    found, wanted = loaded.predict(list(inputs()), verbose=0), layer(*inputs())
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], ops.convert_to_numpy(value))


def test_shapes():
    shapes = NonMaxSuppression(max_output_size=5).compute_output_shape((None, 30, 4), (2, 30, 3))
    assert shapes["boxes"] == (2, 5, 4)
    assert shapes["num_detections"] == (2,)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="batched_nms: `iou_threshold`"):
        NonMaxSuppression(2.0)
