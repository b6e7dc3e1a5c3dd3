import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kvision.ops import native, nms, suppression
from kvision.ops.nms import NMSOperation
from kvision.ops.suppression import float32_threshold
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


@pytest.mark.parametrize(
    ("iou_threshold", "expected"),
    [(0.3, [4, 0]), (0.5, [4, 0, 2, 5]), (0.6, [4, 0, 2, 5]), (0.7, [4, 0, 1, 2, 3, 5])],
)
def test_worked_example(implementation, iou_threshold, expected):
    assert run(BOXES, SCORES, iou_threshold=iou_threshold) == expected


def test_an_iou_at_the_threshold_is_kept(implementation):
    boxes = [(0, 0, 2, 1), (0, 0, 1, 1)]
    assert run(boxes, [1, 0.5], iou_threshold=0.5) == [0, 1]
    assert run(boxes, [1, 0.5], iou_threshold=0.49) == [0]


def test_thresholds_are_compared_in_double(implementation):
    # float32(3 / 10) > 0.3: torchvision suppresses, a threshold rounded to nearest would not.
    boxes = [(0, 0, 10, 1), (0, 0, 3, 1)]
    assert run(boxes, [1, 0.5], iou_threshold=0.3) == [0]
    assert run(boxes, [1, 0.5], iou_threshold=float(np.float32(0.3))) == [0, 1]


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


def test_equal_scores_keep_the_lower_index(implementation):
    boxes = np.zeros((600, 4), "float32") + np.arange(600)[:, None] * 20
    boxes[:, 2:] += 10
    assert run(boxes, np.full(600, 0.5), iou_threshold=0.5) == list(range(600))
    assert run(BOXES[[0, 0, 0]], [0.5, 0.5, 0.5], iou_threshold=0.5) == [0]
    assert run(BOXES[[0, 0]], [-0.0, 0.0], iou_threshold=0.5) == [0]


def test_negative_scores_are_ordered(implementation):
    boxes = BOXES[[0, 3, 0]] + np.array([[0.0], [0.0], [100.0]], "float32")
    assert run(boxes, [-2, 3, -1], iou_threshold=0.5) == [1, 2, 0]


def test_nan_and_minus_infinity_are_never_selected(implementation):
    scores = [np.nan, 0.8, -np.inf, np.inf, 0.1, np.nan]
    assert run(BOXES, scores, iou_threshold=1.0) == [3, 1, 4]
    assert run(BOXES, [np.nan] * 6, iou_threshold=0.5) == []


def test_score_threshold_is_strict(implementation):
    scores = [0.6, 0.7, 0.6, 0.8, 0.1, 0.6]
    assert run(BOXES, scores, iou_threshold=1.0, score_threshold=0.6) == [3, 1]
    assert run(BOXES, scores, iou_threshold=1.0, score_threshold=0.9) == []


def test_boxes_without_an_area_suppress_nothing(implementation):
    nan, inf = np.nan, np.inf
    boxes = np.array(
        [
            (5, 5, 5, 5),
            (5, 5, 5, 5),
            (0, 0, 10, 10),
            (10, 0, 0, 10),
            (10, 10, 0, 0),
            (10, 10, 0, 0),
            (nan, 0, 10, 10),
            (0, 0, 10, nan),
            (-inf, -inf, inf, inf),
            (0, 0, inf, 10),
            (0, 0, 1e30, 1e30),
            (0, 0, 1e30, 1e30),
            (0, 0, 10, 9),
        ],
        "float32",
    )
    scores = np.linspace(1, 0.1, len(boxes), dtype="float32")
    assert run(boxes, scores, iou_threshold=0.0) == list(range(len(boxes) - 1))
    reverse = run(boxes, scores[::-1].copy(), iou_threshold=0.0)
    assert reverse == [12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 1, 0]


def test_max_output_size_cuts_and_pads(implementation):
    arguments = {"iou_threshold": 0.7, "max_output_size": 3}
    assert run(BOXES, SCORES, **arguments) == [4, 0, 1]
    assert run(BOXES[:2], SCORES[:2], **arguments) == [0, 1, -1]
    assert run(BOXES[:0], SCORES[:0], **arguments) == [-1, -1, -1]
    assert run(BOXES[:0], SCORES[:0], iou_threshold=0.7) == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floating_types_are_converted(implementation, dtype):
    if dtype == "bfloat16":
        boxes, scores = ops.cast(BOXES, dtype), ops.cast(SCORES, dtype)
    else:
        boxes, scores = BOXES.astype(dtype), SCORES.astype(dtype)
    indices = nms(boxes, scores, iou_threshold=0.5, max_output_size=6)
    assert ops.convert_to_numpy(indices).tolist() == [4, 0, 2, 5, -1, -1]


def test_lists_are_accepted(implementation):
    assert run(BOXES.astype("int").tolist(), SCORES.tolist(), iou_threshold=0.5) == [4, 0, 2, 5]
    indices = nms(BOXES.astype("int").tolist(), SCORES.tolist(), iou_threshold=0.5)
    assert ops.convert_to_numpy(indices).tolist() == [4, 0, 2, 5]


def test_keras_tensors_make_a_functional_model(implementation, tmp_path):
    boxes = keras.Input(batch_shape=(None, 4))
    scores = keras.Input(batch_shape=(None,))
    indices = nms(boxes, scores, iou_threshold=0.5, max_output_size=5)
    assert indices.shape == (5,)
    assert indices.dtype == "int32"
    model = keras.Model([boxes, scores], indices)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert ops.convert_to_numpy(loaded([BOXES, SCORES])).tolist() == [4, 0, 2, 5, -1]
    with pytest.raises(ValueError, match="nms: `max_output_size` is required"):
        nms(boxes, scores, iou_threshold=0.5)


def test_operation_keeps_its_arguments():
    config = {"iou_threshold": 0.4, "score_threshold": 0.2, "max_output_size": 7, "name": "n"}
    assert NMSOperation.from_config(NMSOperation(**config).get_config()).get_config() == config


@needs_tensorflow
def test_a_graph_takes_changing_sizes(implementation):
    import tensorflow as tf

    signature = [tf.TensorSpec((None, 4)), tf.TensorSpec((None,))]
    of_data = tf.function(lambda b, s: nms(b, s, iou_threshold=0.5), signature, autograph=False)
    padded = tf.function(
        lambda b, s: nms(b, s, iou_threshold=0.5, max_output_size=3), signature, autograph=False
    )
    assert of_data.get_concrete_function().output_shapes.as_list() == [None]
    assert padded.get_concrete_function().output_shapes.as_list() == [3]
    for size, expected in ((0, []), (1, [0]), (2, [0]), (6, [4, 0, 2, 5])):
        assert of_data(BOXES[:size], SCORES[:size]).numpy().tolist() == expected
        found = padded(BOXES[:size], SCORES[:size]).numpy().tolist()
        assert found == (expected + [-1] * 3)[:3]


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


@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        ((2, 5), (2,), r"nms: `boxes` must have shape \(num_boxes, 4\). Received: \(2, 5\)"),
        ((1, 2, 4), (2,), "nms: `boxes` must have shape"),
        ((2, 4), (2, 1), "nms: `scores` must have shape"),
        ((2, 4), (3,), "nms: `boxes` and `scores` must have the same number of boxes"),
    ],
)
def test_wrong_shapes_are_refused(boxes, scores, message):
    with pytest.raises(ValueError, match=message):
        nms(np.zeros(boxes, "float32"), np.zeros(scores, "float32"), iou_threshold=0.5)
    with pytest.raises(ValueError, match=message):
        nms(
            keras.KerasTensor(boxes),
            keras.KerasTensor(scores),
            iou_threshold=0.5,
            max_output_size=3,
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iou_threshold": -0.1}, r"nms: `iou_threshold` must be in \[0, 1\]"),
        ({"iou_threshold": float("nan")}, r"nms: `iou_threshold` must be in \[0, 1\]"),
        ({"iou_threshold": 0.5, "score_threshold": float("nan")}, "nms: `score_threshold`"),
        ({"iou_threshold": 0.5, "max_output_size": 0}, "nms: `max_output_size` must be"),
        ({"iou_threshold": 0.5, "max_output_size": 2.5}, "nms: `max_output_size` must be"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        nms(BOXES, SCORES, **arguments)


def test_integers_are_refused():
    with pytest.raises(TypeError, match="nms: `boxes` must be floating point"):
        nms(BOXES.astype("int32"), SCORES, iou_threshold=0.5)
    with pytest.raises(TypeError, match="nms: `scores` must be floating point"):
        nms(BOXES, SCORES.astype("int32"), iou_threshold=0.5)


class TestRawOp:
    """What a served graph meets, which never saw the Python."""

    pytestmark = needs_tensorflow

    @pytest.fixture
    def raw(self, implementation):
        if implementation != "native":
            pytest.skip("the raw op is the native one")

        def raw(boxes, scores, **attributes):
            attributes = {"iou_threshold": 0.5, "score_threshold": -np.inf, **attributes}
            return native.tf_ops().kvision_nms(boxes=boxes, scores=scores, **attributes)

        return raw

    def test_without_a_maximum_it_pads_to_the_number_of_boxes(self, raw):
        indices, count = raw(BOXES, SCORES)
        assert indices.numpy().tolist() == [4, 0, 2, 5, -1, -1]
        assert count.numpy() == 4

    @pytest.mark.parametrize(
        ("boxes", "scores", "message"),
        [
            ((2, 5), (2,), "nms: `boxes` must have shape"),
            ((4,), (1,), "nms: `boxes` must have shape"),
            ((2, 4), (2, 1), "nms: `scores` must have shape"),
            ((2, 4), (3,), "nms: `scores` must have shape .* where"),
        ],
    )
    def test_wrong_shapes_are_refused(self, raw, boxes, scores, message):
        import tensorflow as tf

        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            raw(tf.zeros(boxes), tf.zeros(scores))
        unknown = tf.function(
            raw, input_signature=[tf.TensorSpec(None), tf.TensorSpec(None)], autograph=False
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            unknown(tf.zeros(boxes), tf.zeros(scores))
        with pytest.raises(ValueError, match=message):
            tf.function(raw, autograph=False).get_concrete_function(
                tf.TensorSpec(boxes), tf.TensorSpec(scores)
            )

    @pytest.mark.parametrize(
        "attributes", [{"iou_threshold": 1.5}, {"iou_threshold": np.nan}, {"max_output_size": 0}]
    )
    def test_wrong_attributes_are_refused(self, raw, attributes):
        import tensorflow as tf

        with pytest.raises(tf.errors.InvalidArgumentError, match="nms: `"):
            raw(BOXES, SCORES, **attributes)

    def test_shapes_are_inferred_from_what_is_known(self, raw):
        import tensorflow as tf

        def shapes(boxes, scores, **attributes):
            function = tf.function(lambda b, s: raw(b, s, **attributes), autograph=False)
            concrete = function.get_concrete_function(tf.TensorSpec(boxes), tf.TensorSpec(scores))
            return [shape.as_list() for shape in concrete.output_shapes]

        assert shapes((7, 4), (None,)) == [[7], []]
        assert shapes((None, 4), (7,)) == [[7], []]
        assert shapes(None, None) == [[None], []]
        assert shapes(None, None, max_output_size=5) == [[5], []]


def test_instruction_sets_agree(implementation):
    """Each set runs in a process of its own, since the choice is made once."""
    if implementation != "native":
        pytest.skip("the reference has no instruction sets")
    from kvision import _C

    script = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('_C', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "from tests.golden import nms_cases\n"
        "for seed in range(300):\n"
        "    boxes, scores, threshold = nms_cases.nms_case(seed)\n"
        "    print(module.nms(boxes, scores, iou_threshold=threshold)[0].tolist())\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script, _C.__file__],
            env={**os.environ, "KVISION_ISA": isa},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for isa in ("baseline", "avx2", "avx512")
    }
    assert len(outputs) == 1
