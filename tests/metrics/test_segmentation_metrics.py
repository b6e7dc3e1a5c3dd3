"""Metrics of label maps: scikit-learn, a published table, a fixture, and where they are used."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from kvision.losses import PixelCrossEntropy
from kvision.metrics import SegmentationMetrics, segmentation_scores

# Results are float32; JAX also computes them in it.
TOLERANCE = 1e-6 if keras.backend.backend() == "jax" else 1e-7
NAMES = (
    "pixel_accuracy",
    "mean_pixel_accuracy",
    "mean_iou",
    "frequency_weighted_iou",
    "mean_f1",
)
TABLE = np.array([[50, 2, 3], [4, 30, 6], [1, 0, 4]])


def pixels_of(matrix):
    """Label maps `(1, 1, N)`, true and predicted, with this confusion matrix."""
    return [
        np.repeat(labels.ravel(), matrix.ravel()).reshape(1, 1, -1)
        for labels in np.indices(matrix.shape)
    ]


def updated(metric, *args, **kwargs):
    metric.update_state(*args, **kwargs)
    return {name: float(value) for name, value in metric.result().items()}


def test_the_table():
    results = updated(SegmentationMetrics(3, per_class=True), *pixels_of(TABLE))
    expected = {
        "pixel_accuracy": 0.84,
        "mean_pixel_accuracy": 0.819697,
        "mean_iou": 0.611111,
        "frequency_weighted_iou": 0.758333,
        "mean_f1": (0.909091 + 0.833333 + 0.444444) / 3,
        "iou/0": 0.833333,
        "iou/1": 0.714286,
        "iou/2": 0.285714,
    }
    assert results == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(
        segmentation_scores(TABLE)["f1"], [0.909091, 0.833333, 0.444444], 0, 1e-6
    )


def test_an_ignored_class_is_a_miss_and_not_averaged():
    """Keras' MeanIoU gives 0.520581 here."""
    results = updated(SegmentationMetrics(3, ignore_class=2, per_class=True), *pixels_of(TABLE))
    assert results["mean_iou"] == pytest.approx(0.780872, abs=1e-6)
    assert np.isnan(results["iou/2"])
    assert results["pixel_accuracy"] == pytest.approx(80 / 95, abs=1e-6)
    outside = updated(SegmentationMetrics(3, ignore_class=255), *pixels_of(TABLE))
    assert outside["mean_iou"] == pytest.approx(0.611111, abs=1e-6)


def test_a_class_never_seen_changes_nothing():
    four = updated(SegmentationMetrics(4, per_class=True), *pixels_of(TABLE))
    three = updated(SegmentationMetrics(3), *pixels_of(TABLE))
    assert {name: four[name] for name in NAMES} == three
    assert np.isnan(four["iou/3"])


def by_scikit_learn(truth, found, num_classes, ignore_class, sample_weight):
    from sklearn import metrics

    kept = truth != ignore_class
    truth, found, weights = truth[kept], found[kept], sample_weight[kept]
    labels = [c for c in range(num_classes) if c != ignore_class]
    in_truth = np.intersect1d(truth, labels)
    somewhere = np.intersect1d(np.union1d(truth, found), labels)
    shared = {"sample_weight": weights, "zero_division": 0.0}

    def scores(function, classes, average):
        return function(truth, found, labels=classes, average=average, **shared)

    return {
        "pixel_accuracy": metrics.accuracy_score(truth, found, sample_weight=weights),
        "mean_pixel_accuracy": scores(metrics.recall_score, in_truth, "macro"),
        "mean_iou": scores(metrics.jaccard_score, somewhere, "macro"),
        "frequency_weighted_iou": scores(metrics.jaccard_score, in_truth, "weighted"),
        "mean_f1": scores(metrics.f1_score, somewhere, "macro"),
    }, metrics.confusion_matrix(truth, found, labels=range(num_classes), sample_weight=weights)


@pytest.mark.parametrize("case", range(100))
def test_scikit_learn(case):
    """Some classes absent, ignored labels inside or outside, weights or none, in two batches."""
    rng = np.random.default_rng(case)
    num_classes = int(rng.choice([2, 3, 8]))
    ignore_class = [None, 255, int(rng.integers(num_classes))][case % 3]
    shape = [(2, 3, 4), (2, 17, 9)][case % 2]
    used = rng.choice(num_classes, max(1, num_classes - 1), replace=False)
    truth, found = rng.choice(used, shape), rng.integers(0, num_classes, shape)
    found = np.where(rng.random(shape) < 0.6, truth, found)
    if ignore_class is not None:
        truth[rng.random(shape) < 0.3] = ignore_class
        truth[0, 0, 0] = (ignore_class + 1) % num_classes
    weights = rng.integers(1, 4, shape) / 2 if case % 4 < 2 else np.ones(shape)

    metric = SegmentationMetrics(num_classes, ignore_class=ignore_class)
    for image in range(2):
        part = slice(image, image + 1)
        results = updated(
            metric,
            truth[part],
            found[part],
            sample_weight=weights[part] if case % 4 < 2 else None,
        )
    expected, matrix = by_scikit_learn(truth, found, num_classes, ignore_class, weights)
    np.testing.assert_array_equal(metric.confusion_matrix, matrix)
    assert results == pytest.approx(expected, abs=TOLERANCE)
    exact = segmentation_scores(metric.confusion_matrix, ignore_class)
    assert {name: float(exact[name]) for name in NAMES} == pytest.approx(expected, abs=1e-12)


def test_camvid_with_perturbed_predictions(shared_data):
    from PIL import Image

    folder = shared_data / "eval_fixtures" / "synthetic_camvid_semseg"
    expected = json.loads((folder / "expected.json").read_text())
    metric = SegmentationMetrics(11, ignore_class=expected["ignore_id"], per_class=True)
    for name in expected["gt"]:
        file = folder / "pred" / name.split("/")[1]
        truth, found = Image.open(shared_data / "camvid" / name), Image.open(file)
        metric.update_state(np.asarray(truth)[None], np.asarray(found)[None])
    np.testing.assert_array_equal(metric.confusion_matrix, expected["confusion_rows_gt_cols_pred"])
    results = {name: float(value) for name, value in metric.result().items()}
    del results["mean_f1"]  # which the fixture does not have
    assert results == pytest.approx(
        {
            "pixel_accuracy": expected["pixel_accuracy"],
            "mean_pixel_accuracy": expected["mean_class_accuracy"],
            "mean_iou": expected["miou"],
            "frequency_weighted_iou": expected["fw_iou"],
            **{f"iou/{c}": iou for c, iou in enumerate(expected["iou_per_class"])},
        },
        abs=TOLERANCE,
    )


def test_predictions_of_every_kind_are_the_same():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 5, 4, 3)).astype("float32")
    truth = rng.integers(0, 3, (2, 5, 4))
    found = logits.argmax(-1)
    expected = updated(SegmentationMetrics(3), truth, found)
    for y_true in (truth, truth[..., None].astype("uint8"), truth.astype("float32")):
        for y_pred in (found[..., None], found.astype("uint8"), logits):
            assert updated(SegmentationMetrics(3), y_true, y_pred) == expected
    half = ops.cast(np.eye(3)[found], "bfloat16")
    assert updated(SegmentationMetrics(3), truth, half) == expected
    binary = (truth > 0).astype("int32")
    expected = updated(SegmentationMetrics(2), binary, (logits[..., 0] > 0).astype("int32"))
    assert updated(SegmentationMetrics(2), binary, logits[..., :1]) == expected


def test_sample_weights_by_pixel_and_by_image():
    truth, found = (np.tile(labels, (2, 1, 1)) for labels in pixels_of(TABLE))
    for weights in (
        np.array([0.0, 2.5]),
        np.array([0.0, 2.5])[:, None, None] * np.ones((2, 1, 100)),
    ):
        metric = SegmentationMetrics(3)
        metric.update_state(truth, found, weights)
        np.testing.assert_array_equal(metric.confusion_matrix, 2.5 * TABLE)


def test_counts_beyond_float32_and_int32_are_exact():
    """100 pixels a batch on top of 2^33: float32 would lose them, int32 overflow."""
    metric = SegmentationMetrics(2)
    start = 2**33 + 2**20 - 50
    metric._low.assign([start % 2**20, 0, 0, 0, 0])
    metric._high.assign([start // 2**20, 0, 0, 0, 0])
    for batch in range(1, 4):
        metric.update_state(np.zeros((1, 10, 10)), np.zeros((1, 10, 10), "int32"))
        assert metric.confusion_matrix[0, 0] == start + 100 * batch
    metric.reset_state()
    assert not metric.confusion_matrix.any()
    metric._add(ops.convert_to_tensor([2**31 - 1, 2**24 + 1, 3, 0, 0], "int32"))
    np.testing.assert_array_equal(metric.confusion_matrix.ravel(), [2**31 - 1, 2**24 + 1, 3, 0])


def test_without_pixels_all_is_nan():
    results = updated(
        SegmentationMetrics(3, ignore_class=255),
        np.full((1, 2, 2), 255),
        np.zeros((1, 2, 2), "int32"),
    )
    assert results.keys() == set(NAMES)
    assert np.isnan(list(results.values())).all()


@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}, {"jit_compile": True}])
def test_in_fit_and_evaluate(how):
    """The metrics of a model that passes its images on as logits are known beforehand."""
    if "jit_compile" in how and keras.backend.backend() == "torch":
        pytest.skip("PyTorch's compiler starts with a warning and takes minutes")
    rng = np.random.default_rng(4)
    images = rng.normal(size=(5, 6, 7, 3)).astype("float32")
    labels = rng.choice([0, 1, 2, 255], (5, 6, 7)).astype("uint8")
    weights = rng.integers(1, 3, (5, 6, 7)).astype("float32")
    inputs = keras.Input((None, None, 3))
    same = keras.layers.Dense(3, kernel_initializer="identity")
    model = keras.Model(inputs, same(inputs))
    names = ["a", "b", "c"]
    metric = SegmentationMetrics(3, ignore_class=255, per_class=True, class_names=names)
    optimizer, loss = keras.optimizers.SGD(0.0), PixelCrossEntropy(ignore_class=255)
    model.compile(optimizer, loss, weighted_metrics=[metric], **how)

    kept = labels != 255
    matrix = np.zeros((3, 3))
    np.add.at(matrix, (labels[kept], images.argmax(-1)[kept]), weights[kept])
    scores = segmentation_scores(matrix)
    expected = {name: scores[name] for name in NAMES}
    expected |= {f"iou/{name}": scores["iou"][c] for c, name in enumerate(names)}

    given = {"sample_weight": weights[..., None], "batch_size": 2, "verbose": 0}
    found = model.evaluate(images, labels[..., None], return_dict=True, **given)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    validation = (images, labels[..., None], weights[..., None])
    history = model.fit(images, labels[..., None], **given, validation_data=validation).history
    for prefix in ("", "val_"):
        found = {name: history[prefix + name][0] for name in expected}
        assert found == pytest.approx(expected, abs=1e-6)


def test_two_of_them_in_one_model():
    truth = np.array([[[0, 1, 1, 0]]])
    logits = np.eye(2, dtype="float32")[[[[0, 1, 0, 0]]]]
    weights = np.array([[[1.0, 1.0, 2.0, 4.0]]])
    inputs = keras.Input((1, 4, 2))
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    model.compile(
        "sgd",
        loss=lambda y, x: ops.mean(x),
        metrics=[SegmentationMetrics(2)],
        weighted_metrics=[SegmentationMetrics(2, name="weighted")],
    )
    found = model.evaluate(logits, truth, sample_weight=weights, return_dict=True, verbose=0)
    assert found["pixel_accuracy"] == pytest.approx(3 / 4)
    assert found["weighted/pixel_accuracy"] == pytest.approx(6 / 8)
    assert found["mean_iou"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["weighted/mean_iou"] == pytest.approx((5 / 7 + 1 / 3) / 2)


def test_wrong_labels_are_errors_or_nan():
    truth, found = pixels_of(TABLE)
    metric = SegmentationMetrics(3, ignore_class=255)
    wrong = truth.copy()
    wrong[0, 0, 7] = 3
    with pytest.raises(ValueError, match=r"in 0..2, .* `y_true` \[3\] and `y_pred` \[0\]"):
        metric.update_state(wrong, found)
    with pytest.raises(ValueError, match=r"`y_pred` \[-1\]"):
        metric.update_state(truth, found - (found == 0))
    wrong[0, 0, 7] = 255
    assert updated(metric, wrong, found)["mean_iou"] > 0
    if keras.backend.backend() == "torch":
        return  # it always knows
    wrong[0, 0, 7] = 3
    inputs = keras.Input((1, 100, 3))
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    model.compile("sgd", loss=lambda y, x: ops.mean(x), metrics=[metric])
    logits = np.eye(3, dtype="float32")[found]
    results = model.evaluate(logits, wrong, return_dict=True, verbose=0)
    assert np.isnan([results[name] for name in NAMES]).all()


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="`num_classes` must be at least 2"):
        SegmentationMetrics(1)
    with pytest.raises(ValueError, match="`class_names` must have 3 names"):
        SegmentationMetrics(3, class_names=["a"])
    truth, found = pixels_of(TABLE)
    with pytest.raises(ValueError, match="`y_pred` must have 3 logits in its last axis"):
        SegmentationMetrics(3).update_state(truth, found.astype("float32"))
    with pytest.raises(ValueError, match="must have a label for each pixel"):
        SegmentationMetrics(3).update_state(truth[..., :4], found)
    for shape in (truth.shape[::-1], (len(truth), 1), (len(truth) + 1,)):
        with pytest.raises(ValueError, match="`sample_weight` must have the shape of the labels"):
            SegmentationMetrics(3).update_state(truth, truth, np.ones(shape))
