"""TensorFlow Addons' side of the comparison. Overlaps cannot tell its yxyx from xyxy."""

import ctypes
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa
from serving import serve

# Its ops on images want CUDA's runtime even where there is no GPU; TensorFlow for CPUs brings none.
for library in Path(sys.prefix).glob(
    "lib/python*/site-packages/nvidia/cuda_runtime/lib/libcudart.so*"
):
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def giou_loss(mode):
    """Per pair the loss and its gradients with respect to both boxes, nine numbers."""
    loss_of = tfa.losses.GIoULoss(mode, reduction=tf.keras.losses.Reduction.NONE)

    def answer(boxes1, boxes2):
        predictions, targets = tf.constant(boxes1), tf.constant(boxes2)
        with tf.GradientTape() as tape:
            tape.watch((predictions, targets))
            loss = loss_of(targets, predictions)
        gradients = tape.gradient(loss, (predictions, targets))
        return np.concatenate([loss[:, None], *gradients], axis=1)

    return answer


def components(mask):
    return tfa.image.connected_components(mask).numpy()


def distances(instances):
    return tfa.image.euclidean_dist_transform(instances[..., None]).numpy()[..., 0]


if __name__ == "__main__":
    serve(
        {
            "tfa.losses.GIoULoss and gradients": giou_loss("giou"),
            "tfa.losses.GIoULoss(mode='iou') and gradients": giou_loss("iou"),
            "tfa.image.connected_components": components,
            "tfa.image.euclidean_dist_transform": distances,
        },
        modules=[tfa, tf],
    )
