"""Functions on tensors: native kernels where TensorFlow runs them, `keras.ops` everywhere else."""

from kvision.ops import native
from kvision.ops.multiscale_roi_align import multiscale_roi_align
from kvision.ops.roi_align import roi_align

__all__ = ["multiscale_roi_align", "native", "roi_align"]
