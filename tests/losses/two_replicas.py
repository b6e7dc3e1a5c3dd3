"""Run by test_pixel_loss: pixel losses and metrics on two virtual CPUs and on one."""

import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from kvision.losses import PixelCrossEntropy  # noqa: E402
from kvision.metrics import BoundaryFScore, SegmentationMetrics  # noqa: E402

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(8, 6, 5, 3)).astype("float32")
# As many ignored pixels in every image, so that the mean over a batch is that over its halves.
LABELS = np.stack([RNG.permutation(np.repeat([0, 1, 2, 255], [9, 8, 7, 6])) for _ in range(8)])


def run(strategy):
    with strategy.scope():
        inputs = keras.Input((6, 5, 3))
        model = keras.Model(inputs, keras.layers.Dense(3, kernel_initializer="ones")(inputs))
        metrics = [
            SegmentationMetrics(3, ignore_class=255, per_class=True),
            BoundaryFScore(3, tolerance=1, ignore_class=255),
        ]
        loss = PixelCrossEntropy(ignore_class=255)
        model.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=metrics)
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS.reshape(8, 6, 5))).batch(4)
    history = model.fit(data, validation_data=data, verbose=0).history
    counts = metrics[0].confusion_matrix
    assert counts.sum() == np.sum(LABELS != 255)
    return history, counts, model.get_weights()


one = run(tf.distribute.get_strategy())
two = run(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
keras.tree.map_structure(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), one, two)
