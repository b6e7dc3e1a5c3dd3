"""Head of the region proposal network."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("kvision")
class RPNHead(keras.layers.Layer):
    """Scores and moves anchors: the head of Faster R-CNN's region proposal network.

    A 3x3 convolution with ReLU, then two 1x1 convolutions: one logit an anchor for "object", and
    four offsets (see `kvision.boxes.decode_boxes`). All levels share the weights, drawn from
    N(0, 0.01^2) (Ren, He, Girshick, Sun, 2015).

    Input: pyramid `{"P2": (B, H, W, C), ...}`, finest first.
    Output: `(logits (B, A), deltas (B, A, 4))`, float32 under every dtype policy, with the A
    anchors of all levels one after another, each in the order (y, x, anchor).

    Args:
        num_anchors: Anchors at each position, positive.
        filters: Channels of the 3x3 convolution, positive.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: For an argument out of its range.
    """

    def __init__(self, num_anchors, *, filters=256, **kwargs):
        super().__init__(**kwargs)
        if num_anchors < 1 or filters < 1:
            raise ValueError(
                "RPNHead: `num_anchors` and `filters` must be positive. "
                f"Received: num_anchors={num_anchors}, filters={filters}."
            )
        self.num_anchors = num_anchors
        self.filters = filters
        self.conv = self._conv(filters, 3, "conv", activation="relu", dtype=self.dtype_policy)
        self.objectness = self._conv(num_anchors, 1, "objectness", dtype="float32")
        self.offsets = self._conv(4 * num_anchors, 1, "offsets", dtype="float32")

    def _conv(self, filters, kernel_size, name, **kwargs):
        return keras.layers.Conv2D(
            filters,
            kernel_size,
            padding="same",
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            name=name,
            **kwargs,
        )

    def build(self, input_shape):
        channels = next(iter(input_shape.values()))[-1]
        self.conv.build((None, None, None, channels))
        self.objectness.build((None, None, None, self.filters))
        self.offsets.build((None, None, None, self.filters))
        self.built = True

    def call(self, pyramid):
        logits, deltas = [], []
        for features in pyramid.values():
            hidden = self.conv(features)
            batch, height, width, _ = ops.shape(hidden)
            count = height * width * self.num_anchors
            logits.append(ops.reshape(self.objectness(hidden), (batch, count)))
            deltas.append(ops.reshape(self.offsets(hidden), (batch, count, 4)))
        return ops.concatenate(logits, axis=1), ops.concatenate(deltas, axis=1)

    def get_config(self):
        return {
            **super().get_config(),
            "num_anchors": self.num_anchors,
            "filters": self.filters,
        }
