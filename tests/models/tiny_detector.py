"""A detector whose losses and detections are known in closed form."""

import keras
import numpy as np
from keras import ops

from kvision.models.detection.detector import Detector

SIDE = 32


@keras.saving.register_keras_serializable("kvision_tests")
class TinyDetector(Detector):
    """Reads a box off the first pixels of an image, moved by the one weight that counts.

    Two convolutions add nothing, but run as a backbone does.
    """

    loss_names = ("offset_loss", "size_loss")

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.offset = self.add_weight(shape=(), initializer="zeros", name="offset")
        self.convolutions = keras.Sequential(
            [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.Conv2D(4, 1)]
        )
        self.convolutions.build((None, SIDE, SIDE, 3))
        self.calls = []  # one entry a trace or an eager call
        self.built = True

    def call(self, images, training=None):
        self.calls.append("training" if training else "inference")
        nothing = 0.0 * ops.mean(self.convolutions(images), axis=(1, 2))
        return {"boxes": images[:, 0, :4, 0] + self.offset + nothing}

    def compute_losses(self, images, targets, raw, training):
        error = raw["boxes"] - targets["boxes"][:, 0]
        return {"offset_loss": ops.mean(error**2), "size_loss": ops.mean(targets["boxes"][:, 0, 2])}

    def decode(self, raw):
        boxes = raw["boxes"][:, None]
        return {
            "boxes": boxes,
            "scores": ops.ones_like(boxes[..., 0]) * 0.5,
            "labels": ops.zeros_like(boxes[..., 0], dtype="int32"),
            "num_detections": ops.ones_like(boxes[:, 0, 0], dtype="int32"),
        }


def scenes(num_images, *, wrong=()):
    """Images that hold their own box in their first pixels; the box of a `wrong` one is far off."""
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 8, (num_images, 2))
    size = rng.integers(8, 20, (num_images, 2))
    boxes = np.concatenate([corner, corner + size], axis=1).astype("float32")
    images = np.zeros((num_images, SIDE, SIDE, 3), "float32")
    images[:, 0, :4, 0] = boxes
    images[list(wrong), 0, :4, 0] += 200
    padded = np.zeros((num_images, 3, 4), "float32")
    padded[:, 0] = boxes
    labels = np.tile(np.array([0, -1, -1], "int32"), (num_images, 1))
    return images, {"boxes": padded, "labels": labels, "image_id": np.arange(num_images)}
