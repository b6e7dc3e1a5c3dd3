"""How the pixels of an image become the numbers that a network was trained on."""

from keras import layers, ops

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STDDEV = (58.395, 57.12, 57.375)
_CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red

# Convention -> arguments of `Rescaling`.
CONVENTIONS = {
    "imagenet": {
        "scale": [1 / stddev for stddev in _IMAGENET_STDDEV],
        "offset": [
            -mean / stddev for mean, stddev in zip(_IMAGENET_MEAN, _IMAGENET_STDDEV, strict=True)
        ],
    },
    "caffe": {"scale": 1.0, "offset": [-mean for mean in _CAFFE_MEAN]},
    "inception": {"scale": 1 / 127.5, "offset": -1.0},
}


def normalize_pixels(images, convention):
    """Normalises images in float32 under every dtype policy.

    Args:
        images: `(B, H, W, 3)` RGB images, 0..255.
        convention: `"imagenet"`, by mean and standard deviation of each channel,
            (123.675, 116.28, 103.53) and (58.395, 57.12, 57.375), as in torchvision; `"caffe"`, the
            channels turned to BGR and the means (103.939, 116.779, 123.68) subtracted, as
            keras.applications' VGG and ResNet have it; `"inception"`, to -1..1.

    Returns:
        A tensor of the same shape, float32.
    """
    if convention == "caffe":
        images = ops.flip(images, axis=-1)
    return layers.Rescaling(**CONVENTIONS[convention], dtype="float32", name="pixel_normalization")(
        images
    )
