"""How models are trained, beyond a single `fit`."""

from kvision.training.fit_stages import Stage, fit_stages

__all__ = ["Stage", "fit_stages"]
