"""RoIAlign on the CPU, forward and with the gradient, against torchvision's and TensorFlow's form.

One map of 200 x 304 x 256 at stride 4, 1,000 boxes, 7 x 7 bins of 2 x 2 samples, float32.
TensorFlow has no RoIAlign; its form is `tf.image.crop_and_resize` to 14 x 14 and average pooling,
which gives the same numbers for boxes that do not pass the centre of the last cell. How it is
measured: `_versus.py`.

    python benchmarks/roi_align.py --peer PATH/TO/PYTHON/WITH/TORCHVISION
"""

import functools

import numpy as np
from _versus import Workload, main

HEIGHT, WIDTH, CHANNELS, STRIDE = 200, 304, 256, 4
BOXES, BINS, SAMPLES = 1000, 7, 2


@functools.cache
def case():
    """Features, boxes of sides 16 to 256 pixels inside the map, and the upstream gradient."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1, HEIGHT, WIDTH, CHANNELS)).astype("float32")
    sides = rng.uniform(16, 256, (1, BOXES, 2))
    corners = rng.uniform(0, 1, (1, BOXES, 2)) * (
        STRIDE * np.array([WIDTH - 1, HEIGHT - 1]) - sides
    )
    boxes = np.concatenate([corners, corners + sides], axis=-1).astype("float32")
    gradient = rng.normal(size=(1, BOXES, BINS, BINS, CHANNELS)).astype("float32")
    return features, boxes, gradient


def kvision(features, boxes):
    """Output `(1, BOXES, BINS, BINS, CHANNELS)`."""
    from kvision.ops import roi_align

    return roi_align(
        features,
        boxes,
        output_size=BINS,
        spatial_scale=1 / STRIDE,
        sampling_ratio=SAMPLES,
        aligned=False,
    )


def tensorflow(features, boxes):
    """The same numbers from TensorFlow's ops."""
    import tensorflow as tf

    start, end = tf.split(boxes[0] / STRIDE, 2, axis=-1)
    margin = (end - start) / (2 * BINS * SAMPLES)
    samples = tf.concat([start + margin, end - margin], axis=-1)
    samples /= [WIDTH - 1, HEIGHT - 1, WIDTH - 1, HEIGHT - 1]
    crops = tf.image.crop_and_resize(
        features,
        tf.gather(samples, [1, 0, 3, 2], axis=-1),
        tf.zeros(BOXES, tf.int32),
        (BINS * SAMPLES, BINS * SAMPLES),
    )
    return tf.nn.avg_pool2d(crops, SAMPLES, SAMPLES, "VALID")[None]


def with_gradient(align):
    """Output and gradient of the features: both, or TensorFlow leaves the output out."""

    def both(features, boxes, gradient):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(features)
            output = align(features, boxes)
        return output, tape.gradient(output, features, gradient)

    return both


def torchvision_forward(features, boxes):
    """The same from torchvision, channels first."""
    from torchvision.ops import roi_align

    return roi_align(features, [boxes[0]], BINS, 1 / STRIDE, SAMPLES, aligned=False)


def torchvision_both(features, boxes, gradient):
    """The same with the gradient."""
    import torch

    features.requires_grad_()
    output = torchvision_forward(features, boxes)
    return output, *torch.autograd.grad(output, features, gradient)


# With two threads TensorFlow's gradient of crop_and_resize loses additions, other ones each time.
TOLERANCE = {"torchvision": 1e-5, "TensorFlow": 1e-3}


def channels_first(features, boxes, *gradient):
    """The layout of torchvision."""
    gradient = [array[0] for array in gradient]
    features, *gradient = (
        np.ascontiguousarray(np.moveaxis(array, -1, 1)) for array in (features, *gradient)
    )
    return features, boxes, *gradient


if __name__ == "__main__":
    main(
        __doc__.partition("\n")[0],
        {
            "roi_align, forward": Workload(
                lambda: case()[:2],
                kvision,
                tensorflow,
                torchvision_forward,
                channels_first,
                TOLERANCE,
            ),
            "roi_align, forward + backward": Workload(
                case,
                with_gradient(kvision),
                with_gradient(tensorflow),
                torchvision_both,
                channels_first,
                TOLERANCE,
            ),
        },
    )
