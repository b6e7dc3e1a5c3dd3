"""TensorFlow's side of the comparison. It takes yxyx, which suppression cannot tell from xyxy."""

import numpy as np
import tensorflow as tf
from serving import padded, serve


def combined(boxes, scores, iou_threshold, score_threshold, max_output_size,
             max_output_size_per_class):  # fmt: skip
    found = tf.image.combined_non_max_suppression(
        boxes,
        scores,
        max_output_size_per_class,
        max_output_size,
        iou_threshold,
        score_threshold,
        clip_boxes=False,
    )
    columns = [found.nmsed_scores[..., None], found.nmsed_classes[..., None], found.nmsed_boxes]
    return tf.concat(columns, axis=-1).numpy()


def hard(boxes, scores, iou_threshold, score_threshold, max_output_size):
    indices, _ = tf.image.non_max_suppression_with_scores(
        boxes, scores, max_output_size, iou_threshold, score_threshold
    )
    return padded(indices.numpy(), max_output_size)


def soft(boxes, scores, sigma, score_threshold, max_output_size):
    """TensorFlow's sigma is half the paper's: it decays by exp(-iou^2 / (2 sigma))."""
    indices, decayed = tf.image.non_max_suppression_with_scores(
        boxes, scores, max_output_size, 1.0, score_threshold, soft_nms_sigma=sigma / 2
    )
    rows = np.tile([-1.0, 0.0], (max_output_size, 1))
    rows[: len(indices)] = np.stack([indices, decayed], axis=1)
    return rows[None]


def max_pool(x, pool_size, strides, padding):
    """The values, and behind them their places y * width + x."""
    windows = pool_size.tolist(), strides.tolist()
    pooled, index = tf.nn.max_pool_with_argmax(x, *windows, padding.upper())
    return np.concatenate([pooled, index // x.shape[3]], axis=-1)


if __name__ == "__main__":
    serve(
        {
            "tf.nn.max_pool_with_argmax": max_pool,
            "tf.image.combined_non_max_suppression": combined,
            "tf.image.non_max_suppression_with_scores, hard": hard,
            "tf.image.non_max_suppression_with_scores, soft": soft,
        },
        modules=[tf],
    )
