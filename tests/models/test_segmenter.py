"""What every segmenter does with labels, weights and answers."""

import keras
import numpy as np
import pytest
from keras import ops

from kvision.losses import PixelCrossEntropy
from kvision.models.segmentation import Segmenter


class Pointwise(Segmenter):
    """A class for each pixel by its three colours; `margin` pixels are lost at each edge."""

    def __init__(self, margin=0, **kwargs):
        super().__init__(num_classes=3, **kwargs)
        self.margin = margin
        self.colors = keras.layers.Dense(3, kernel_initializer="identity", use_bias=False)
        self.colors.build((None, None, None, 3))

    def call(self, images, training=None):
        logits = self.colors(images) / 50
        end = -self.margin or None
        return logits[:, self.margin : end, self.margin : end]


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 255, (2, 6, 8, 3)).astype("float32")


@pytest.fixture
def labels():
    labels = np.random.default_rng(1).integers(0, 3, (2, 6, 8))
    labels[0, :2, :3] = 255
    return labels.astype("int32")


def pixel_losses(images, labels, weights):
    """Weighted cross-entropy a pixel, by hand; and which pixels count."""
    logits = images.astype("float64") / 50
    logits -= logits.max(-1, keepdims=True)
    log_odds = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    known = labels != 255
    picked = np.take_along_axis(log_odds, np.where(known, labels, 0)[..., None], -1)[..., 0]
    return -picked * weights * known, known


def trained_loss(model, *batch, **kwargs):
    model.compile(keras.optimizers.SGD(0.0))
    return model.fit(*batch, verbose=0, batch_size=2, **kwargs).history["loss"][0]


@pytest.mark.parametrize("last_axis", [False, True])
def test_the_loss_is_the_mean_over_pixels_with_truth(images, labels, last_axis):
    losses, known = pixel_losses(images, labels, 1.0)
    given = labels[..., None] if last_axis else labels
    loss = trained_loss(Pointwise(), images, given)
    np.testing.assert_allclose(loss, losses.sum() / known.sum(), rtol=1e-5)


def test_class_weights(images, labels):
    by_class = np.array([1.0, 5.0, 0.5])
    losses, known = pixel_losses(images, labels, by_class[np.where(labels == 255, 0, labels)])
    loss = trained_loss(Pointwise(), images, labels, class_weight={1: 5.0, 2: 0.5})
    np.testing.assert_allclose(loss, losses.sum() / known.sum(), rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 6, 8), (2, 6, 8, 1), (2,)])
def test_sample_weights(images, labels, shape):
    weights = np.random.default_rng(2).uniform(0, 2, shape).astype("float32")
    each = weights[:, None, None] if weights.ndim == 1 else weights.reshape(2, 6, 8)
    losses, known = pixel_losses(images, labels, each)
    loss = trained_loss(Pointwise(), images, labels, sample_weight=weights)
    np.testing.assert_allclose(loss, losses.sum() / known.sum(), rtol=1e-5)


@pytest.mark.parametrize("weighted", [None, "pixels", "images"])
@pytest.mark.parametrize("last_axis", [False, True])
def test_class_weights_of_one_batch(images, labels, last_axis, weighted):
    of_class = {1: 5.0, 2: 0.5}
    weights = np.array([1.0, 5.0, 0.5, 1.0])[np.minimum(labels, 3)]
    sample_weight = {
        None: None,
        "pixels": np.random.default_rng(2).uniform(0, 2, labels.shape),
        "images": np.array([0.5, 3.0]),
    }[weighted]
    if sample_weight is not None:
        by_pixel = sample_weight if weighted == "pixels" else sample_weight[:, None, None]
        weights = weights * by_pixel
    losses, known = pixel_losses(images, labels, weights)
    model = Pointwise()
    model.compile(keras.optimizers.SGD(0.0))
    given = labels[..., None] if last_axis else labels
    for _ in range(2):
        model.reset_metrics()
        logs = model.train_on_batch(
            images, given, sample_weight, class_weight=of_class, return_dict=True
        )
        np.testing.assert_allclose(logs["loss"], losses.sum() / known.sum(), rtol=1e-5)


def test_class_weights_of_a_batch_where_the_margin_has_no_logits(images, labels):
    losses, known = pixel_losses(images, labels, np.array([1.0, 5, 1, 1])[np.minimum(labels, 3)])
    model = Pointwise(margin=1)
    model.compile(keras.optimizers.SGD(0.0))
    logs = model.train_on_batch(images, labels, class_weight={1: 5.0}, return_dict=True)
    inside = (slice(None), slice(1, -1), slice(1, -1))
    expected = losses[inside].sum() / known[inside].sum()
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_labels_outside_the_classes(images, labels, method):
    model = Pointwise()
    model.compile("sgd")
    labels[0, 5, 5] = 3
    with pytest.raises(ValueError, match=r"Pointwise: `labels` must be in 0\.\.2.*\[3\]"):
        getattr(model, method)(images, labels)
    labels[0, 5, 5] = 0
    with pytest.raises(ValueError, match=r"Pointwise: `labels` must be in 0\.\.2.*\[7\]"):
        model.fit(images, labels, validation_data=(images, np.full_like(labels, 7)), verbose=0)


def test_class_weights_change_between_fits_and_do_not_count_in_evaluation(images, labels):
    model = Pointwise()
    plain = trained_loss(model, images, labels)
    weighted = trained_loss(model, images, labels, class_weight={0: 9.0})
    assert weighted > plain * 1.5
    evaluated = model.evaluate(images, labels, verbose=0, return_dict=True)
    np.testing.assert_allclose(evaluated["loss"], plain, rtol=1e-5)
    np.testing.assert_allclose(trained_loss(model, images, labels), plain, rtol=1e-5)


def test_class_weights_end_with_their_fit(images, labels):
    model = Pointwise()
    plain = trained_loss(model, images, labels)
    model.fit(images, labels, batch_size=2, verbose=0, class_weight={0: 9.0})
    np.testing.assert_allclose(model.train_on_batch(images, labels)[0], plain, rtol=1e-5)


def test_fits_without_class_weights_share_one_compiled_step(images, labels):
    model = Pointwise()
    trained_loss(model, images, labels)
    step = model.train_function
    model.fit(images, labels, batch_size=2, verbose=0)
    assert model.train_function is step


def test_labels_are_cropped_to_the_middle(images, labels):
    losses, known = pixel_losses(images, labels, 1.0)
    middle = slice(1, -1)
    expected = losses[:, middle, middle].sum() / known[:, middle, middle].sum()
    np.testing.assert_allclose(trained_loss(Pointwise(1), images, labels), expected, rtol=1e-5)


def test_metrics_stand_in_the_history(images, labels):
    model = Pointwise()
    model.compile()
    history = model.fit(images, labels, validation_data=(images, labels), verbose=0).history
    found = images.argmax(-1)
    known = labels != 255
    accuracy = (found == labels)[known].mean()
    np.testing.assert_allclose(history["val_pixel_accuracy"][0], accuracy, rtol=1e-5)
    assert 0 < history["val_mean_iou"][0] < 1


def test_predictions(images):
    model = Pointwise()
    predicted = model.predict(images, verbose=0)
    odds = np.exp(images.astype("float64") / 50)
    np.testing.assert_array_equal(predicted["labels"], images.argmax(-1))
    scores = odds.max(-1) / odds.sum(-1)
    np.testing.assert_allclose(predicted["scores"], scores, rtol=1e-5)
    assert predicted["labels"].dtype == "int32"
    assert predicted["scores"].dtype == "float32"


def test_other_losses_and_metrics(images, labels):
    model = Pointwise()
    loss = PixelCrossEntropy(class_weight=[0.0, 0.0, 1.0], ignore_class=255)
    model.compile(keras.optimizers.SGD(0.0), loss=loss, metrics=[])
    history = model.fit(images, labels, batch_size=2, verbose=0).history
    losses, known = pixel_losses(images, labels, 1.0 * (labels == 2))
    np.testing.assert_allclose(history["loss"][0], losses.sum() / known.sum(), rtol=1e-5)
    assert list(history) == ["loss"]


class TestRefusals:
    def test_labels_outside_the_classes(self, images, labels):
        model = Pointwise()
        model.compile()
        labels[1, 0, 0] = 3
        with pytest.raises(ValueError, match=r"in 0\.\.2.*or 255 for .*Received: \[3\]"):
            model.fit(images, labels, verbose=0)
        with pytest.raises(ValueError, match=r"in 0\.\.2, as `num_classes` is 3"):
            model.evaluate(images, labels, verbose=0)

    def test_labels_of_another_size(self, images, labels):
        model = Pointwise()
        model.compile()
        for method in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
            with pytest.raises(ValueError, match="labels must have the size of their images"):
                method(images, labels[:, :4])
        # What was refused leaves nothing behind, though TensorFlow had begun to trace the steps.
        assert model.fit(images, labels, verbose=0).history["loss"][0] > 0
        assert model.evaluate(images, labels, verbose=0, return_dict=True)["loss"] > 0

    def test_larger_labels_than_images(self, images, labels):
        model = Pointwise()
        model.compile()
        with pytest.raises(ValueError, match="labels must have the size of their images"):
            model.fit(images[:, :4], labels, verbose=0)

    def test_labels_that_are_one_hot(self, images):
        model = Pointwise()
        model.compile()
        one_hot = np.eye(3, dtype="int32")[images.argmax(-1)]
        with pytest.raises(ValueError, match=r"or \(B, H, W, 1\). Received: .* 3\) for"):
            model.fit(images, one_hot, verbose=0)

    @pytest.mark.parametrize("shape", [(2, 1), (2, 5, 8), (2, 6, 8, 3)])
    def test_weights_of_another_shape(self, images, labels, shape):
        model = Pointwise()
        model.compile()
        with pytest.raises(ValueError, match=r"`sample_weight` must have shape \(B, H, W\)"):
            model.fit(images, labels, sample_weight=np.ones(shape), verbose=0)

    def test_no_labels(self, images):
        model = Pointwise()
        model.compile()
        with pytest.raises(ValueError, match=r"labels \(B, H, W\) must come with the images"):
            model.fit(images, verbose=0)

    def test_a_batch_dictionary(self, images):
        model = Pointwise()
        model.compile()
        with pytest.raises(ValueError, match=r"images must be one array \(B, H, W, 3\).*to_fit"):
            model.fit({"images": images}, verbose=0)

    def test_arguments(self):
        with pytest.raises(ValueError, match="at least 2"):
            Segmenter(num_classes=1)
        with pytest.raises(ValueError, match=r"none of the classes 0\.\.2. Received: 2"):
            Segmenter(num_classes=3, ignore_class=2)
        model = Pointwise()
        model.compile()
        with pytest.raises(ValueError, match=r"of classes 0\.\.2. Received: \[7\]"):
            model.fit(np.zeros((1, 4, 4, 3)), np.zeros((1, 4, 4)), class_weight={7: 1.0})
        with pytest.raises(ValueError, match=r"dictionary \{class: weight\}, as .*enumerate"):
            model.fit(np.zeros((1, 4, 4, 3)), np.zeros((1, 4, 4)), class_weight=[1.0, 2.0, 3.0])

    def test_images_of_another_shape(self, images):
        with pytest.raises(ValueError, match=r"shape \(batch, height, width, 3\).*\(6, 8, 3\)"):
            Pointwise()(ops.convert_to_tensor(images[0]))
