"""The two networks of the deep watershed transform (Bai and Urtasun, CVPR 2017), layer by layer."""

import keras
import numpy as np
from keras import layers, ops

from kvision.layers import BatchNormalization, BilinearKernel


def direction_network(model):
    """Makes the network from pixels to directions: VGG-16, read at its stages 3, 4 and 5.

    Args:
        model: A `DeepWatershed`, whose arguments of the same names say how large it is.

    Returns:
        A `keras.Model` of `(B, H, W, C)`, whole cells of all strides, to `direction (B, H, W, 2)`
        of any length and, with a semantic head, its logits `semantic (B, H, W, K + 1)`.
    """
    parts = _Parts(model)
    x = images = keras.Input((None, None, model.image_channels), name="images")
    joined = []
    for stage, (depth, width) in enumerate(zip(model.depths, model.widths, strict=True), 1):
        for index in range(1, depth + 1):
            x = parts.conv(x, width, 3, f"conv{stage}_{index}")
        if stage >= 3:
            branch = parts.conv(x, width, 5, f"branch{stage}_1")
            branch = parts.conv(branch, width, 1, f"branch{stage}_2")
            branch = parts.conv(branch, model.branch_filters, 1, f"branch{stage}_3")
            factor = int(np.prod(model.strides[2 : stage - 1]))
            joined.append(parts.enlarge(branch, factor, f"branch{stage}_up"))
        if stage <= 4 and model.strides[stage - 1] > 1:
            # Averages where VGG has maxima, as published.
            pool = layers.MaxPooling2D if stage <= 2 else layers.AveragePooling2D
            x = pool(2, dtype=model.dtype_policy, name=f"pool{stage}")(x)
    joined = layers.Concatenate(dtype=model.dtype_policy, name="joined")(joined)

    factor = model.strides[0] * model.strides[1]
    x = parts.conv(joined, model.fuse_filters, 1, "fuse1")
    x = parts.conv(x, model.fuse_filters, 1, "fuse2")
    direction = parts.conv(x, 2, 1, "fuse3", relu=False)
    outputs = {"direction": parts.enlarge(direction, factor, "direction")}
    if model.gate == "head":
        x = parts.conv(joined, model.fuse_filters, 1, "semantic1")
        logits = parts.conv(x, model.num_classes + 1, 1, "semantic2", relu=False)
        outputs["semantic"] = parts.enlarge(logits, factor, "semantic")
    return keras.Model(images, outputs, name="direction_network")


def energy_network(model):
    """Makes the network from directions to energy.

    Args:
        model: A `DeepWatershed`, whose arguments of the same names say how large it is.

    Returns:
        A `keras.Model` of `(B, H, W, 2)`, whole cells of all strides, to the logits of the levels
        `(B, H, W, levels)`.
    """
    parts = _Parts(model)
    x = directions = keras.Input((None, None, 2), name="directions")
    blocks = zip(model.energy_widths, model.energy_strides, strict=True)
    for block, (widths, stride) in enumerate(blocks, 1):
        for index, width in enumerate(widths, 1):
            x = parts.conv(x, width, 5, f"energy{block}_{index}")
        if stride > 1:
            x = layers.AveragePooling2D(2, dtype=model.dtype_policy, name=f"pool{block}")(x)
    x = parts.conv(x, model.energy_filters, 1, "energy_fuse1")
    x = layers.Dropout(model.dropout, dtype=model.dtype_policy, name="drop1")(x)
    # There is a ReLU even here, before the softmax, as published.
    x = parts.conv(x, len(model.level_edges), 1, "energy_fuse2", normalized=False)
    x = layers.Dropout(model.dropout, dtype=model.dtype_policy, name="drop2")(x)
    x = parts.enlarge(x, int(np.prod(model.energy_strides)), "energy")
    return keras.Model(directions, x, name="energy_network")


class _Parts:
    """The layers that both networks are made of."""

    def __init__(self, model):
        self._normalization = model.normalization
        self._policy = model.dtype_policy

    def conv(self, x, filters, kernel_size, name, *, relu=True, normalized=True):
        normalized = normalized and relu and self._normalization == "batch"
        x = layers.Conv2D(
            filters,
            kernel_size,
            padding="same",
            use_bias=not normalized,
            kernel_initializer="he_normal",
            dtype=self._policy,
            name=name,
        )(x)
        if normalized:
            x = BatchNormalization(
                epsilon=1e-5, momentum=0.9, dtype=self._policy, name=f"{name}_norm"
            )(x)
        return layers.ReLU(dtype=self._policy, name=f"{name}_relu")(x) if relu else x

    def enlarge(self, x, factor, name):
        """A transposed convolution that begins as bilinear upsampling."""
        if factor == 1:
            return x
        return layers.Conv2DTranspose(
            x.shape[-1],
            2 * factor,
            strides=factor,
            padding="same",
            use_bias=False,
            kernel_initializer=BilinearKernel(),
            dtype=self._policy,
            name=name,
        )(x)


def on_whole_cells(network, maps, stride, training):
    """Runs a network on maps that are padded to whole cells, and crops what it gives.

    Args:
        network: A model of maps `(B, H, W, C)`.
        maps: Float tensor `(B, H, W, C)`, of any height and width.
        stride: Pixels of a cell.
        training: Passed on to the network.

    Returns:
        What the network returns, of the height and width of the maps.
    """
    height, width = ops.shape(maps)[1:3]
    borders = ((0, 0), (0, -height % stride), (0, -width % stride), (0, 0))
    outputs = network(ops.pad(maps, borders), training=training)
    return keras.tree.map_structure(lambda values: values[:, :height, :width], outputs)
