"""KerasCV's side of the comparison."""

import keras
import keras_cv
import numpy as np
from keras_cv.src.layers.object_detection.roi_align import _ROIAligner
from serving import serve


def iou(boxes1, boxes2):
    """Of the boxes' cross product, one pair after another."""
    matrix = keras_cv.bounding_box.compute_iou(boxes1, boxes2, "xyxy")
    return keras.ops.convert_to_numpy(matrix).reshape(-1, 1)


def ciou(boxes1, boxes2):
    matrix = keras_cv.bounding_box.compute_ciou(boxes1, boxes2, "xyxy")
    return keras.ops.convert_to_numpy(matrix)[:, None]


def roi_aligner(boxes, output_size, **pyramid):
    """Per box; NaN where KerasCV raises."""
    align = _ROIAligner("xyxy", target_size=output_size)
    try:
        output = align(pyramid, boxes)
    except Exception:  # Whatever TensorFlow or Keras says of a shape that does not fit.
        channels = pyramid["P2"].shape[3]
        return np.full((boxes[..., 0].size, output_size, output_size, channels), np.nan)
    return keras.ops.convert_to_numpy(output).reshape(-1, *output.shape[2:])


if __name__ == "__main__":
    serve(
        {
            "keras_cv.bounding_box.compute_iou": iou,
            "keras_cv.bounding_box.compute_ciou": ciou,
            "keras_cv.layers._ROIAligner": roi_aligner,
        },
        modules=[keras_cv, keras],
    )
