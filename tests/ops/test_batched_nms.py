from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kvision.ops import batched_nms
from kvision.ops.batched_nms import BatchedNMSOperation
from kvision.ops.suppression import float32_threshold
from kvision.testing import (
    Input,
    Invalid,
    KernelCall,
    OpContract,
    OpTests,
    Output,
    RawOp,
    Variant,
    draws,
)
from tests.golden import nms_cases

GOLDEN = Path(__file__).parents[1] / "golden" / "nms.npz"
BACKEND = keras.backend.backend()
needs_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="runs on TensorFlow only")
NAMES = ("boxes", "scores", "labels", "indices", "num_detections")
INF, NAN = np.inf, np.nan


def wrong_shapes(*shapes):
    """Pairs of shapes that do not go together, and what is said of them."""
    return tuple(
        Invalid({"boxes": np.zeros(boxes, "f"), "scores": np.zeros(scores, "f")}, message)
        for boxes, scores, message in shapes
    )


def kernels(inputs, arguments, output_gradients):
    """The kernel's own call, where Python does no more than gather; and the golden cases."""
    if arguments.get("class_agnostic"):
        return []
    boxes, scores = inputs["boxes"], inputs["scores"]
    own = {
        "boxes": boxes if boxes.ndim == 4 else boxes[:, :, None],
        "scores": scores,
        "iou_threshold": float32_threshold(arguments["iou_threshold"]),
        "max_output_size": arguments["max_output_size"],
        "max_output_size_per_class": arguments["max_output_size"],
    }
    calls = [KernelCall("batched_nms", own, {0: "indices", 1: "labels", 2: "num_detections"})]
    for seed in range(nms_cases.NUM_BATCHED_CASES if boxes.ndim == 4 else 0):
        names = ("boxes", "scores", "iou_threshold")
        golden = dict(zip(names, nms_cases.batched_nms_case(seed), strict=True))
        calls.append(KernelCall("batched_nms", golden))
    return calls


RAW = RawOp(
    name="batched_nms",
    op="kvision_batched_nms",
    inputs={
        "boxes": Input("batch num_boxes num_classes 4", draws.boxes(), "float32"),
        "scores": Input("batch num_boxes num_classes", draws.uniform(), "float32"),
    },
    outputs={
        "indices": Output("batch max_output_size", "int32"),
        "labels": Output("batch max_output_size", "int32"),
        "num_detections": Output("batch", "int32"),
    },
    arguments={
        "iou_threshold": 0.5,
        "score_threshold": -INF,
        "max_output_size": 4,
        "max_output_size_per_class": 4,
    },
    sizes={"batch": 2, "num_boxes": 5, "num_classes": 3},
    dtypes=("float32",),
    variants={"own boxes": Variant(), "shared": Variant(axes={"boxes": "batch num_boxes 1 4"})},
    invalid=(
        *wrong_shapes(
            ((2, 5, 4), (2, 5, 3), "`boxes` must have shape"),
            ((2, 5, 1, 5), (2, 5, 3), "`boxes` must have shape"),
            ((2, 5, 1, 4), (2, 5), "`scores` must have shape"),
            ((1, 5, 1, 4), (2, 5, 3), "`scores` must have shape .* where batch is 1 in `boxes`"),
            (
                (2, 4, 1, 4),
                (2, 5, 3),
                "`scores` must have shape .* where num_boxes is 4 in `boxes`",
            ),
            ((2, 5, 2, 4), (2, 5, 3), "`scores` must have .* where num_classes is 2 in `boxes`"),
        ),
        Invalid({"iou_threshold": -0.5}, "`iou_threshold`"),
        Invalid({"max_output_size": 2**31}, "`max_output_size`"),
        Invalid({"max_output_size": 0}, "must be positive"),
        Invalid({"max_output_size_per_class": -1}, "must be positive"),
    ),
    fuzzed_arguments={
        "iou_threshold": (0.0, 0.3, 1.0, -0.1, 1.5, NAN),
        "score_threshold": (0.5, -INF, INF, NAN),
        "max_output_size": (1, 9, 0, -1, 2**31),
        "max_output_size_per_class": (1, 2, 0, -1, 2**31),
    },
)


class TestBatchedNMS(OpTests):
    contract = OpContract(
        name="batched_nms",
        function=batched_nms,
        inputs={
            "boxes": Input("batch num_boxes 4", draws.boxes(), differentiable=True),
            "scores": Input("batch num_boxes num_classes", draws.distinct(), differentiable=True),
        },
        outputs={
            "boxes": Output("batch max_output_size 4", "float32"),
            "scores": Output("batch max_output_size", "float32"),
            "labels": Output("batch max_output_size", "int32"),
            "indices": Output("batch max_output_size", "int32"),
            "num_detections": Output("batch", "int32"),
        },
        arguments={"iou_threshold": 0.3, "max_output_size": 6},
        sizes={"batch": 2, "num_boxes": 9, "num_classes": 3},
        variants={
            "shared boxes": Variant(),
            "own boxes": Variant(axes={"boxes": "batch num_boxes num_classes 4"}),
            "agnostic": Variant({"class_agnostic": True}),
        },
        invalid=(
            *wrong_shapes(
                ((2, 5, 5), (2, 5, 3), "`boxes` must have shape"),
                ((5, 4), (2, 5, 3), "`boxes` must have shape"),
                ((2, 5, 4), (2, 5), "`scores` must have shape"),
                ((3, 5, 4), (2, 5, 3), "`boxes` and `scores` must have the same batch"),
                ((2, 6, 4), (2, 5, 3), "`boxes` and `scores` must have the same num_boxes"),
                ((2, 5, 2, 4), (2, 5, 3), "must have the same num_classes"),
            ),
            Invalid({"iou_threshold": 1.1}, r"`iou_threshold` must be in \[0, 1\]"),
            Invalid({"max_output_size": None}, "`max_output_size` must be"),
            Invalid({"max_output_size": -1}, "`max_output_size` must be"),
            Invalid({"max_output_size_per_class": 0}, "`max_output_size_per_class` must be"),
            Invalid({"class_agnostic": True, "max_output_size_per_class": 3}, "has no meaning"),
            Invalid(
                {"boxes": np.zeros((2, 9, 4), int)}, "`boxes` must be floating", TypeError, False
            ),
            Invalid(
                {"scores": np.zeros((2, 9, 3), int)}, "`scores` must be floating", TypeError, False
            ),
        ),
        raw=(RAW,),
        kernels=kernels,
        kernel_sizes={"batch": 5, "num_boxes": 200, "num_classes": 4},
        computes_in="float32",
        # Less than what lies between two scores, or they change places.
        gradient_dtype="float32",
        gradient_step=0.01,
        gradient_rtol=1e-3,
        fuzzed_arguments={
            "iou_threshold": (0.0, 0.3, 1.0, -0.1, NAN),
            "score_threshold": (None, 0.5, -INF, INF, NAN),
            "max_output_size": (1, 9, None, 0, 2.5),
            "max_output_size_per_class": (None, 1, 3, 0),
            "class_agnostic": (True, False),
        },
    )

    def test_empty(self, implementation, variant, empty):
        if BACKEND == "jax" and empty in ("batch", "all axes"):
            pytest.skip("JAX does not differentiate a gather from an empty batch")
        super().test_empty(implementation, variant, empty)


def run(boxes, scores, **arguments):
    boxes, scores = np.asarray(boxes, "float32"), np.asarray(scores, "float32")
    detections = batched_nms(boxes, scores, **arguments)
    assert tuple(sorted(detections)) == tuple(sorted(NAMES))
    return {name: ops.convert_to_numpy(value) for name, value in detections.items()}


def pairs(detections, image=0):
    """(box index, label) of an image's detections."""
    count = detections["num_detections"][image]
    assert (detections["indices"][image][count:] == -1).all()
    assert (detections["labels"][image][count:] == -1).all()
    return list(
        zip(
            detections["indices"][image][:count].tolist(),
            detections["labels"][image][:count].tolist(),
            strict=True,
        )
    )


def random_inputs(seed, batch=2, num_boxes=40, num_classes=3, own_boxes=False, ties=False):
    rng = np.random.default_rng(seed)
    shape = (batch, num_boxes, num_classes if own_boxes else 1, 2)
    corner, extent = rng.uniform(-10, 40, shape), rng.uniform(1, 30, shape)
    boxes = np.concatenate([corner, corner + extent], -1).astype("float32")
    scores = (
        rng.integers(0, 6, (batch, num_boxes, num_classes)) / 6
        if ties
        else rng.random((batch, num_boxes, num_classes))
    )
    return boxes if own_boxes else boxes[:, :, 0], scores.astype("float32")


def greedy(boxes, scores, iou_threshold, score_threshold, size, per_class=None, agnostic=False):
    """One image's (box index, label), one pair at a time in the documented order."""
    num_boxes, num_classes = scores.shape
    boxes = np.broadcast_to(boxes.reshape(num_boxes, -1, 4), (num_boxes, num_classes, 4))
    candidates = [
        (-scores[n, c], n, c)
        for n in range(num_boxes)
        for c in ([int(np.argmax(scores[n]))] if agnostic else range(num_classes))
        if scores[n, c] > score_threshold
    ]
    kept = []
    for _, n, c in sorted(candidates):
        rivals = [(m, d) for m, d in kept if agnostic or d == c]
        if per_class is not None and len(rivals) == per_class:
            continue
        if all(_iou(boxes[n, c], boxes[m, d]) <= iou_threshold for m, d in rivals):
            kept.append((n, c))
    return kept[:size]


def _iou(a, b):
    inter = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def test_worked_example(implementation):
    boxes = [(0, 0, 10, 10), (1, 1, 11, 11), (0, 0, 10, 5), (20, 20, 30, 30), (21, 21, 31, 31)]
    boxes = [[*boxes, (0, 0, 5, 10)]]
    scores = np.zeros((1, 6, 2))
    scores[0, range(6), [0, 1, 0, 0, 0, 1]] = [0.9, 0.8, 0.7, 0.6, 0.95, 0.5]
    found = run(boxes, scores, iou_threshold=0.5, score_threshold=0.0, max_output_size=7)
    assert pairs(found) == [(4, 0), (0, 0), (1, 1), (2, 0), (5, 1)]
    np.testing.assert_array_equal(found["boxes"][0, 1], boxes[0][0])
    np.testing.assert_array_equal(found["boxes"][0, 5:], np.zeros((2, 4)))
    np.testing.assert_allclose(found["scores"][0], [0.95, 0.9, 0.8, 0.7, 0.5, 0, 0], rtol=1e-6)


def test_detections_of_faster_rcnn(implementation):
    """torchvision's post-processing of filled logits and offsets: softmax, decode, clip, select."""

    def filled(shape, amplitude):
        return (amplitude * np.sin(np.arange(np.prod(shape)) * 0.37 + 0.2)).reshape(shape)

    logits, deltas = filled((6, 3), 2), filled((6, 3, 4), 0.8) / (10, 10, 5, 5)
    proposals = np.array(
        [
            (0, 0, 20, 20),
            (2, 2, 22, 22),
            (10, 10, 50, 40),
            (12, 9, 52, 41),
            (5, 30, 25, 45),
            (30, 0, 60, 20),
        ]
    )[:, None]
    extent = proposals[..., 2:] - proposals[..., :2]
    centre = proposals[..., :2] + extent / 2 + deltas[..., :2] * extent
    half = extent * np.exp(deltas[..., 2:]) / 2
    boxes = np.clip(np.concatenate([centre - half, centre + half], -1), 0, (64, 48, 64, 48))
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    found = run(boxes[None, :, 1:], scores[None, :, 1:], iou_threshold=0.5, score_threshold=0.05)
    assert found["num_detections"].tolist() == [9]
    assert (found["labels"][0, :9] + 1).tolist() == [2, 2, 2, 1, 1, 1, 2, 1, 2]
    np.testing.assert_allclose(
        found["scores"][0, :9],
        [0.581672, 0.531616, 0.422825, 0.363152, 0.300511, 0.297079, 0.293377, 0.278745, 0.185255],
        atol=2e-6,
    )
    expected = [
        (28.4287, 0, 62.6528, 22.5841),
        (1.0126, 0.7403, 18.9285, 18.0478),
        (5.8704, 30.8206, 26.9384, 45.7276),
        (0.8283, 0.942, 22.6518, 23.7151),
        (4.2095, 29.6938, 27.572, 47.2729),
        (9.9301, 9.3673, 44.2675, 35.843),
        (2.029, 2.4836, 25.0684, 24.6949),
        (28.8527, 0, 56.588, 18.539),
        (12.7201, 8.9322, 46.8153, 36.4112),
    ]
    np.testing.assert_allclose(found["boxes"][0, :9], expected, atol=1e-4)


def _compiled(*shapes, **arguments):
    """`batched_nms` as its users compile it."""

    def function(boxes, scores):
        return batched_nms(boxes, scores, **arguments)

    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, [tf.TensorSpec(s) for s in shapes], autograph=False)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


def test_detections_are_torchvisions(implementation):
    golden = np.load(GOLDEN)
    splits = np.cumsum(golden["batched_nms_lengths"])[:-1]
    expected = iter(np.split(golden["batched_nms_values"], splits))
    compiled = {}
    for seed in range(nms_cases.NUM_BATCHED_CASES):
        boxes, scores, iou_threshold = nms_cases.batched_nms_case(seed)
        num_classes = scores.shape[2]
        if boxes.shape[2] == 1:
            boxes = boxes[:, :, 0]
        rows = next(expected), next(expected)
        if BACKEND != "tensorflow" and scores.shape != (2, 30, 3):
            continue  # a compilation each
        key = iou_threshold, boxes.ndim
        if key not in compiled:
            compiled[key] = _compiled(
                [None] * boxes.ndim,
                [None] * 3,
                iou_threshold=iou_threshold,
                score_threshold=nms_cases.BATCHED_SCORE_THRESHOLD,
                max_output_size=nms_cases.BATCHED_OUTPUT_SIZE,
            )
        found = compiled[key](boxes, scores)
        found = {name: ops.convert_to_numpy(value) for name, value in found.items()}
        for image, row in enumerate(rows):
            wanted = [divmod(int(pair), num_classes) for pair in row]
            assert pairs(found, image) == wanted, seed


@pytest.mark.parametrize("own_boxes", [False, True])
@pytest.mark.parametrize("per_class", [None, 2])
@pytest.mark.parametrize("agnostic", [False, True])
def test_order_ties_and_limits(implementation, own_boxes, per_class, agnostic):
    if agnostic and per_class:
        pytest.skip("refused")
    boxes, scores = random_inputs(0, own_boxes=own_boxes, ties=True)
    found = run(
        boxes,
        scores,
        iou_threshold=0.3,
        score_threshold=0.2,
        max_output_size=12,
        max_output_size_per_class=per_class,
        class_agnostic=agnostic,
    )
    for image in range(2):
        wanted = greedy(boxes[image], scores[image], 0.3, 0.2, 12, per_class, agnostic)
        assert len(wanted) > 5
        assert pairs(found, image) == wanted
        index, label = np.array(wanted).T
        chosen = boxes[image][index, label] if own_boxes else boxes[image][index]
        np.testing.assert_array_equal(found["boxes"][image, : len(index)], chosen)
        np.testing.assert_array_equal(
            found["scores"][image, : len(index)], scores[image][index, label]
        )


@needs_tensorflow
def test_that_classes_share_boxes_may_be_known_in_the_graph_alone(implementation):
    boxes, scores = random_inputs(0)
    arguments = {"iou_threshold": 0.3, "max_output_size": 12}
    unknown = _compiled([None] * 4, [None] * 3, **arguments)(boxes[:, :, None], scores)
    for name, wanted in run(boxes, scores, **arguments).items():
        np.testing.assert_array_equal(unknown[name], wanted)


def test_equal_scores_ascend_by_box_then_class(implementation):
    boxes = [[(0, 0, 1, 1), (2, 0, 3, 1)]]
    found = run(boxes, np.full((1, 2, 2), 0.5), iou_threshold=0.5, max_output_size=4)
    assert pairs(found) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_classes_do_not_see_each_other_at_negative_coordinates(implementation):
    """Where shifting classes apart by their coordinates loses the second box."""
    boxes = [[(0, 0, 10, 10), (-11, -11, -1, -1)]]
    found = run(boxes, [[(0.9, 0), (0, 0.8)]], iou_threshold=0.5, score_threshold=0.1)
    assert pairs(found) == [(0, 0), (1, 1)]


def test_images_of_a_batch_are_independent(implementation):
    boxes, scores = random_inputs(1, batch=3)
    arguments = {"iou_threshold": 0.5, "max_output_size": 9}
    together = run(boxes, scores, **arguments)
    for image in range(3):
        alone = run(boxes[image : image + 1], scores[image : image + 1], **arguments)
        for name in NAMES:
            np.testing.assert_array_equal(alone[name][0], together[name][image])


def test_nan_and_minus_infinity_are_never_selected(implementation):
    boxes = np.arange(12).reshape(1, 3, 4)
    scores = [[(np.nan, -np.inf), (-1, np.nan), (-np.inf, np.inf)]]
    for agnostic in (False, True):
        found = run(boxes, scores, iou_threshold=0.5, class_agnostic=agnostic)
        assert pairs(found) == [(2, 1), (1, 0)]


def test_nothing_above_the_threshold(implementation):
    boxes, scores = random_inputs(2)
    found = run(boxes, scores, iou_threshold=0.5, score_threshold=1.0, max_output_size=3)
    assert found["num_detections"].tolist() == [0, 0]
    assert (found["labels"] == -1).all()
    assert (found["indices"] == -1).all()
    assert not found["boxes"].any()
    assert not found["scores"].any()


@pytest.mark.parametrize("sizes", [(0, 5, 2), (2, 0, 2), (2, 5, 0), (0, 0, 0)])
@pytest.mark.parametrize("own_boxes", [False, True])
@pytest.mark.parametrize("agnostic", [False, True])
def test_empty_sizes(implementation, sizes, own_boxes, agnostic):
    boxes = np.ones((*sizes, 4) if own_boxes else (*sizes[:2], 4))
    arguments = {"iou_threshold": 0.5, "max_output_size": 3, "class_agnostic": agnostic}
    found = run(boxes, np.ones(sizes), **arguments)
    assert found["boxes"].shape == (sizes[0], 3, 4)
    assert found["labels"].tolist() == [[-1] * 3] * sizes[0]
    assert found["num_detections"].tolist() == [0] * sizes[0]


def test_gradients_flow_to_what_was_selected(implementation):
    if BACKEND != "tensorflow":
        pytest.skip("needs a gradient tape")
    import tensorflow as tf

    boxes, scores = (tf.constant(value) for value in random_inputs(3, own_boxes=True))
    with tf.GradientTape() as tape:
        tape.watch([boxes, scores])
        found = batched_nms(boxes, scores, iou_threshold=0.5, max_output_size=8)
        loss = tf.reduce_sum(found["boxes"]) + 2 * tf.reduce_sum(found["scores"])
    box_gradient, score_gradient = tape.gradient(loss, [boxes, scores])
    selected = np.zeros(scores.shape)
    for image in range(2):
        for index, label in pairs({k: v.numpy() for k, v in found.items()}, image):
            selected[image, index, label] = 1
    assert selected.sum() == 16
    np.testing.assert_array_equal(tf.convert_to_tensor(score_gradient), 2 * selected)
    np.testing.assert_array_equal(
        tf.convert_to_tensor(box_gradient), np.repeat(selected[..., None], 4, -1)
    )


@needs_tensorflow
@pytest.mark.parametrize("own_boxes", [False, True])
def test_agrees_with_tensorflow(implementation, own_boxes):
    """On continuous boxes and scores: no ties, no IoU at the threshold, no empty box."""
    import tensorflow as tf

    for seed in range(5):
        boxes, scores = random_inputs(seed, own_boxes=own_boxes, num_boxes=60)
        found = run(
            boxes,
            scores,
            iou_threshold=0.4,
            score_threshold=0.3,
            max_output_size=25,
            max_output_size_per_class=10,
        )
        wanted = tf.image.combined_non_max_suppression(
            boxes if own_boxes else boxes[:, :, None],
            scores,
            max_output_size_per_class=10,
            max_total_size=25,
            iou_threshold=0.4,
            score_threshold=0.3,
            clip_boxes=False,
        )
        np.testing.assert_array_equal(found["num_detections"], wanted.valid_detections)
        np.testing.assert_array_equal(found["boxes"], wanted.nmsed_boxes)
        np.testing.assert_array_equal(found["scores"], wanted.nmsed_scores)
        np.testing.assert_array_equal(np.maximum(found["labels"], 0), wanted.nmsed_classes)


def test_operation_keeps_its_arguments():
    config = {
        "iou_threshold": 0.4,
        "score_threshold": 0.2,
        "max_output_size": 7,
        "max_output_size_per_class": 3,
        "class_agnostic": False,
        "name": "n",
    }
    operation = BatchedNMSOperation(**config)
    assert BatchedNMSOperation.from_config(operation.get_config()).get_config() == config
