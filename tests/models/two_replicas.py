"""Run by test_detector: evaluation, prediction and training on two virtual CPUs and on one."""

import sys

import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from tiny_detector import TinyDetector, scenes  # noqa: E402

from kvision.metrics import COCODetectionMetrics  # noqa: E402


def run(strategy, num_images):
    images, targets = scenes(num_images, wrong=(0, 3))
    metrics = COCODetectionMetrics()
    with strategy.scope():
        model = TinyDetector(num_classes=1)
        model.compile("sgd", evaluator=metrics, steps_per_execution=4)
    model.offset.assign(0.5)
    data = tf.data.Dataset.from_tensor_slices((images, targets)).batch(2)
    result = model.evaluate(data, return_dict=True, verbose=0)
    found = model.predict(images, batch_size=4, verbose=0)
    # Keras 3.15 fails to train with several steps an execution on several replicas.
    with strategy.scope():
        model.compile(keras.optimizers.SGD(0.01), evaluator=metrics)
    even = data.take(num_images // 2)
    history = model.fit(even, epochs=2, validation_data=data, shuffle=False, verbose=0).history
    assert sorted(metrics.images) == list(range(num_images))
    return result, found, history, keras.ops.convert_to_numpy(model.offset.value)


one, two = (
    run(strategy, int(sys.argv[1]))
    for strategy in (
        tf.distribute.get_strategy(),
        tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
    )
)
keras.tree.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, two)
