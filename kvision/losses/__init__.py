"""Losses in plain tensor math."""

from kvision.losses.box_regression import smooth_l1, squared_error
from kvision.losses.iou_loss import IoULoss, iou_loss
from kvision.losses.sampled_mean import sampled_mean

__all__ = ["IoULoss", "iou_loss", "sampled_mean", "smooth_l1", "squared_error"]
