"""Readers, batches, augmentation and the bundled sample scenes."""

from kvision.data.annotated_image import AnnotatedImage
from kvision.data.augment import augment
from kvision.data.batch import as_dataset, to_fit
from kvision.data.batches import Batches, as_batches
from kvision.data.coco import read_coco
from kvision.data.detection_dataset import DetectionDataset
from kvision.data.digit_scenes import (
    DIGIT_CLASS_NAMES,
    DIGIT_SEMANTIC_CLASS_NAMES,
    digit_scenes,
)
from kvision.data.problems import Problem, ProblemReport
from kvision.data.voc import VOC_CLASS_NAMES, read_voc

__all__ = [
    "DIGIT_CLASS_NAMES",
    "DIGIT_SEMANTIC_CLASS_NAMES",
    "VOC_CLASS_NAMES",
    "AnnotatedImage",
    "Batches",
    "DetectionDataset",
    "Problem",
    "ProblemReport",
    "as_batches",
    "as_dataset",
    "augment",
    "digit_scenes",
    "read_coco",
    "read_voc",
    "to_fit",
]
