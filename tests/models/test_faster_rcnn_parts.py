"""The steps of Faster R-CNN against values computed by torchvision's functions."""

from pathlib import Path

import numpy as np
import pytest
from keras import ops

from kvision.boxes import cell_anchors, encode_boxes, grid_anchors, pyramid_anchors
from kvision.losses import smooth_l1
from kvision.models.detection.ground_truth import read_targets
from kvision.models.detection.region_detections import detect_regions
from kvision.models.detection.region_proposals import propose_regions
from kvision.models.detection.sampled_losses import anchor_losses, region_losses
from kvision.models.detection.training_samples import (
    ANCHOR_STREAM,
    REGION_STREAM,
    Samples,
    sample_boxes,
)

RATIOS = (0.5, 1.0, 2.0)
GOLDEN = Path(__file__).parents[1] / "golden" / "faster_rcnn_parts.npz"


def wave(shape, amplitude=1.0, step=0.37):
    """Deterministic filler: `amplitude * sin(step * i + 0.2)` over the flat index i."""
    i = np.arange(np.prod(shape))
    return (amplitude * np.sin(step * i + 0.2)).astype("float32").reshape(shape)


def tensor(array, dtype=None):
    return ops.convert_to_tensor(np.asarray(array), dtype)


def box_loss(targets, deltas):
    return smooth_l1(targets, deltas, 1 / 9)


def numpy_values(dictionary):
    return {name: ops.convert_to_numpy(value) for name, value in dictionary.items()}


ORDER = [0, 2, 5, 1, 3, 4]  # positives first; the labels of the worked example are 1 0 2 0 0 1


def worked_region_losses(logits, deltas):
    samples = Samples(
        indices=tensor(np.zeros((1, 6)), "int32"),
        boxes=None,
        labels=tensor([[0, 1, 0, -1, -1, -1]], "int32"),
        targets=tensor(wave((6, 4), 0.3, 0.5)[ORDER][None, :4]),
        matches=None,
        num_positive=tensor([3], "int32"),
        num_sampled=tensor([6], "int32"),
    )
    return region_losses(logits, deltas, samples, box_loss)


def test_region_losses():
    logits, deltas = wave((6, 3))[ORDER][None], wave((6, 3, 4), 0.5)[ORDER][None]
    losses = worked_region_losses(tensor(logits), tensor(deltas))
    assert float(losses["class_loss"]) == pytest.approx(1.141755, abs=1e-6)
    assert float(losses["box_loss"]) == pytest.approx(0.315323, abs=1e-6)


@pytest.mark.parametrize(
    ("which", "loss", "expected"),
    [
        (0, "class_loss", [0.039265, -0.111449, 0.072184]),
        (1, "box_loss", [0] * 4 + [0.166667, 0.166667, 0.076018, -0.166667] + [0] * 4),
    ],
)
def test_region_loss_slopes(which, loss, expected):
    inputs = [wave((6, 3))[ORDER][None], wave((6, 3, 4), 0.5)[ORDER][None]]
    step = 1e-2
    for i, slope in enumerate(expected):
        values = []
        for sign in (1, -1):
            moved = [x.copy() for x in inputs]
            moved[which][0, 0].flat[i] += sign * step
            values.append(float(worked_region_losses(*map(tensor, moved))[loss]))
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, abs=1e-4)


def worked_anchors():
    return grid_anchors((3, 4), (16, 16), cell_anchors((16,), RATIOS))


def test_anchor_losses():
    boxes = np.array([[(10, 8, 30, 28), (20, 40, 20, 40), (40, 20, 60, 40)]], "float32")
    labels = np.array([[1, -1, 0]], "int32")
    samples = sample_boxes(
        worked_anchors(),
        read_targets({"boxes": boxes, "labels": labels}),
        seed=0,
        step=tensor(0, "int32"),
        stream=ANCHOR_STREAM,
        num_samples=256,
        positive_fraction=0.5,
        positive_threshold=0.7,
        negative_threshold=0.3,
        allow_low_quality=True,
        crowd_overlap=0.7,
    )
    indices = ops.convert_to_numpy(samples.indices)[0]
    assert int(samples.num_positive[0]) == 2
    assert int(samples.num_sampled[0]) == 32
    assert set(indices[:2]) == {17, 34}
    assert set(indices[2:32]) == set(range(36)) - {15, 16, 17, 33, 34, 35}
    losses = anchor_losses(
        tensor(wave((36,), 1.5)[indices][None]),
        tensor(wave((36, 4), 0.4)[indices][None]),
        samples,
        box_loss,
    )
    assert float(losses["rpn_objectness_loss"]) == pytest.approx(0.835571, abs=1e-6)
    assert float(losses["rpn_box_loss"]) == pytest.approx(0.040515, abs=1e-6)


def test_proposals():
    proposals, count = propose_regions(
        tensor(wave((1, 36), 1.5)),
        tensor(wave((1, 36, 4), 0.4)),
        [worked_anchors()],
        (48, 64),
        pre_nms_size=100,
        post_nms_size=50,
        nms_threshold=0.7,
        min_side=1e-3,
    )
    proposals = ops.convert_to_numpy(proposals)
    assert ops.convert_to_numpy(count).tolist() == [32]
    expected = {
        0: (5.0101, 0, 24.9104, 12.3823),
        1: (33.0016, 8.7602, 60.6134, 25.4664),
        2: (22.7921, 0, 31.6177, 16.7219),
        31: (6.6409, 15.7072, 18.0694, 39.9741),
    }
    for i, box in expected.items():
        np.testing.assert_allclose(proposals[0, i], box, atol=1e-4)
    np.testing.assert_array_equal(proposals[0, 32:], 0)


def test_detections():
    regions = [
        *[(0, 0, 20, 20), (2, 2, 22, 22), (10, 10, 50, 40)],
        *[(12, 9, 52, 41), (5, 30, 25, 45), (30, 0, 60, 20)],
    ]
    detections = numpy_values(
        detect_regions(
            tensor(wave((1, 6, 3), 2.0)),
            tensor(wave((1, 6, 3, 4), 0.8)),
            tensor([regions], "float32"),
            tensor([6], "int32"),
            tensor([[48, 64]], "float32"),
            score_threshold=0.05,
            nms_threshold=0.5,
            max_detections=12,
        )
    )
    expected = [
        (2, 0.581672, (28.4287, 0, 62.6528, 22.5841)),
        (2, 0.531616, (1.0126, 0.7403, 18.9285, 18.0478)),
        (2, 0.422825, (5.8704, 30.8206, 26.9384, 45.7276)),
        (1, 0.363152, (0.8283, 0.942, 22.6518, 23.7151)),
        (1, 0.300511, (4.2095, 29.6938, 27.572, 47.2729)),
        (1, 0.297079, (9.9301, 9.3673, 44.2675, 35.843)),
        (2, 0.293377, (2.029, 2.4836, 25.0684, 24.6949)),
        (1, 0.278745, (28.8527, 0, 56.588, 18.539)),
        (2, 0.185255, (12.7201, 8.9322, 46.8153, 36.4112)),
    ]
    assert detections["num_detections"].tolist() == [9]
    # Counted from the background on in torchvision, from the first class on here.
    assert detections["labels"][0].tolist() == [label - 1 for label, _, _ in expected] + [-1] * 3
    scores = [score for _, score, _ in expected]
    np.testing.assert_allclose(detections["scores"][0, :9], scores, atol=1e-6)
    boxes = [box for _, _, box in expected]
    np.testing.assert_allclose(detections["boxes"][0, :9], boxes, atol=1e-4)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def golden_levels():
    sizes = ((24, 32), (12, 16), (6, 8))
    return pyramid_anchors((96, 128), sizes, ((16,), (32,), (64,)), RATIOS)


def test_golden_anchors(golden):
    np.testing.assert_array_equal(np.concatenate(golden_levels()), golden["anchors"])


def test_golden_proposals(golden):
    proposals, counts = propose_regions(
        tensor(golden["logits"]),
        tensor(golden["deltas"]),
        golden_levels(),
        (96, 128),
        pre_nms_size=200,
        post_nms_size=100,
        nms_threshold=0.7,
        min_side=1e-3,
    )
    assert ops.convert_to_numpy(counts).tolist() == [100, 100]
    for b, actual in enumerate(ops.convert_to_numpy(proposals)):
        np.testing.assert_allclose(actual, golden[f"proposals_{b}"], atol=1e-4)


def golden_ground_truth(golden):
    boxes = np.zeros((2, 6, 4), "float32")
    labels = np.full((2, 6), -1, "int32")
    for b in range(2):
        own = golden[f"ground_truth_{b}"]
        boxes[b, : len(own)] = own
        labels[b, : len(own)] = np.arange(len(own))
    return read_targets({"boxes": boxes, "labels": labels})


def golden_samples(golden, candidates, stream, **thresholds):
    """All candidates that are positive or negative, as one sample."""
    size = candidates.shape[-2]
    samples = sample_boxes(
        tensor(candidates),
        golden_ground_truth(golden),
        seed=0,
        step=tensor(0, "int32"),
        stream=stream,
        num_samples=size,
        positive_fraction=1.0,
        crowd_overlap=0.7,
        **thresholds,
    )
    return samples, numpy_values(
        {name: getattr(samples, name) for name in samples._fields if name != "boxes"}
    )


def test_golden_anchor_samples(golden):
    _, samples = golden_samples(
        golden,
        golden["anchors"],
        ANCHOR_STREAM,
        positive_threshold=0.7,
        negative_threshold=0.3,
        allow_low_quality=True,
    )
    for b in range(2):
        status = np.full(len(golden["anchors"]), -1)
        positive, sampled = samples["num_positive"][b], samples["num_sampled"][b]
        status[samples["indices"][b, positive:sampled]] = 0
        status[samples["indices"][b, :positive]] = 1
        np.testing.assert_array_equal(status, golden[f"anchor_labels_{b}"])
        order = np.argsort(samples["indices"][b, :positive])
        np.testing.assert_allclose(
            samples["targets"][b, :positive][order], golden[f"anchor_offsets_{b}"], atol=1e-5
        )


def test_golden_region_labels(golden):
    _, samples = golden_samples(
        golden,
        golden["regions"],
        REGION_STREAM,
        positive_threshold=0.5,
        negative_threshold=0.5,
    )
    for b in range(2):
        labels = np.full(150, -2)
        labels[samples["indices"][b]] = samples["labels"][b]
        np.testing.assert_array_equal(labels + 1, golden[f"region_labels_{b}"])


def test_golden_detections(golden):
    detections = numpy_values(
        detect_regions(
            tensor(golden["class_logits"]),
            tensor(golden["box_deltas"]),
            tensor(golden["regions"]),
            tensor([150, 150], "int32"),
            tensor([[96, 128], [96, 128]], "float32"),
            score_threshold=0.05,
            nms_threshold=0.5,
            max_detections=100,
        )
    )
    for b in range(2):
        assert detections["num_detections"][b] == 100
        np.testing.assert_array_equal(detections["labels"][b] + 1, golden[f"labels_{b}"])
        np.testing.assert_allclose(detections["scores"][b], golden[f"scores_{b}"], atol=1e-6)
        np.testing.assert_allclose(detections["boxes"][b], golden[f"boxes_{b}"], atol=1e-4)


def test_padding_regions_are_not_detected(golden):
    arguments = {"score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 100}
    count = 20
    all_regions = [golden[name] for name in ("class_logits", "box_deltas", "regions")]
    size = tensor([[96, 128], [96, 128]], "float32")
    padded = detect_regions(
        *map(tensor, all_regions), tensor([count, 0], "int32"), size, **arguments
    )
    alone = detect_regions(
        *(tensor(x[:1, :count]) for x in all_regions),
        tensor([count], "int32"),
        size[:1],
        **arguments,
    )
    padded, alone = numpy_values(padded), numpy_values(alone)
    for name, expected in alone.items():
        np.testing.assert_array_equal(padded[name][0], expected[0])
    assert padded["num_detections"][1] == 0


def test_targets_of_samples_are_offsets_to_the_match(golden):
    samples, values = golden_samples(
        golden, golden["regions"], REGION_STREAM, positive_threshold=0.3, negative_threshold=0.3
    )
    for b in range(2):
        count = values["num_positive"][b]
        assert count > 3
        expected = encode_boxes(
            golden[f"ground_truth_{b}"][values["labels"][b, :count]],
            golden["regions"][b][values["indices"][b, :count]],
        )
        np.testing.assert_allclose(
            values["targets"][b, :count], ops.convert_to_numpy(expected), atol=1e-6
        )
