"""Weights trained by other libraries."""

from kvision.weights.report import LoadReport, WeightsMismatchError
from kvision.weights.torchvision import load_torchvision

__all__ = ["LoadReport", "WeightsMismatchError", "load_torchvision"]
