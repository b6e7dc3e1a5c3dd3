"""Image classifiers."""

from kvision.models.classification.image_classifier import ImageClassifier

__all__ = ["ImageClassifier"]
