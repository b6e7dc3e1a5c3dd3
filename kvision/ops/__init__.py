"""Functions on tensors: native kernels where TensorFlow runs them, `keras.ops` everywhere else.

In a Keras model use the layers of `kvision.layers` where there is one: on a GPU Keras compiles a
functional model with XLA unless a layer refuses, and what XLA compiles runs through the slower
`keras.ops`.
"""

from kvision.ops import native
from kvision.ops.batched_nms import batched_nms
from kvision.ops.box_iou import IOU_KINDS, elementwise_iou, pairwise_iou
from kvision.ops.match_boxes import IGNORED, NEGATIVE, POSITIVE, match, match_boxes
from kvision.ops.matrix_nms import matrix_nms
from kvision.ops.multiscale_roi_align import multiscale_roi_align
from kvision.ops.nms import nms
from kvision.ops.roi_align import roi_align
from kvision.ops.roi_pool import roi_pool
from kvision.ops.soft_nms import soft_nms

__all__ = [
    "IGNORED",
    "IOU_KINDS",
    "NEGATIVE",
    "POSITIVE",
    "batched_nms",
    "elementwise_iou",
    "match",
    "match_boxes",
    "matrix_nms",
    "multiscale_roi_align",
    "native",
    "nms",
    "pairwise_iou",
    "roi_align",
    "roi_pool",
    "soft_nms",
]
