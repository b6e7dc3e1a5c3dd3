"""Losses in plain tensor math."""

from kvision.losses.box_regression import smooth_l1, squared_error
from kvision.losses.iou_loss import IoULoss, iou_loss
from kvision.losses.median_frequency_weights import median_frequency_weights
from kvision.losses.pixel_cross_entropy import (
    PixelBinaryCrossEntropy,
    PixelCrossEntropy,
    PixelFocal,
)
from kvision.losses.pixel_loss import PixelLoss
from kvision.losses.sampled_mean import sampled_mean
from kvision.losses.soft_f1 import SoftDice, SoftF1
from kvision.losses.watershed_losses import direction_loss, watershed_energy_loss

__all__ = [
    "IoULoss",
    "PixelBinaryCrossEntropy",
    "PixelCrossEntropy",
    "PixelFocal",
    "PixelLoss",
    "SoftDice",
    "SoftF1",
    "direction_loss",
    "iou_loss",
    "median_frequency_weights",
    "sampled_mean",
    "smooth_l1",
    "squared_error",
    "watershed_energy_loss",
]
