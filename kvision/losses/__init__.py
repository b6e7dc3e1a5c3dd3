"""Losses in plain tensor math."""

from kvision.losses.box_regression import smooth_l1, squared_error
from kvision.losses.sampled_mean import sampled_mean

__all__ = ["sampled_mean", "smooth_l1", "squared_error"]
