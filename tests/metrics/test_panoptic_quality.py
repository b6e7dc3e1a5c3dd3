"""Panoptic quality: the authors' own results on COCO, StarDist's, and the definition in NumPy."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kvision.metrics import PanopticQuality

NAMES = ("pq", "sq", "rq")


def updated(metric, *args, **kwargs):
    metric.update_state(*args, **kwargs)
    return {name: float(value) for name, value in metric.result().items()}


def segments_of(folder, annotation, classes):
    """The segments of one image from COCO's panoptic files."""
    from PIL import Image

    colours = np.asarray(Image.open(folder / annotation["file_name"]).convert("RGB"))
    numbers = colours.astype("int64") @ [1, 256, 65536]
    described = annotation["segments_info"]
    # All padded to one size, for which JAX compiles once.
    ids = np.zeros((1, 640, 640), "int32")
    labels, is_crowd = np.full((1, 99), -1), np.zeros((1, 99), "int32")
    for index, segment in enumerate(described):
        ids[0, : len(numbers), : numbers.shape[1]][numbers == segment["id"]] = index + 1
        labels[0, index] = classes.index(segment["category_id"])
        is_crowd[0, index] = segment.get("iscrowd", 0)
    return {"instance_ids": ids, "labels": labels, "is_crowd": is_crowd}


def test_panopticapi_on_coco(shared_data):
    folder = shared_data / "eval_fixtures" / "synthetic_panoptic"
    expected = json.loads((folder / "expected.json").read_text())
    found = json.loads((folder / "pred.json").read_text())["annotations"]
    found = {annotation["image_id"]: annotation for annotation in found}
    coco = shared_data / "coco_tiny"
    truth = json.loads((coco / "annotations" / "panoptic_test.json").read_text())
    classes = [category["id"] for category in truth["categories"]]
    metric = PanopticQuality(
        len(classes),
        things=[c for c, category in enumerate(truth["categories"]) if category["isthing"]],
        per_class=True,
        class_names=classes,
    )
    for annotation in truth["annotations"]:
        metric.update_state(
            segments_of(coco / "panoptic", annotation, classes),
            segments_of(folder / "pred", found[annotation["image_id"]], classes),
        )
    results = {name: float(value) for name, value in metric.result().items()}
    groups = {"": "All", "_things": "Things", "_stuff": "Stuff"}
    for suffix, group in groups.items():
        for name in NAMES:
            assert results[name + suffix] == pytest.approx(expected[group][name], abs=1e-6)
        counted = [classes.index(c) for c in classes if not np.isnan(results[f"pq/{c}"])]
        if not suffix:
            assert len(counted) == expected["All"]["n"]
    for label in classes:
        values = [results[f"{name}/{label}"] for name in NAMES]
        if str(label) in expected["per_class"]:
            of_class = expected["per_class"][str(label)]
            assert values == pytest.approx([of_class[name] for name in NAMES], abs=1e-6)
        else:
            assert values == [0.0] * 3 or np.isnan(values).all()


def test_stardist():
    """Of one class, over all images."""
    golden = dict(np.load(Path(__file__).parents[1] / "golden" / "object_metrics.npz"))
    metric = PanopticQuality(1, background_is_void=False)
    for start in range(0, 16, 6):
        truth, found = (
            {"instance_ids": ids, "labels": np.zeros((len(ids), ids.max()), "int32")}
            for ids in (golden[name][start : start + 6] for name in ("truth", "found"))
        )
        results = updated(metric, truth, found)
    assert results["pq"] == pytest.approx(golden["all_panoptic_quality"][0], abs=1e-6)
    assert results["rq"] == pytest.approx(golden["all_f1"][0], abs=1e-6)


def by_definition(truth, found, num_classes, background_is_void):
    """As the paper has it, pair by pair; `(iou, hits, false, missed)`, each `(K,)`."""
    iou, hits, false, missed = np.zeros((4, num_classes))
    for image in range(len(truth["labels"])):
        ids = {"t": truth["instance_ids"][image], "f": found["instance_ids"][image]}
        labels = {"t": truth["labels"][image], "f": found["labels"][image]}
        crowd = truth["is_crowd"][image]
        masks = {
            side: {
                row: ids[side] == row + 1
                for row, label in enumerate(labels[side])
                if label >= 0 and (ids[side] == row + 1).any()
            }
            for side in "tf"
        }
        void = ~np.any([np.zeros_like(ids["t"], bool), *masks["t"].values()], axis=0)
        if not background_is_void:
            void &= ids["t"] > 0
        right = set()
        for row, mask in masks["t"].items():
            if crowd[row]:
                continue
            for other, candidate in masks["f"].items():
                overlap = (mask & candidate).sum() / ((mask | candidate) & ~(void & ~mask)).sum()
                if overlap > 0.5 and labels["t"][row] == labels["f"][other]:
                    iou[labels["t"][row]] += overlap
                    hits[labels["t"][row]] += 1
                    right.add(other)
                    break
            else:
                missed[labels["t"][row]] += 1
        for other, candidate in masks["f"].items():
            excused = void.copy()
            for row, mask in masks["t"].items():
                if crowd[row] and labels["t"][row] == labels["f"][other]:
                    excused |= mask
            if other not in right and (candidate & excused).sum() <= candidate.sum() / 2:
                false[labels["f"][other]] += 1
    return iou, hits, false, missed


def random_segments(rng, shape, num_rows):
    rows, columns = np.indices(shape[1:])
    ids = np.zeros(shape, "int32")
    for image in range(shape[0]):
        for row in range(num_rows):
            y, x = rng.uniform(0, shape[1:])
            height, width = rng.uniform(1, 7, 2)
            own = ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 <= 1
            ids[image][own] = row + 1
    return ids


@pytest.mark.parametrize("seed", range(40))
def test_the_definition(seed):
    """With void, crowd, padding, and predictions that are moved and of other classes."""
    rng = np.random.default_rng(seed)
    num_classes, shape = 4, (3, 16, 20)
    truth = {
        "instance_ids": random_segments(rng, shape, 9),
        "labels": rng.integers(-1, num_classes, (3, 9)),
        "is_crowd": rng.random((3, 9)) < 0.3,
    }
    found = {"instance_ids": np.roll(truth["instance_ids"], int(rng.integers(0, 2)), 2)}
    new = random_segments(rng, shape, 2)
    found["instance_ids"] = np.where(new > 0, 9 + new, found["instance_ids"])
    labels = np.where(rng.random((3, 9)) < 0.8, truth["labels"], 1)
    found["labels"] = np.concatenate([labels, rng.integers(-1, num_classes, (3, 2))], axis=1)
    metric = PanopticQuality(
        num_classes, things=[1, 2], background_is_void=seed % 2 == 0, per_class=True
    )
    for image in range(3):
        part = slice(image, image + 1)
        results = updated(metric, *({k: v[part] for k, v in x.items()} for x in (truth, found)))

    iou, hits, false, missed = by_definition(truth, found, num_classes, seed % 2 == 0)
    somewhere = hits + false + missed > 0
    with np.errstate(invalid="ignore"):
        rq = np.where(somewhere, hits / (hits + false / 2 + missed / 2), np.nan)
        sq = np.where(somewhere, np.where(hits > 0, iou / hits, 0.0), np.nan)
    for name, values in {"pq": sq * rq, "sq": sq, "rq": rq}.items():
        by_class = [results[f"{name}/{label}"] for label in range(num_classes)]
        assert by_class == pytest.approx(values, abs=1e-6, nan_ok=True)
        groups = {"": range(4), "_things": [1, 2], "_stuff": [0, 3]}
        for suffix, group in groups.items():
            some = [values[c] for c in group if somewhere[c]]
            mean = np.mean(some) if some else np.nan
            assert results[name + suffix] == pytest.approx(mean, abs=1e-6, nan_ok=True)


def one_row(*ids):
    return np.array(ids, "int32")[None, None]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([1, 1, 1, 1, 0, 0, 0, 0, 0], (1.0, 1.0, 1.0)),
        # Two pixels of void do not count to the union.
        ([1, 1, 1, 0, 0, 0, 0, 1, 1], (0.75, 0.75, 1.0)),
        # Half is no match: one missed, one false.
        ([1, 1, 0, 0, 0, 0, 0, 0, 0], (0.0, 0.0, 0.0)),
        # Segment 2 lies in the crowd and void by more than half: not false; then by half: false.
        ([1, 1, 1, 1, 2, 2, 2, 2, 2], (1.0, 1.0, 1.0)),
        ([1, 1, 1, 2, 2, 0, 0, 0, 0], (0.75 / 1.5, 0.75, 1 / 1.5)),
    ],
)
def test_worked_examples(found, expected):
    """Four pixels of an object, three of a crowd, two of nothing."""
    truth = {
        "instance_ids": one_row(1, 1, 1, 1, 2, 2, 2, 0, 0),
        "labels": np.array([[0, 0, -1]]),
        "is_crowd": np.array([[False, True, False]]),
    }
    found = {"instance_ids": one_row(*found), "labels": np.array([[0, 0]])}
    results = updated(PanopticQuality(2), truth, found)
    assert [results[name] for name in NAMES] == pytest.approx(expected, abs=1e-6)


def test_crowd_of_another_class_is_no_excuse():
    truth = {
        "instance_ids": one_row(1, 1, 1, 1, 2, 2, 2, 3),
        "labels": np.array([[0, 1, 1]]),
        "is_crowd": np.array([[0, 1, 0]]),
    }
    found = {"instance_ids": one_row(1, 1, 1, 1, 2, 2, 2, 3), "labels": np.array([[0, 0, 1]])}
    results = updated(PanopticQuality(2, per_class=True), truth, found)
    assert results["rq/0"] == pytest.approx(1 / 1.5)
    assert results["rq/1"] == 1.0


def test_many_ious_are_summed_exactly():
    """After 300 000 segments in one class, float32 alone would add multiples of 1/64."""
    ids = one_row(1, 1, 1)
    labels = np.zeros((1, 1), "int32")
    truth, found = ({"instance_ids": x, "labels": labels} for x in (ids, one_row(1, 1, 0)))
    metric = PanopticQuality(1)
    metric._iou.assign([200_000.0])
    metric._hits.assign([300_000.0])
    metric._segments.assign([600_000.0])
    for _ in range(40):
        metric.update_state(truth, found)
    sums = [float(np.asarray(ops.convert_to_numpy(v))[0]) for v in (metric._iou, metric._iou_rest)]
    assert sum(sums) == pytest.approx(200_000 + 40 * 2 / 3, abs=1e-3)


def test_sample_weight_and_serialisation():
    labels = np.zeros((2, 1), "int32")
    truth = {"instance_ids": np.ones((2, 2, 2), "int32"), "labels": labels}
    found = {"instance_ids": np.stack([np.ones((2, 2)), np.zeros((2, 2))]), "labels": labels}
    metric = PanopticQuality(2, things=(1,), per_class=True, class_names=["a", "b"])
    metric = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert metric.get_config()["things"] == [1]
    results = updated(metric, truth, found, np.array([3.0, 1.0]))
    assert results["pq/a"] == pytest.approx(3 / 3.5)
    assert results["pq_stuff"] == results["pq"] == results["pq/a"]
    assert np.isnan(results["pq_things"])
    assert np.isnan(results["pq/b"])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled(jit_compile):
    """In a graph that knows no shape, and under XLA; wrong ids and labels become NaN."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow's graphs")
    import tensorflow as tf

    metric = PanopticQuality(3)

    def update(truth, found):
        metric.update_state(truth, found)
        return metric.result()

    rng = np.random.default_rng(2)
    ids = random_segments(rng, (2, 12, 14), 5)
    labels = rng.integers(0, 3, (2, 5)).astype("int32")
    truth = {"instance_ids": ids, "labels": labels, "is_crowd": labels == 7}
    found = {"instance_ids": np.roll(ids, 1, 2), "labels": labels}
    expected = updated(PanopticQuality(3), truth, found)
    shapes = {"instance_ids": [None] * 3, "labels": [None] * 2, "is_crowd": [None] * 2}
    signature = [
        {name: tf.TensorSpec(shapes[name], tf.as_dtype(x.dtype)) for name, x in segments.items()}
        for segments in (truth, found)
    ]
    compiled = tf.function(update, input_signature=signature, jit_compile=jit_compile)
    results = {name: float(value) for name, value in compiled(truth, found).items()}
    assert results == pytest.approx(expected, abs=1e-6)
    for wrong in ({**found, "labels": labels + 1}, {**found, "instance_ids": ids + 1}):
        metric.reset_state()
        assert np.isnan(compiled(truth, wrong)["pq"])


def test_what_is_wrong_is_named():
    for arguments, message in (
        ({"num_classes": 0}, "`num_classes` must be at least 1. Received: 0"),
        ({"num_classes": 2, "things": [2]}, r"`things` must be classes in 0..1. Received: \[2\]"),
        ({"num_classes": 2, "class_names": ["a"]}, "`class_names` must have 2 names. Received: 1"),
    ):
        with pytest.raises(ValueError, match=message):
            PanopticQuality(**arguments)
    right = {"instance_ids": one_row(1, 2), "labels": np.array([[0, 1]])}
    metric = PanopticQuality(2)
    for wrong, message in (
        (right["instance_ids"], "`y_pred` must be a dictionary with `instance_ids` and `labels`"),
        ({"labels": right["labels"]}, r"must have `instance_ids`. Received: \['labels'\]"),
        ({**right, "labels": np.array([0, 1])}, r"`labels` must have shape \(B, M\)"),
        ({**right, "labels": np.array([[0, 2]])}, "labels in `y_pred` must be from -1 to 1"),
        ({**right, "labels": np.array([[0]])}, "ids in `y_pred`.* from 0 to 1. Received: 1 to 2"),
        ({**right, "instance_ids": one_row(1, 2, 0)}, r"\(1, 2\) and \(1, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update_state(right, wrong)
