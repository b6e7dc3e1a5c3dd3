"""Non-maximum suppression on the CPU, against torchvision's and TensorFlow's.

The indices must be equal. One set of boxes is suppressed eagerly on all sides, as torchvision does
it: to call a `tf.function` takes longer than a few thousand boxes. How it is measured:
`_versus.py`.

    python benchmarks/nms.py --peer PATH/TO/PYTHON/WITH/TORCHVISION
"""

import numpy as np
from _versus import Workload, main, order_checksum

IOU_THRESHOLD, SCORE_THRESHOLD, IMAGE = 0.5, 0.05, 1000


def uniform(size):
    """Boxes of sides 4 to 64 anywhere in the image, and scores."""
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, IMAGE, (size, 2)), rng.uniform(4, 64, (size, 2))
    boxes = np.concatenate([corner, corner + side], axis=1)
    return boxes.astype("float32"), rng.random(size, "float32")


def clustered(size):
    """Boxes around 200 others, so that about as many survive."""
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, IMAGE, (200, 2)), rng.uniform(32, 96, (200, 2))
    centres = np.concatenate([corner, corner + side], axis=1)[rng.integers(0, 200, size)]
    return (centres + rng.normal(0, 1, (size, 4))).astype("float32"), rng.random(size, "float32")


def with_image_box(size):
    """`uniform`, and one box as large as the image with the best score."""
    boxes, scores = uniform(size)
    boxes[0], scores[0] = (0, 0, IMAGE, IMAGE), 2
    return boxes, scores


def batch(images, size, classes):
    """Boxes `(images, size, 1, 4)` that classes share, and scores `(images, size, classes)`."""
    boxes, _ = clustered(images * size)
    scores = np.random.default_rng(1).random((images, size, classes), "float32") ** 4
    return boxes.reshape(images, size, 1, 4), scores


def kvision(boxes, scores):
    """Indices of the boxes kept."""
    from kvision.ops import nms

    return nms(boxes, scores, iou_threshold=IOU_THRESHOLD)


def tensorflow(boxes, scores):
    """The same from TensorFlow."""
    import tensorflow as tf

    return tf.image.non_max_suppression(boxes, scores, tf.shape(scores)[0], IOU_THRESHOLD)


def torchvision(boxes, scores):
    """The same from torchvision."""
    from torchvision.ops import nms

    return nms(boxes, scores, IOU_THRESHOLD)


def kvision_batched(boxes, scores):
    """Boxes and scores of the detections."""
    from kvision.ops import batched_nms

    found = batched_nms(
        boxes[:, :, 0], scores, iou_threshold=IOU_THRESHOLD, score_threshold=SCORE_THRESHOLD
    )
    return found["boxes"], found["scores"]


def tensorflow_batched(boxes, scores):
    """The same from TensorFlow, which has no indices."""
    import tensorflow as tf

    found = tf.image.combined_non_max_suppression(
        boxes, scores, 100, 100, IOU_THRESHOLD, SCORE_THRESHOLD, clip_boxes=False
    )
    return found.nmsed_boxes, found.nmsed_scores


def one_set(inputs):
    """A workload of `nms`."""
    sides = kvision, tensorflow, torchvision
    return Workload(inputs, *sides, checksum=order_checksum, compiled=False)


if __name__ == "__main__":
    main(
        __doc__.partition("\n")[0],
        {
            "nms, 10,000 uniform": one_set(lambda: uniform(10_000)),
            "nms, 10,000 clustered": one_set(lambda: clustered(10_000)),
            "nms, 10,000 uniform, one image-sized": one_set(lambda: with_image_box(10_000)),
            "nms, 2,000 uniform": one_set(lambda: uniform(2_000)),
            "batched_nms, 8 x 2,000 x 80": Workload(
                lambda: batch(8, 2_000, 80), kvision_batched, tensorflow_batched
            ),
        },
    )
