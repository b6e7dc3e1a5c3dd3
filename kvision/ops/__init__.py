"""Functions on tensors: native kernels where TensorFlow runs them, `keras.ops` everywhere else."""

from kvision.ops import native

__all__ = ["native"]
