"""Keras layers, one public class a file."""

from kvision.layers.aspp import ASPP
from kvision.layers.batch_normalization import BatchNormalization
from kvision.layers.bilinear_kernel import BilinearKernel
from kvision.layers.box_head import BoxHead
from kvision.layers.feature_spec import FeatureSpec
from kvision.layers.fpn import FPN
from kvision.layers.frozen_batch_normalization import FrozenBatchNormalization
from kvision.layers.local_response_normalization import LocalResponseNormalization
from kvision.layers.mask_head import MaskHead
from kvision.layers.max_pooling_with_argmax_2d import MaxPoolingWithArgmax2D
from kvision.layers.max_unpooling_2d import MaxUnpooling2D
from kvision.layers.multiscale_roi_align import MultiscaleRoIAlign
from kvision.layers.non_max_suppression import NonMaxSuppression
from kvision.layers.roi_align import RoIAlign
from kvision.layers.roi_pool import RoIPool
from kvision.layers.rpn_head import RPNHead

__all__ = [
    "ASPP",
    "BatchNormalization",
    "BilinearKernel",
    "BoxHead",
    "FPN",
    "FeatureSpec",
    "FrozenBatchNormalization",
    "LocalResponseNormalization",
    "MaskHead",
    "MaxPoolingWithArgmax2D",
    "MaxUnpooling2D",
    "MultiscaleRoIAlign",
    "NonMaxSuppression",
    "RPNHead",
    "RoIAlign",
    "RoIPool",
]
