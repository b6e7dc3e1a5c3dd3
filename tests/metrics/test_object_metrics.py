"""Objects of label maps: StarDist's counts, brute force, worked examples, and use in `fit`."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kvision.metrics import ObjectMetrics

PERCENTS = range(50, 100, 5)


def updated(metric, *args, **kwargs):
    metric.update_state(*args, **kwargs)
    return {name: float(value) for name, value in metric.result().items()}


def by_threshold(results, name):
    return [results[f"{name}_{percent}"] for percent in PERCENTS]


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(Path(__file__).parents[1] / "golden" / "object_metrics.npz"))


@pytest.mark.parametrize("batch_size", [1, 7, 16])
def test_stardist(golden, batch_size):
    metric = ObjectMetrics(per_threshold=True)
    for start in range(0, 16, batch_size):
        batch = slice(start, start + batch_size)
        metric.update_state(golden["truth"][batch], golden["found"][batch])
    results = {name: float(value) for name, value in metric.result().items()}
    for ours, theirs in (("f1", "f1"), ("ap", "accuracy")):
        by_object, by_image = golden[f"all_{theirs}"], golden[theirs].mean(axis=0)
        assert by_threshold(results, f"object_{ours}") == pytest.approx(by_object, abs=1e-6)
        assert by_threshold(results, f"image_{ours}") == pytest.approx(by_image, abs=1e-6)
        assert results[f"object_{ours}"] == pytest.approx(by_object.mean(), abs=1e-6)
        assert results[f"image_{ours}"] == pytest.approx(by_image.mean(), abs=1e-6)


@pytest.mark.parametrize("seed", range(60))
def test_every_pair_of_objects(seed):
    """Small maps with any ids: the IoU of each pair as a fraction, counted by the definition."""
    rng = np.random.default_rng(seed)
    shape = (3, *[(1, 1), (2, 5), (6, 7)][seed % 3])
    truth = rng.integers(0, rng.integers(1, 7), shape)
    found = np.where(rng.random(shape) < 0.8, truth, rng.integers(0, 4, shape))
    largest = shape[1] * shape[2]
    ids = np.append(0, rng.permutation(largest) + 1)
    truth = np.minimum(truth, largest)
    found = ids[np.minimum(found, largest)]
    hits, objects = np.zeros((3, 10)), np.zeros(3)
    for image in range(3):
        ours, theirs = (set(np.unique(labels[image])) - {0} for labels in (truth, found))
        objects[image] = len(ours) + len(theirs)
        for a in ours:
            for b in theirs:
                own, other = truth[image] == a, found[image] == b
                common, union = int((own & other).sum()), int((own | other).sum())
                hits[image] += [20 * common > k * union for k in range(10, 20)]
    results = updated(ObjectMetrics(per_threshold=True), truth, found)
    if not objects.any():
        assert np.isnan(list(results.values())).all()
        return
    f1 = 2 * hits.sum(0) / objects.sum()
    ap = hits.sum(0) / (objects.sum() - hits.sum(0))
    some = objects > 0
    image_f1 = (2 * hits[some] / objects[some, None]).mean(0)
    image_ap = (hits[some] / (objects[some, None] - hits[some])).mean(0)
    expected = {"object_f1": f1, "object_ap": ap, "image_f1": image_f1, "image_ap": image_ap}
    for name, values in expected.items():
        assert by_threshold(results, name) == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize(
    ("common", "union", "matches"),
    [(1, 2, 0), (2, 3, 4), (3, 4, 5), (11, 20, 1), (7, 10, 4), (9, 10, 8), (19, 20, 9), (4, 4, 10)],
)
def test_an_iou_of_the_threshold_is_no_match(common, union, matches):
    """Nor by rounding: 11/20, 7/10 and 9/10 are no numbers of floating point."""
    truth, found = np.zeros((2, 1, 4, 5), "int32")
    truth.reshape(-1)[:union] = 3
    found.reshape(-1)[:common] = 1
    results = updated(ObjectMetrics(per_threshold=True), truth, found)
    assert by_threshold(results, "object_f1") == [1.0] * matches + [0.0] * (10 - matches)
    assert results["object_ap"] == results["image_ap"] == pytest.approx(matches / 10)


def test_objects_and_images_weigh_differently():
    """Ten objects found in one image, one missed in another, one invented in a third, none in a
    fourth."""
    truth, found = np.zeros((2, 4, 5, 8), "int32")
    truth[0, ::2, :] = np.repeat(np.arange(12), 2).reshape(3, 8)
    found[0] = truth[0]
    found[0][truth[0] == 11] = 0
    truth[1, 1:3] = 1
    found[2, 1:3] = 4
    results = updated(ObjectMetrics(), truth, found)
    assert results["object_f1_50"] == pytest.approx(20 / 23)
    assert results["object_ap_75"] == pytest.approx(10 / 13)
    assert results["image_f1_50"] == pytest.approx(20 / 21 / 3)
    assert results["image_ap"] == pytest.approx(10 / 11 / 3)
    weighted = updated(ObjectMetrics(), truth, found, np.array([1.0, 3.0, 0.0, 2.0]))
    assert weighted["object_f1_50"] == pytest.approx(20 / 24)
    assert weighted["image_f1_50"] == pytest.approx(20 / 21 / 4)


def test_ids_of_every_kind_are_the_same(golden):
    truth, found = golden["truth"][:3], golden["found"][:3]
    expected = updated(ObjectMetrics(), truth, found)
    for y_true in (truth[..., None], {"instance_ids": truth.astype("uint16"), "labels": None}):
        for y_pred in (found.astype("float32"), {"instance_ids": ops.convert_to_tensor(found)}):
            assert updated(ObjectMetrics(), y_true, y_pred) == expected


def test_no_images_and_no_pixels():
    for shape in ((0, 4, 5), (2, 0, 5), (2, 4, 5)):
        results = updated(ObjectMetrics(), np.zeros(shape, "int32"), np.zeros(shape, "int32"))
        assert len(results) == 12
        assert np.isnan(list(results.values())).all()


def label_model():
    """Takes label maps for images, and returns them."""
    inputs = keras.Input((None, None, 1))
    ids = keras.layers.Lambda(lambda x: ops.cast(x[..., 0], "int32"), dtype="float32")(inputs)
    energy = keras.layers.Dense(1)(inputs)
    return keras.Model(inputs, {"instance_ids": ids, "energy": energy})


@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}, {"jit_compile": True}])
def test_in_the_validation_of_fit(golden, how):
    if "jit_compile" in how and keras.backend.backend() == "torch":
        pytest.skip("PyTorch's compiler starts with a warning and takes minutes")
    truth, found = golden["truth"].astype("int32"), golden["found"].astype("float32")[..., None]
    model = label_model()
    model.compile("sgd", loss={"energy": "mse"}, metrics={"instance_ids": ObjectMetrics()}, **how)
    targets = {"energy": np.zeros_like(found), "instance_ids": truth}
    data = {"x": found / 100, "y": targets, "batch_size": 5, "verbose": 0}
    history = model.fit(**data, validation_data=(found, targets), validation_batch_size=5).history
    ends = [name for name in history if name.endswith("object_f1_50") and "val_" in name]
    assert len(ends) == 1
    assert history[ends[0]][0] == pytest.approx(golden["all_f1"][0], abs=1e-6)


def test_wrong_ids_are_errors_or_nan():
    truth = np.ones((2, 3, 4), "int32")
    wrong = truth.copy()
    for value in (13, -1):
        wrong[1, 2, 3] = value
        with pytest.raises(ValueError, match="ids in `y_pred`.* from 0 to 12.*Received: "):
            ObjectMetrics().update_state(truth, wrong)
    with pytest.raises(ValueError, match="ids in `y_true`"):
        ObjectMetrics().update_state(wrong, truth)
    if keras.backend.backend() == "torch":
        return  # it always knows
    model = label_model()
    model.compile("sgd", loss={"energy": "mse"}, metrics={"instance_ids": ObjectMetrics()})
    targets = {"energy": np.zeros((2, 3, 4, 1)), "instance_ids": truth}
    results = model.evaluate(wrong[..., None].astype("float32"), targets, 1, 0, return_dict=True)
    values = [value for name, value in results.items() if "object_f1" in name or "image_" in name]
    assert len(values) >= 6
    assert np.isnan(values).all()


def test_what_is_wrong_is_named():
    ids = np.zeros((2, 3, 4), "int32")
    metric = ObjectMetrics()
    with pytest.raises(ValueError, match=r"must have shape \(B, H, W\) or .*Received: \(3, 4\) as"):
        metric.update_state(ids[0], ids)
    with pytest.raises(ValueError, match=r"the same pixels. Received: \(2, 12\) and \(1, 12\)"):
        metric.update_state(ids, ids[:1])
    with pytest.raises(ValueError, match=r"must have `instance_ids`. Received: \['labels'\]"):
        metric.update_state({"labels": ids}, ids)
    with pytest.raises(ValueError, match=r"`sample_weight` must have shape \(B,\)"):
        metric.update_state(ids, ids, np.ones((2, 1)))
