"""What a classifier says of labels that are no class."""

import keras
import numpy as np
import pytest

from kvision.backbones import VGG
from kvision.models.classification import ImageClassifier

IMAGES = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")


def classifier(**kwargs):
    model = ImageClassifier(VGG((1, 1, 1, 1, 1), widths=(2, 2, 2, 2, 2)), 3)
    model.compile("sgd", **kwargs)
    return model


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_labels_outside_the_classes(method, label):
    labels = np.array([0, 1, label, 2])
    for given in (labels, labels[:, None]):
        with pytest.raises(ValueError, match=rf"ImageClassifier: `labels` .* 0\.\.2.*\[{label}\]"):
            getattr(classifier(), method)(IMAGES, given)


def test_labels_of_validation_before_the_first_epoch():
    model = classifier()
    with pytest.raises(ValueError, match=r"ImageClassifier: `labels` .*\[5\]"):
        model.fit(IMAGES, np.zeros(4), validation_data=(IMAGES, np.full(4, 5)), verbose=0)
    assert int(model.optimizer.iterations) == 0


def test_other_losses_take_other_labels():
    one_hot = np.eye(3)[[0, 1, 2, 0]]
    model = classifier(loss=keras.losses.CategoricalCrossentropy(from_logits=True), metrics=[])
    model.fit(IMAGES, one_hot * 4 - 1, verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    model = classifier(loss=loss, metrics=[])
    assert np.isfinite(model.evaluate(IMAGES, np.array([0, -1, 1, 2]), verbose=0))
    with pytest.raises(ValueError, match="or -1 for images without truth"):
        model.evaluate(IMAGES, np.array([0, -1, 1, 3]), verbose=0)
