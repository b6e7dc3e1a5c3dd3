"""Keras' side of the comparison."""

import keras
from keras.utils import bounding_boxes
from serving import serve


def iou(boxes1, boxes2):
    """Of the boxes' cross product, one pair after another."""
    matrix = bounding_boxes.compute_iou(boxes1, boxes2, "xyxy")
    return keras.ops.convert_to_numpy(matrix).reshape(-1, 1)


def ciou(boxes1, boxes2):
    return keras.ops.convert_to_numpy(bounding_boxes.compute_ciou(boxes1, boxes2, "xyxy"))[:, None]


if __name__ == "__main__":
    serve(
        {
            "keras.utils.bounding_boxes.compute_iou": iou,
            "keras.utils.bounding_boxes.compute_ciou": ciou,
        },
        modules=[keras],
    )
