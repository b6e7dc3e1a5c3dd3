"""Non-maximum suppression at the end of a detector."""

import keras

from kvision.ops.batched_nms import BatchedNMSOperation, output_shapes


@keras.saving.register_keras_serializable("kvision")
class NonMaxSuppression(keras.layers.Layer):
    """`kvision.ops.batched_nms` as a layer, called as `layer(boxes, scores)`.

    Boxes `(batch, num_boxes, 4)` or `(batch, num_boxes, num_classes, 4)`, `xyxy` in any unit, and
    scores `(batch, num_boxes, num_classes)` give the dictionary of padded detections that the op
    describes. Nothing is cast: boxes and scores stay float32 under every dtype policy.

    Args:
        iou_threshold: Float in [0, 1]. Boxes of a class are suppressed above it, not at it.
        score_threshold: Float or `None`. Only scores greater than it are candidates.
        max_output_size: Positive int: the number of detections an image, padding included.
        max_output_size_per_class: Positive int or `None`: keep at most so many of each class.
        class_agnostic: Whether a box counts for its best class only and boxes suppress each other
            across classes.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: For an argument out of its range, or tensors that `batched_nms` refuses.
    """

    def __init__(
        self,
        iou_threshold=0.5,
        *,
        score_threshold=None,
        max_output_size=100,
        max_output_size_per_class=None,
        class_agnostic=False,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.operation = BatchedNMSOperation(
            iou_threshold=iou_threshold,
            score_threshold=score_threshold,
            max_output_size=max_output_size,
            max_output_size_per_class=max_output_size_per_class,
            class_agnostic=class_agnostic,
        )

    def build(self, boxes_shape, scores_shape):
        self.built = True

    def call(self, boxes, scores):
        return self.operation.call(boxes, scores)

    def compute_output_spec(self, boxes, scores):
        return self.operation.compute_output_spec(boxes, scores)

    def compute_output_shape(self, boxes_shape, scores_shape):
        return output_shapes(boxes_shape, scores_shape, self.operation.max_output_size)

    def get_config(self):
        return {
            **super().get_config(),
            "iou_threshold": self.operation.iou_threshold,
            "score_threshold": self.operation.score_threshold,
            "max_output_size": self.operation.max_output_size,
            "max_output_size_per_class": self.operation.max_output_size_per_class,
            "class_agnostic": self.operation.class_agnostic,
        }
