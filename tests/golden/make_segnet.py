"""Golden logits of SegNet and SegNet-Basic, built of PyTorch's functions, with odd sizes of images.

Run in an environment with torch: `python tests/golden/make_segnet.py`. Weights have the names and
the layout of kvision's, images are channels last.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

SIZE = (45, 37)
NUM_CLASSES = 5
DEPTHS, WIDTHS = (1, 2, 3), (6, 8, 10)
FILTERS, STAGES, KERNEL = 7, 3, 5
MEAN, STDDEV = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Weights:
    """Draws weights when they are first wanted, and keeps them by their names."""

    def __init__(self, prefix):
        self.rng = np.random.default_rng(41)
        self.prefix = prefix
        self.arrays = {}

    def __call__(self, layer, name, shape, mean=0.0, deviation=0.1):
        array = self.rng.normal(mean, deviation, shape).astype("float32")
        self.arrays[f"{self.prefix}/{layer}/{name}"] = array
        return torch.tensor(array)


def conv(weights, x, filters, size, layer):
    shape = (size, size, x.shape[1], filters)
    kernel = weights(layer, "kernel", shape, 0.0, np.sqrt(2 / np.prod(shape[:3])))
    bias = weights(layer, "bias", (filters,))
    return functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=size // 2)


def conv_norm(weights, x, filters, size, layer, relu=True):
    x = conv(weights, x, filters, size, layer)
    norm = layer.replace("conv", "norm")
    gamma, beta = weights(norm, "gamma", (filters,), 1.0), weights(norm, "beta", (filters,))
    mean = weights(norm, "moving_mean", (filters,))
    variance = weights(norm, "moving_variance", (filters,), 1.0)
    x = functional.batch_norm(x, mean, variance, gamma, beta, eps=1e-5)
    return functional.relu(x) if relu else x


def pool(x):
    pooled, indices = functional.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
    return pooled, (indices, x.shape[2:])


def unpool(x, places):
    indices, size = places
    return functional.max_unpool2d(x, indices, 2, output_size=size)


def segnet(weights, images):
    mean, stddev = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (MEAN, STDDEV))
    x = (images - mean) / stddev
    places = []
    for stage, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True), start=1):
        for index in range(1, depth + 1):
            x = conv_norm(weights, x, width, 3, f"encoder{stage}_conv{index}")
        x, at = pool(x)
        places.append(at)
    x = unpool(x, places[2])
    x = conv_norm(weights, x, WIDTHS[2], 3, "decoder3_conv3")
    x = conv_norm(weights, x, WIDTHS[2], 3, "decoder3_conv2")
    x = conv_norm(weights, x, WIDTHS[1], 3, "decoder3_conv1")
    x = unpool(x, places[1])
    x = conv_norm(weights, x, WIDTHS[1], 3, "decoder2_conv2")
    x = conv_norm(weights, x, WIDTHS[0], 3, "decoder2_conv1")
    return conv(weights, unpool(x, places[0]), NUM_CLASSES, 3, "logits")


def segnet_basic(weights, images):
    x = functional.local_response_norm(images, 5, alpha=1e-4, beta=0.75, k=1.0)
    places = []
    for stage in range(1, STAGES + 1):
        x, at = pool(conv_norm(weights, x, FILTERS, KERNEL, f"encoder{stage}_conv"))
        places.append(at)
    for stage in range(STAGES, 0, -1):
        x = unpool(x, places[stage - 1])
        x = conv_norm(weights, x, FILTERS, KERNEL, f"decoder{stage}_conv", relu=False)
    return conv(weights, x, NUM_CLASSES, 1, "logits")


def main():
    images = np.random.default_rng(42).uniform(0, 255, (2, *SIZE, 3)).astype("float32")
    arrays = {"torch": torch.__version__, "images": images}
    for name, net in (("segnet", segnet), ("segnet_basic", segnet_basic)):
        weights = Weights(name)
        logits = net(weights, torch.tensor(images).permute(0, 3, 1, 2))
        arrays |= weights.arrays
        arrays[f"{name}/logits"] = logits.permute(0, 2, 3, 1).numpy()
    # 10, 20, ..., 80 in 8 channels.
    ramp = torch.arange(10.0, 81.0, 10.0).reshape(1, 8, 1, 1)
    for label, alpha, bias in (("caffe", 1e-4, 1.0), ("paper", 5e-4, 2.0)):
        normalized = functional.local_response_norm(ramp, 5, alpha, 0.75, bias)
        arrays[f"normalization/{label}"] = normalized.numpy().ravel()
    np.savez_compressed(Path(__file__).with_name("segnet.npz"), **arrays)


if __name__ == "__main__":
    main()
