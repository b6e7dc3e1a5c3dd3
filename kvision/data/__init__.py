"""Readers, batches, augmentation and the bundled sample scenes."""

from kvision.data.batch import as_dataset, to_fit
from kvision.data.digit_scenes import (
    DIGIT_CLASS_NAMES,
    DIGIT_SEMANTIC_CLASS_NAMES,
    digit_scenes,
)

__all__ = [
    "DIGIT_CLASS_NAMES",
    "DIGIT_SEMANTIC_CLASS_NAMES",
    "as_dataset",
    "digit_scenes",
    "to_fit",
]
