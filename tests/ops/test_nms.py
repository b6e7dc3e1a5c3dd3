from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kvision.ops import native, nms, suppression
from kvision.ops.nms import NMSOperation
from kvision.ops.suppression import float32_threshold
from kvision.testing import (
    Case,
    Input,
    Invalid,
    KernelCall,
    OpContract,
    OpTests,
    Output,
    RawOp,
    Variant,
    draws,
    running,
)
from tests.golden import nms_cases

GOLDEN = Path(__file__).parents[1] / "golden" / "nms.npz"
BACKEND = keras.backend.backend()
needs_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="runs on TensorFlow only")

BOXES = np.array(
    [
        (0, 0, 10, 10),
        (1, 1, 11, 11),
        (0, 0, 10, 5),
        (20, 20, 30, 30),
        (21, 21, 31, 31),
        (0, 0, 5, 10),
    ],
    "float32",
)
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.95, 0.5], "float32")
NAN, INF = np.nan, np.inf
WITHOUT_AREA = [
    (5, 5, 5, 5),
    (5, 5, 5, 5),
    (0, 0, 10, 10),
    (10, 0, 0, 10),
    (10, 10, 0, 0),
    (10, 10, 0, 0),
    (NAN, 0, 10, 10),
    (0, 0, 10, NAN),
    (-INF, -INF, INF, INF),
    (0, 0, INF, 10),
    (0, 0, 1e30, 1e30),
    (0, 0, 1e30, 1e30),
    (0, 0, 10, 9),
]
APART = np.arange(600)[:, None] * 20 + np.array([[0, 0, 10, 10]])


def case(boxes, scores, kept, **arguments):
    """The indices kept, as many as there are unless `max_output_size` says how many."""
    boxes, scores = np.reshape(boxes, (-1, 4)).astype("float32"), np.array(scores, "float32")
    arguments = {"iou_threshold": 0.5, "max_output_size": None, **arguments}
    return Case({"boxes": boxes, "scores": scores}, np.array(kept, "int32"), arguments)


def worked_cases():
    for threshold, kept in [
        (0.3, [4, 0]),
        (0.5, [4, 0, 2, 5]),
        (0.6, [4, 0, 2, 5]),
        (0.7, [4, 0, 1, 2, 3, 5]),
    ]:
        yield f"IoU {threshold}", case(BOXES, SCORES, kept, iou_threshold=threshold)
    two = [(0, 0, 2, 1), (0, 0, 1, 1)], [1, 0.5]
    yield "at the threshold", case(*two, [0, 1])
    yield "above the threshold", case(*two, [0], iou_threshold=0.49)
    # float32(3 / 10) > 0.3: torchvision suppresses, a threshold rounded to nearest would not.
    two = [(0, 0, 10, 1), (0, 0, 3, 1)], [1, 0.5]
    yield "compared in double", case(*two, [0], iou_threshold=0.3)
    nearest = float(np.float32(0.3))
    yield "compared in double with float32", case(*two, [0, 1], iou_threshold=nearest)
    yield "ties", case(APART, np.full(600, 0.5), range(600))
    yield "ties of one box", case(BOXES[[0, 0, 0]], [0.5, 0.5, 0.5], [0])
    yield "zeros tie", case(BOXES[[0, 0]], [-0.0, 0.0], [0])
    boxes = BOXES[[0, 3, 0]] + np.array([[0.0], [0.0], [100.0]])
    yield "negative scores", case(boxes, [-2, 3, -1], [1, 2, 0])
    scores = [NAN, 0.8, -INF, INF, 0.1, NAN]
    yield "NaN and -inf are never kept", case(BOXES, scores, [3, 1, 4], iou_threshold=1.0)
    yield "nothing but NaN", case(BOXES, [NAN] * 6, [])
    scores = [0.6, 0.7, 0.6, 0.8, 0.1, 0.6]
    strict = {"iou_threshold": 1.0, "score_threshold": 0.6}
    yield "a strict score threshold", case(BOXES, scores, [3, 1], **strict)
    strict["score_threshold"] = 0.9
    yield "nothing above it", case(BOXES, scores, [], **strict)
    # Boxes without an area suppress nothing, and nothing them.
    scores = np.linspace(1, 0.1, len(WITHOUT_AREA))
    yield "no area", case(WITHOUT_AREA, scores, range(12), iou_threshold=0.0)
    kept = [12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 1, 0]
    yield "no area, reversed", case(WITHOUT_AREA, scores[::-1], kept, iou_threshold=0.0)
    three = {"iou_threshold": 0.7, "max_output_size": 3}
    yield "cut", case(BOXES, SCORES, [4, 0, 1], **three)
    yield "padded", case(BOXES[:2], SCORES[:2], [0, 1, -1], **three)
    yield "padded from nothing", case([], [], [-1, -1, -1], **three)
    yield "nothing", case([], [], [], iou_threshold=0.7)


def kernels(inputs, arguments, output_gradients):
    size = arguments["max_output_size"]
    attributes = {
        "iou_threshold": float32_threshold(arguments["iou_threshold"]),
        "max_output_size": -1 if size is None else size,
    }
    calls = [KernelCall("nms", {**inputs, **attributes}, {0: "indices"} if size else {})]
    for seed in range(300 if size else 0):
        boxes, scores, threshold = nms_cases.nms_case(seed)
        golden = {"boxes": boxes, "scores": scores, "iou_threshold": threshold}
        calls.append(KernelCall("nms", golden))
    return calls


WRONG_SHAPES = (
    Invalid({"boxes": np.zeros((3, 5), "f")}, "`boxes` must have shape"),
    Invalid({"boxes": np.zeros((1, 3, 4), "f")}, "`boxes` must have shape"),
    Invalid({"scores": np.zeros((3, 1), "f")}, "`scores` must have shape"),
    Invalid(
        {"scores": np.zeros(4, "f")},
        "`boxes` and `scores` must have the same|`scores` .* where num_boxes is 3",
    ),
)
FUZZED = {
    "iou_threshold": (0.0, 0.3, 1 / 3, 1.0, 1e-50, -0.1, 1.5, NAN),
    "score_threshold": (0.5, -INF, INF, -1.0),
}
RAW = RawOp(
    name="nms",
    op="kvision_nms",
    inputs={
        "boxes": Input("num_boxes 4", draws.boxes(), "float32"),
        "scores": Input("num_boxes", draws.uniform(), "float32"),
    },
    outputs={"indices": Output("num_boxes", "int32"), "count": Output("", "int32")},
    arguments={"iou_threshold": 0.5, "score_threshold": -INF},
    dtypes=("float32",),
    variants={
        "all": Variant(),
        "padded": Variant({"max_output_size": 5}, outputs={"indices": "max_output_size"}),
    },
    invalid=(
        *WRONG_SHAPES,
        Invalid({"boxes": np.zeros(4, "f")}, "`boxes` must have shape"),
        Invalid({"iou_threshold": 1.5}, "`iou_threshold` must be in"),
        Invalid({"iou_threshold": NAN}, "`iou_threshold` must be in"),
        Invalid({"max_output_size": 0}, "`max_output_size` must be positive"),
    ),
    fuzzed_arguments={**FUZZED, "score_threshold": (0.5, -INF, INF, NAN)},
)


class TestNMS(OpTests):
    contract = OpContract(
        name="nms",
        function=nms,
        inputs={
            "boxes": Input("num_boxes 4", draws.boxes()),
            "scores": Input("num_boxes", draws.distinct()),
        },
        outputs={"indices": Output("max_output_size", "int32")},
        arguments={"iou_threshold": 0.5, "max_output_size": 5},
        sizes={"num_boxes": 9},
        variants={
            "padded": Variant(),
            "of data": Variant({"max_output_size": None}, symbolic=False),
        },
        cases=dict(worked_cases()),
        invalid=(
            *WRONG_SHAPES,
            Invalid({"boxes": np.zeros((2, 5))}, r"`boxes` .* Received: \(2, 5\)"),
            Invalid({"iou_threshold": -0.1}, r"`iou_threshold` must be in \[0, 1\]"),
            Invalid({"iou_threshold": NAN}, r"`iou_threshold` must be in \[0, 1\]"),
            Invalid({"score_threshold": NAN}, "`score_threshold`"),
            Invalid({"max_output_size": 0}, "`max_output_size` must be"),
            Invalid({"max_output_size": 2.5}, "`max_output_size` must be"),
            Invalid({"boxes": BOXES.astype(int)}, "`boxes` must be floating", TypeError, False),
            Invalid({"scores": SCORES.astype(int)}, "`scores` must be floating", TypeError, False),
        ),
        raw=(RAW,),
        kernels=kernels,
        kernel_sizes={"num_boxes": 700},
        computes_in="float32",
        fuzzed_arguments={
            **FUZZED,
            "score_threshold": (None, 0.5, -INF, INF, NAN),
            "max_output_size": (1, 7, None, 0, -1, 2.5, True, 2**31),
        },
        fuzzed_sizes={"num_boxes": 12},
    )


def run(boxes, scores, **arguments):
    indices = nms(np.asarray(boxes, "float32"), np.asarray(scores, "float32"), **arguments)
    assert keras.backend.standardize_dtype(indices.dtype) == "int32"
    return ops.convert_to_numpy(indices).tolist()


def greedy(boxes, scores, iou_threshold):
    """The rule once more, one pair at a time: float32 IoUs, compared in double."""
    zero = np.float32(0)
    kept = []
    with np.errstate(all="ignore"):
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        for j in np.argsort(-scores, kind="stable"):
            for i in kept:
                width = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
                height = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
                inter = max(zero, width) * max(zero, height)
                if float(inter / (areas[i] + areas[j] - inter)) > iou_threshold:
                    break
            else:
                kept.append(int(j))
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.5, 0.7, 1 / 3, 1.0, 1e-50])
def test_float32_threshold_is_the_nearest_below(threshold):
    rounded = np.float32(float32_threshold(threshold))
    assert float(rounded) <= threshold < float(np.nextafter(rounded, np.float32(2)))


def _compiled(iou_threshold):
    """`nms` as its users compile it; one compilation serves many cases."""

    def function(boxes, scores):
        return nms(boxes, scores, iou_threshold=iou_threshold, max_output_size=max(nms_cases.SIZES))

    if BACKEND == "tensorflow":
        import tensorflow as tf

        signature = [tf.TensorSpec((None, 4)), tf.TensorSpec((None,))]
        return tf.function(function, signature, autograph=False)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


def test_indices_are_torchvisions(implementation):
    golden = np.load(GOLDEN)
    splits = np.cumsum(golden["nms_lengths"])[:-1]
    compiled, different = {}, []
    for seed, expected in enumerate(np.split(golden["nms_values"], splits)):
        boxes, scores, iou_threshold = nms_cases.nms_case(seed)
        if BACKEND != "tensorflow" and (seed % 5 or len(boxes) != max(nms_cases.SIZES)):
            continue  # a compilation each
        if iou_threshold not in compiled:
            compiled[iou_threshold] = _compiled(iou_threshold)
        found = ops.convert_to_numpy(compiled[iou_threshold](boxes, scores))
        if found[found >= 0].tolist() != expected.tolist():
            different.append(seed)
    assert seed + 1 == nms_cases.NUM_CASES
    assert not different


def test_more_boxes_than_a_tile(implementation):
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 60, (700, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 40, (700, 2))], 1).astype("float32")
    scores = (rng.integers(0, 50, 700) / 50).astype("float32")
    expected = greedy(boxes, scores, 1 / 3)
    assert 600 > len(expected) > 256
    assert run(boxes, scores, iou_threshold=1 / 3) == expected


def test_lists_are_accepted(implementation):
    assert run(BOXES.astype("int").tolist(), SCORES.tolist(), iou_threshold=0.5) == [4, 0, 2, 5]
    indices = nms(BOXES.astype("int").tolist(), SCORES.tolist(), iou_threshold=0.5)
    assert ops.convert_to_numpy(indices).tolist() == [4, 0, 2, 5]


def test_keras_tensors_need_a_size():
    with pytest.raises(ValueError, match="nms: `max_output_size` is required"):
        nms(keras.Input(batch_shape=(None, 4)), keras.Input(batch_shape=(None,)), iou_threshold=0.5)


def test_operation_keeps_its_arguments():
    config = {"iou_threshold": 0.4, "score_threshold": 0.2, "max_output_size": 7, "name": "n"}
    assert NMSOperation.from_config(NMSOperation(**config).get_config()).get_config() == config


@needs_tensorflow
def test_the_reference_compiles_with_xla():
    import tensorflow as tf

    def function(boxes, scores):
        with native.implementation("reference"):
            return nms(boxes, scores, iou_threshold=0.5, max_output_size=4)

    compiled = tf.function(function, jit_compile=True, autograph=False)
    assert compiled(BOXES, SCORES).numpy().tolist() == [4, 0, 2, 5]
    assert compiled(BOXES[:0], SCORES[:0]).numpy().tolist() == [-1] * 4


def _xla(function):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True, autograph=False)
    jax = pytest.importorskip("jax")
    return jax.jit(function)


needs_compiler = pytest.mark.skipif(BACKEND not in ("tensorflow", "jax"), reason="XLA is theirs")


@needs_compiler
@pytest.mark.parametrize("iou_threshold", [0.25, 0.3, 1 / 3, 0.5])
def test_a_compiler_does_not_fuse_products_with_sums(iou_threshold):
    """Tenths round in float32; XLA would fuse the plain formula and decide otherwise."""
    rng = np.random.default_rng(0)
    corner, extent = rng.integers(0, 30, (512, 2)), rng.integers(1, 20, (512, 2))
    boxes = np.concatenate([corner, corner + extent], 1).astype("float32") * np.float32(0.1)
    threshold = float32_threshold(iou_threshold)
    found = _xla(lambda boxes: suppression._overlaps(boxes, boxes, threshold))(boxes)

    first, second = boxes[:, None], boxes[None]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(
        first[..., :2], second[..., :2]
    )
    inter = np.prod(np.maximum(sides, 0), axis=-1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
    iou = inter / (areas[:, None] + areas[None] - inter)
    assert iou.dtype == "float32"
    np.testing.assert_array_equal(
        ops.convert_to_numpy(found), iou.astype("float64") > iou_threshold
    )


@needs_compiler
def test_a_compiler_requires_max_output_size():
    with pytest.raises(ValueError, match="nms: `max_output_size` is required"):
        _xla(lambda b, s: nms(b, s, iou_threshold=0.5))(BOXES, SCORES)


@needs_tensorflow
def test_the_raw_op_pads_to_the_number_of_boxes():
    with running("native"):
        found = RAW.call({"boxes": BOXES, "scores": SCORES}, RAW.arguments)
    assert found["indices"].numpy().tolist() == [4, 0, 2, 5, -1, -1]
    assert found["count"].numpy() == 4
