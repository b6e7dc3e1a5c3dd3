"""Functions on tensors: native kernels where TensorFlow runs them, `keras.ops` everywhere else."""

from kvision.ops import native
from kvision.ops.batched_nms import batched_nms
from kvision.ops.multiscale_roi_align import multiscale_roi_align
from kvision.ops.nms import nms
from kvision.ops.roi_align import roi_align

__all__ = ["batched_nms", "multiscale_roi_align", "native", "nms", "roi_align"]
