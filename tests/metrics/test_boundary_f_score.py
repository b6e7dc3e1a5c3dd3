"""Boundary F-score: the code of DAVIS, written out, and what is said of empty boundaries."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from kvision.metrics import BoundaryFScore
from kvision.metrics.boundary_f_score import boundaries, dilate


def davis_boundary(mask):
    """`seg2bmap` of the DAVIS challenge's code at full size."""
    mask = mask.astype(bool)
    right, lower, diagonal = (np.zeros_like(mask) for _ in range(3))
    right[:, :-1] = mask[:, 1:]
    lower[:-1, :] = mask[1:, :]
    diagonal[:-1, :-1] = mask[1:, 1:]
    boundary = mask ^ right | mask ^ lower | mask ^ diagonal
    boundary[-1, :] = mask[-1, :] ^ right[-1, :]
    boundary[:, -1] = mask[:, -1] ^ lower[:, -1]
    boundary[-1, -1] = 0
    return boundary


def within(boundary, radius):
    """The pixels within a distance, by the distances to all pixels of the boundary."""
    places = np.argwhere(boundary)
    near = np.zeros(boundary.shape, bool)
    for pixel in np.ndindex(boundary.shape):
        near[pixel] = (((places - pixel) ** 2).sum(1) <= radius**2).any()
    return near


def davis_f(truth, found, radius):
    """`db_eval_boundary`: F, and whether there was a boundary at all."""
    truth, found = davis_boundary(truth), davis_boundary(found)
    if not found.any() or not truth.any():
        precision, recall = float(not found.any()), float(not truth.any())
    else:
        precision = (found & within(truth, radius)).sum() / found.sum()
        recall = (truth & within(found, radius)).sum() / truth.sum()
    f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return f, bool(found.any() or truth.any())


def label_maps(seed, num_images=3, size=(14, 11), num_classes=4):
    """Coarse regions, the prediction moved by a pixel and disturbed; some labels are 255."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes - 1, (num_images, 5, 4)).repeat(3, 1).repeat(3, 2)
    truth = truth[:, : size[0], : size[1]]
    found = np.roll(truth, (1, 1), (1, 2))
    found[rng.random(found.shape) < 0.03] = num_classes - 1
    truth[rng.random(truth.shape) < 0.03] = 255
    truth[0] = 1
    found[0] = 1
    return truth, found


@pytest.mark.parametrize("tolerance", [0, 0.05, 0.16, 1, 2, 30])
@pytest.mark.parametrize("count_absent", [True, False])
def test_davis_code(tolerance, count_absent):
    truth, found = label_maps(3)
    radius = tolerance
    if tolerance < 1:
        radius = math.ceil(tolerance * math.hypot(*truth.shape[1:]))
    metric = BoundaryFScore(
        4, tolerance=tolerance, ignore_class=255, count_absent=count_absent, per_class=True
    )
    metric.update_state(truth[:2], found[:2])
    metric.update_state(truth[2:, ..., None], np.eye(4, dtype="float32")[found[2:]])
    results = {name: float(value) for name, value in metric.result().items()}
    expected = []
    for c in range(4):
        scores = []
        for image in range(3):
            valid = truth[image] != 255
            f, present = davis_f((truth[image] == c) & valid, (found[image] == c) & valid, radius)
            if present or count_absent:
                scores.append(f)
        expected.append(np.mean(scores) if scores else np.nan)
        assert results[f"boundary_f_score/{c}"] == pytest.approx(
            expected[-1], abs=1e-6, nan_ok=True
        )
    assert results["boundary_f_score"] == pytest.approx(np.nanmean(expected), abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (7, 1), (5, 8)])
def test_boundaries_and_disks_of_any_size(shape):
    rng = np.random.default_rng(1)
    masks = rng.random((2, *shape, 3)) < 0.5
    found = ops.convert_to_numpy(boundaries(ops.convert_to_tensor(masks)))
    points = rng.random((2, *shape, 3)) < 0.1
    for image, c in np.ndindex(2, 3):
        np.testing.assert_array_equal(found[image, ..., c], davis_boundary(masks[image, ..., c]))
    for radius in (0, 1, 2, 3, 5, 12):
        dilated = ops.convert_to_numpy(dilate(ops.convert_to_tensor(points), radius))
        for image, c in np.ndindex(2, 3):
            expected = within(points[image, ..., c], radius)
            np.testing.assert_array_equal(dilated[image, ..., c], expected)


def test_published_tolerances():
    """1024 x 2048: 12, 9, 5 and 2 pixels, and 19 at DAVIS' default; SegNet's of CamVid, 5."""
    for tolerance, pixels in ((0.005, 12), (0.00375, 9), (0.001875, 5), (0.0005, 2), (0.008, 19)):
        assert BoundaryFScore(2, tolerance=tolerance)._radius((1024, 2048)) == pixels
    assert BoundaryFScore(2)._radius((360, 480)) == 5


def test_empty_boundaries():
    """A class in one map only scores 0, one in neither 1 or nothing; class 0 fills an image."""
    truth, found = np.zeros((1, 6, 6), "int32"), np.zeros((1, 6, 6), "int32")
    found[0, 2:4, 2:4] = 1
    for count_absent, mean in ((True, 1 / 3), (False, 0.0)):
        metric = BoundaryFScore(3, tolerance=1, count_absent=count_absent, per_class=True)
        metric.update_state(truth, found)
        results = {name: float(value) for name, value in metric.result().items()}
        assert results["boundary_f_score/0"] == results["boundary_f_score/1"] == 0
        assert results["boundary_f_score"] == pytest.approx(mean)
        third = 1.0 if count_absent else np.nan
        assert results["boundary_f_score/2"] == pytest.approx(third, nan_ok=True)
    assert np.isnan(float(BoundaryFScore(3).result()["boundary_f_score"]))


def test_an_ignored_class_is_not_averaged():
    truth, found = label_maps(5)
    inside = BoundaryFScore(4, tolerance=1, ignore_class=2, per_class=True)
    inside.update_state(np.where(truth == 255, 2, truth), found)
    outside = BoundaryFScore(4, tolerance=1, ignore_class=255, per_class=True)
    outside.update_state(np.where(truth == 2, 255, truth), found)
    inside, outside = inside.result(), outside.result()
    kept = [float(outside[f"boundary_f_score/{c}"]) for c in (0, 1, 3)]
    assert float(inside["boundary_f_score"]) == pytest.approx(np.mean(kept))


def test_weights_of_images():
    truth, found = label_maps(7)
    weighted = BoundaryFScore(4, tolerance=1, ignore_class=255)
    weighted.update_state(truth, found, np.array([0.0, 2.0, 0.0]))
    alone = BoundaryFScore(4, tolerance=1, ignore_class=255)
    alone.update_state(truth[1:2], found[1:2])
    expected = float(alone.result()["boundary_f_score"])
    assert float(weighted.result()["boundary_f_score"]) == pytest.approx(expected)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_evaluate(jit_compile):
    if jit_compile and keras.backend.backend() == "torch":
        pytest.skip("PyTorch's compiler starts with a warning and takes minutes")
    truth, found = label_maps(9)
    expected = BoundaryFScore(4, tolerance=2, ignore_class=255)
    expected.update_state(truth, found)
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    metric = BoundaryFScore(4, tolerance=2, ignore_class=255)
    model.compile("sgd", lambda y, x: ops.mean(x), metrics=[metric], jit_compile=jit_compile)
    logits = np.eye(4, dtype="float32")[found]
    results = model.evaluate(logits, truth, batch_size=2, return_dict=True, verbose=0)
    assert results["boundary_f_score"] == pytest.approx(
        float(expected.result()["boundary_f_score"]), abs=1e-6
    )


def test_weights_by_pixel_count_by_their_mean():
    truth, found = label_maps(0)
    by_pixel = np.random.default_rng(3).uniform(0, 4, truth.shape)
    results = []
    for weights in (by_pixel, by_pixel[..., None], by_pixel.mean((1, 2))):
        metric = BoundaryFScore(4, ignore_class=255)
        metric.update_state(truth, found, weights)
        results.append(float(metric.result()["boundary_f_score"]))
    assert results == pytest.approx([results[-1]] * 3, rel=1e-5)


def test_results_are_named_as_the_metric():
    metric = BoundaryFScore(4, ignore_class=255, per_class=True, name="edges")
    metric.update_state(*label_maps(0))
    assert list(metric.result()) == ["edges", *(f"edges/{number}" for number in range(4))]


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="`num_classes` must be at least 2"):
        BoundaryFScore(1)
    for tolerance in (-0.1, 1.5):
        with pytest.raises(ValueError, match="`tolerance` must be a fraction of the diagonal"):
            BoundaryFScore(2, tolerance=tolerance)
    with pytest.raises(ValueError, match="`class_names` must have 2 names"):
        BoundaryFScore(2, class_names=["a"])
    with pytest.raises(ValueError, match="needs images of a known size"):
        BoundaryFScore(2)._radius((None, 5))
    truth, found = label_maps(0)
    with pytest.raises(ValueError, match=r"`sample_weight` must be one number an image, \(B,\)"):
        BoundaryFScore(4, ignore_class=255).update_state(truth, found, np.ones((len(truth), 1)))
    with pytest.raises(ValueError, match=r"labels must be in 0..3, .* `y_true` \[255\]"):
        BoundaryFScore(4).update_state(truth, found)
