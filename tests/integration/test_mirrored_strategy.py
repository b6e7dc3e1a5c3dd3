"""Two replicas, each with half of every batch, are one."""

import keras
import pytest


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a strategy of TensorFlow")
def test_two_replicas_train_and_evaluate_like_one(train_digits, uninterrupted):
    """Validation in batches of 3 gives the replicas 2 images and 1."""
    mirrored = train_digits("--replicas", 2, "--validate")
    assert mirrored["history"].keys() == uninterrupted["history"].keys()
    assert {"loss", "val_loss", "val_AP50"} <= mirrored["history"].keys()
    for name, values in mirrored["history"].items():
        expected = pytest.approx(uninterrupted["history"][name], abs=1e-4, nan_ok=True)
        assert values == expected, name
    for name in ("iterations", "learning_rate", "sampling_step"):
        assert mirrored[name] == uninterrupted[name]
