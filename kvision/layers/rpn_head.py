"""Head of the region proposal network."""

import functools

import keras
import numpy as np
from keras import ops

from kvision.boxes import gather_rows


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

    def outputs_at(self, pyramid, indices):
        """Outputs of chosen anchors alone: what `call` gives of them.

        Losses look at a few hundred of the many thousand anchors. Of these alone the gradient
        costs next to nothing; that of the whole maps is mostly a convolution of zeros.

        Args:
            pyramid: As for `call`, with static heights and widths.
            indices: Int32 tensor `(B, S)`, indices of anchors among the A.

        Returns:
            `(logits (B, S), deltas (B, S, 4))`, float32.
        """
        batch, size = ops.shape(indices)
        positions = ops.reshape(indices // self.num_anchors, (batch * size,))
        table = _neighbours(tuple(tuple(maps.shape[1:3]) for maps in pyramid.values()))
        neighbours = ops.take(ops.convert_to_tensor(table), positions, axis=0)
        rows = ops.concatenate([_rows(maps) for maps in pyramid.values()], axis=1)
        channels = rows.shape[2]
        patches = gather_rows(rows, ops.reshape(ops.maximum(neighbours, 0), (batch, size * 9)))
        patches = ops.reshape(patches, (batch * size, 9, channels))
        patches = ops.where(neighbours[..., None] >= 0, patches, 0.0)
        patches = ops.reshape(patches, (batch * size, 9 * channels))

        hidden = ops.relu(_product(patches, self.conv, self.compute_dtype))
        anchors = ops.reshape(indices % self.num_anchors, (batch * size, 1))
        logits = _product(hidden, self.objectness, "float32")
        deltas = _product(hidden, self.offsets, "float32")
        deltas = ops.reshape(deltas, (batch * size, self.num_anchors, 4))
        return (
            ops.reshape(gather_rows(logits, anchors), (batch, size)),
            ops.reshape(gather_rows(deltas, anchors), (batch, size, 4)),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "num_anchors": self.num_anchors,
            "filters": self.filters,
        }


def _rows(maps):
    """A map `(B, H, W, C)` as `(B, H * W, C)`."""
    batch, height, width, channels = ops.shape(maps)
    return ops.reshape(maps, (batch, height * width, channels))


@functools.lru_cache(maxsize=32)
def _neighbours(sizes):
    """The rows of the 3x3 neighbours of each position of all maps, -1 outside of the map."""
    tables, start = [], 0
    for height, width in sizes:
        rows = np.arange(start, start + height * width, dtype="int32").reshape(height, width)
        bordered = np.pad(rows, 1, constant_values=-1)
        windows = np.lib.stride_tricks.sliding_window_view(bordered, (3, 3))
        tables.append(windows.reshape(-1, 9))
        start += rows.size
    return np.concatenate(tables)


def _product(rows, conv, dtype):
    """A convolution whose windows are rows."""
    kernel = ops.reshape(ops.cast(conv.kernel, dtype), (rows.shape[1], conv.filters))
    return ops.matmul(ops.cast(rows, dtype), kernel) + ops.cast(conv.bias, dtype)
