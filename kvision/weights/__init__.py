"""Weights trained by other libraries."""

from kvision.weights.keras_applications import load_keras
from kvision.weights.report import LoadReport, WeightsMismatchError
from kvision.weights.torchvision import load_torchvision

__all__ = ["LoadReport", "WeightsMismatchError", "load_keras", "load_torchvision"]
