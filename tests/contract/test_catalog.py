"""What every model of the catalog has to do; a new entry is held to it without a new line here.

The default run takes one model a family, `make test-catalog` all. They are the catalog's narrow
models; of the published ones the parameters are counted, which needs no memory for them.
"""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import kvision
from kvision.models.catalog import CATALOG
from kvision.testing.vjp import vjp
from tests.contract.models_page import PAGE, rows
from tests.contract.small_models import create_small

_BATCH = 8
_STEPS = 40
_SMALLEST_GRADIENT = 1e-5  # of the largest


def _families():
    """All names, those but the first of a family marked."""
    seen = set()
    for name, entry in CATALOG.items():
        marks = [pytest.mark.catalog] if entry.family in seen else []
        seen.add(entry.family)
        yield pytest.param(name, marks=marks)


every_model = pytest.mark.parametrize("name", CATALOG)
one_of_a_family = pytest.mark.parametrize("name", list(_families()))
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a SavedModel is written by TensorFlow"
)


@pytest.fixture(autouse=True)
def _forget():
    """Lets go of a test's graphs: those of all models take 10 GB."""
    yield
    keras.utils.clear_session()


@functools.cache
def _scenes(image_size, task):
    digits = (1, 1) if task == "classification" else (2, 4)
    return kvision.data.digit_scenes(
        _BATCH,
        image_size=(image_size, image_size),
        num_digits=digits,
        background="plain",
        clutter=False,
        seed=5,
    )


def _batch(name):
    """Images and targets on which the model is trained."""
    entry = CATALOG[name]
    scenes = _scenes(entry.image_size, entry.task)
    return kvision.data.to_fit(scenes, task=entry.task)


def _images(height, width, number=1):
    return np.random.default_rng(0).uniform(0, 255, (number, height, width, 3)).astype("float32")


def _raw(model, images):
    return [np.asarray(ops.convert_to_numpy(x)) for x in keras.tree.flatten(model(images))]


def _decoded(model, images):
    decoded = model.decode(model(images))
    return {key: ops.convert_to_numpy(value) for key, value in decoded.items()}


def _assert_equal(received, expected):
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def _loss(model, images, targets):
    raw = model(images, training=False)
    loss = model.compute_loss(images, targets, raw, training=False)
    return float(ops.convert_to_numpy(loss))


@every_model
def test_the_published_parameters(name):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone
        model = kvision.create(name)
    trainable, others = CATALOG[name].parameters
    assert sum(np.prod(v.shape, dtype=int) for v in model.trainable_variables) == trainable
    # A dropout's seed is no parameter.
    rest = [v for v in model.non_trainable_variables if "seed_generator" not in v.path]
    assert sum(np.prod(v.shape, dtype=int) for v in rest) == others


@one_of_a_family
def test_it_learns_a_batch(name):
    images, targets = _batch(name)
    model = create_small(name)
    model.compile(CATALOG[name].optimizer())
    before = _loss(model, images, targets)
    model.fit(images, targets, batch_size=_BATCH, epochs=_STEPS, verbose=0)
    after = _loss(model, images, targets)
    assert after < before / 2


@one_of_a_family
def test_every_weight_gets_a_gradient(name):
    images, targets = _batch(name)
    model = create_small(name)
    gradients = _gradients(model, images, targets)
    largest = max(gradients.values())
    assert np.isfinite(largest)
    explained = CATALOG[name].no_gradient
    weak = {
        path: gradient / largest
        for path, gradient in gradients.items()
        if not gradient > _SMALLEST_GRADIENT * largest
    }
    assert {p for p in weak if not any(part in p for part in explained)} == set(), weak
    # What is excused is faint indeed, whatever the random weights are.
    faint = [
        path for path, gradient in gradients.items() if gradient < 10 * _SMALLEST_GRADIENT * largest
    ]
    assert all(any(part in path for path in faint) for part in explained)


def _gradients(model, images, targets):
    """Largest magnitude of each trainable variable's gradient, by its path."""
    variables = model.trainable_variables

    def loss(values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            raw = model(images, training=True)
            return model.compute_loss(images, targets, raw, training=True)

    model.compile()
    _, gradients = vjp(loss, [variable.value for variable in variables], np.float32(1.0))
    return {
        variable.path: 0.0 if gradient is None else float(np.abs(gradient).max())
        for variable, gradient in zip(variables, gradients, strict=True)
    }


@one_of_a_family
def test_it_is_saved_and_made_again(name, tmp_path):
    images, _ = _batch(name)
    model = create_small(name)
    expected = _raw(model, images)
    model.save(tmp_path / "model.keras")
    _assert_equal(_raw(keras.saving.load_model(tmp_path / "model.keras"), images), expected)
    again = type(model).from_config(model.get_config())
    again.set_weights(model.get_weights())
    _assert_equal(_raw(again, images), expected)


@on_tensorflow
@one_of_a_family
@pytest.mark.parametrize("form", ["native", "portable"])
def test_it_is_exported(name, form, tmp_path):
    entry = CATALOG[name]
    model = create_small(name, image_size=entry.image_size)
    report = model.export(tmp_path / "model", ops=form, verbose=False)
    assert report.compared > 0


@one_of_a_family
def test_mixed_precision(name):
    images, targets = _batch(name)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = create_small(name)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.compute_dtype == "bfloat16"
    for key, value in model.decode(model(images)).items():
        assert keras.backend.standardize_dtype(value.dtype) in ("float32", "int32"), key
    model.compile(CATALOG[name].optimizer())
    history = model.fit(images, targets, batch_size=_BATCH, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all(v.dtype in ("float32", "int32", "uint32") for v in model.variables)


@one_of_a_family
def test_it_trains_under_xla(name):
    reason = CATALOG[name].no_jit
    if reason is not None:
        pytest.skip(reason)
    if keras.backend.backend() == "torch":
        pytest.skip("Keras compiles no training step on PyTorch by XLA")
    images, targets = _batch(name)
    model = create_small(name)
    model.compile(CATALOG[name].optimizer(), jit_compile=True)
    losses = model.fit(images, targets, batch_size=_BATCH, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@one_of_a_family
def test_sizes(name):
    model = create_small(name)
    side = CATALOG[name].image_size
    smallest = model.smallest_image
    for height, width in [(side, side), (side + 5, side + 13), (smallest, smallest)]:
        decoded = _decoded(model, _images(height, width))
        assert all(np.isfinite(value).all() for value in decoded.values())
        if CATALOG[name].task == "segmentation":
            assert decoded["labels"].shape == (1, *model.output_size((height, width)))


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the graphs of others know their sizes"
)
@pytest.mark.parametrize("name", kvision.list_models("segmentation"))
def test_it_trains_on_sizes_that_the_graph_does_not_know(name):
    import tensorflow as tf

    batches = [
        (_images(height, width, 2), np.zeros((2, height, width), "int32"))
        for height, width in [(48, 64), (37, 41)]
    ]
    signature = (
        tf.TensorSpec((None, None, None, 3), "float32"),
        tf.TensorSpec((None, None, None), "int32"),
    )
    data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
    data = data.apply(tf.data.experimental.assert_cardinality(len(batches)))
    model = create_small(name)
    model.compile(CATALOG[name].optimizer())
    assert np.isfinite(model.fit(data, shuffle=False, verbose=0).history["loss"]).all()
    call = tf.function(lambda images: model(images, training=False), input_signature=signature[:1])
    for images, _ in batches:
        _assert_equal([call(images)], _raw(model, images))


@one_of_a_family
def test_an_image_that_is_too_small(name):
    model = create_small(name)
    smallest = model.smallest_image
    with pytest.raises(ValueError, match=f"at least {smallest} pixels.*Received: .*{smallest - 1}"):
        model(_images(smallest - 1, smallest))
    with pytest.raises(ValueError, match=r"shape \(batch, height, width, 3\).*Received"):
        model(_images(smallest, smallest)[..., :2])


def test_names():
    assert kvision.list_models() == list(CATALOG)
    assert kvision.list_models("segmentation") == [
        name for name, entry in CATALOG.items() if entry.task == "segmentation"
    ]
    with pytest.raises(ValueError, match=r"`task` must be one of .*Received: 'captioning'"):
        kvision.list_models("captioning")
    with pytest.raises(ValueError, match=r"`name` must be one of .*Received: 'resnet51'"):
        kvision.create("resnet51")


@pytest.mark.parametrize("name", ["resnet18", "deeplab_v3", "deeplab_v3plus"])
def test_a_backbone_that_is_no_pyramid(name):
    with pytest.raises(ValueError, match="`backbone` must have `feature_specs`.*from_keras"):
        create_small(name, backbone=keras.Sequential([keras.Input((32, 32, 3))]))


def test_overrides():
    model = kvision.create("mobilenet_v2", num_classes=3, class_names=["a", "b", "c"])
    assert model.name == "mobilenet_v2"
    assert model.num_classes == 3
    assert model.dropout == 0.2


def test_what_is_published_by_class_is_not_of_other_classes():
    model = kvision.create("deep_watershed", num_classes=1, widths=(4, 4, 4, 4, 4))
    assert (model.gate, model.target_min_area) == ("external", 100)
    assert (model.cut, model.grow, model.min_area, model.semantic_codes) == (1, 1, 20, None)
    model = kvision.create("deep_watershed", num_classes=2, cut=(0, 1), widths=(4, 4, 4, 4, 4))
    assert model.cut == (0, 1)


def test_another_backbone_is_made_instead_of_the_published_one(monkeypatch):
    made = []
    init = keras.Model.__init__

    def noted(self, *args, **kwargs):
        made.append(type(self).__name__)
        init(self, *args, **kwargs)

    backbone = CATALOG["faster_rcnn_fpn"].small()["backbone"]
    monkeypatch.setattr(keras.Model, "__init__", noted)
    model = kvision.create("vgg16", backbone=backbone, hidden_units=(), num_classes=2)
    assert model.backbone is backbone
    assert made == ["ImageClassifier"]


def test_the_page_of_the_models():
    page = PAGE.read_text()
    for lines in rows().values():
        for line in lines:
            assert line.removesuffix(" |") in page, "python -m tests.contract.models_page"
    assert "✗" not in page
