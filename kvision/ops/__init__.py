"""Functions on tensors: native kernels on TensorFlow, JAX, PyTorch and NumPy; `keras.ops` without.

`implementation_of` says which of the two a function would run.
"""

from kvision.ops import native
from kvision.ops.atrous_pyramid_pooling import atrous_pyramid_pooling
from kvision.ops.batched_nms import batched_nms
from kvision.ops.border_weight_map import border_weight_map
from kvision.ops.box_iou import IOU_KINDS, elementwise_iou, pairwise_iou
from kvision.ops.connected_components import connected_components
from kvision.ops.crop_masks import crop_masks
from kvision.ops.depthwise_atrous_pyramid_pooling import depthwise_atrous_pyramid_pooling
from kvision.ops.match_boxes import IGNORED, NEGATIVE, POSITIVE, match, match_boxes
from kvision.ops.matrix_nms import matrix_nms
from kvision.ops.max_pool_with_argmax import max_pool_with_argmax
from kvision.ops.max_unpool import max_unpool
from kvision.ops.multiscale_roi_align import multiscale_roi_align
from kvision.ops.native import implementation_of
from kvision.ops.nms import nms
from kvision.ops.paste_masks import paste_masks
from kvision.ops.roi_align import roi_align
from kvision.ops.roi_pool import roi_pool
from kvision.ops.soft_nms import soft_nms
from kvision.ops.watershed_instances import watershed_instances
from kvision.ops.watershed_targets import DWT_EDGES, distance_transform, watershed_targets

__all__ = [
    "DWT_EDGES",
    "IGNORED",
    "IOU_KINDS",
    "NEGATIVE",
    "POSITIVE",
    "atrous_pyramid_pooling",
    "batched_nms",
    "border_weight_map",
    "crop_masks",
    "connected_components",
    "depthwise_atrous_pyramid_pooling",
    "distance_transform",
    "elementwise_iou",
    "implementation_of",
    "match",
    "match_boxes",
    "matrix_nms",
    "max_pool_with_argmax",
    "max_unpool",
    "multiscale_roi_align",
    "native",
    "nms",
    "pairwise_iou",
    "paste_masks",
    "roi_align",
    "roi_pool",
    "soft_nms",
    "watershed_targets",
    "watershed_instances",
]

# The functions that have native kernels.
NATIVE = (
    "atrous_pyramid_pooling",
    "batched_nms",
    "border_weight_map",
    "connected_components",
    "crop_masks",
    "depthwise_atrous_pyramid_pooling",
    "distance_transform",
    "elementwise_iou",
    "match_boxes",
    "matrix_nms",
    "max_pool_with_argmax",
    "max_unpool",
    "multiscale_roi_align",
    "nms",
    "pairwise_iou",
    "paste_masks",
    "roi_align",
    "roi_pool",
    "soft_nms",
    "watershed_targets",
    "watershed_instances",
)
