"""One small training run of its own process, for the tests of interruption and of replicas.

Prints, as one JSON line, the history and where the optimizer and the sampling stand at the end.
"""

import argparse
import contextlib
import json
import os
import signal

import keras

from kvision.backbones import ResNetTiny
from kvision.data import digit_scenes, to_fit
from kvision.models.detection import FasterRCNN


class KillAt(keras.callbacks.Callback):
    """Ends the process as `kill -9` does, before a batch of an epoch."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at = (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def make_model():
    keras.utils.set_random_seed(1)
    model = FasterRCNN(
        ResNetTiny(normalization="group"),
        10,
        image_size=64,
        fpn_filters=16,
        anchor_sizes=(12, 16, 24, 32),
        rpn_pre_nms_top_n=64,
        rpn_pre_nms_top_n_train=64,
        rpn_post_nms_top_n=32,
        rpn_post_nms_top_n_train=32,
        box_head_units=32,
        anchors_per_image=32,
        rois_per_image=16,
    )
    schedule = keras.optimizers.schedules.ExponentialDecay(0.02, decay_steps=2, decay_rate=0.7)
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9))
    return model


def replicas(count):
    """The scope of a strategy on as many virtual CPUs; of none for one."""
    if count == 1:
        return contextlib.nullcontext()
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * count
    )
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(count)]).scope()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--backup")
    parser.add_argument("--kill-at", type=int, nargs=2)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--validate", action="store_true")
    arguments = parser.parse_args()

    with replicas(arguments.replicas):
        model = make_model()
    images, targets = to_fit(
        digit_scenes(8, image_size=(64, 64), num_digits=(1, 3), scale=(1, 2), masks=False)
    )
    callbacks = []
    if arguments.backup:
        callbacks.append(keras.callbacks.BackupAndRestore(arguments.backup))
    if arguments.kill_at:
        callbacks.append(KillAt(*arguments.kill_at))
    history = model.fit(
        images,
        targets,
        batch_size=4,
        epochs=2,
        shuffle=False,
        validation_data=(images, targets) if arguments.validate else None,
        validation_batch_size=3,
        callbacks=callbacks,
        verbose=0,
    )
    state = {
        "epochs": history.epoch,
        "history": history.history,
        "iterations": int(keras.ops.convert_to_numpy(model.optimizer.iterations)),
        "learning_rate": float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)),
        "sampling_step": int(keras.ops.convert_to_numpy(model.iteration)),
    }
    print(json.dumps(state))


if __name__ == "__main__":
    main()
