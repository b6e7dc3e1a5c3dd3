"""Readers, batches, augmentation and the bundled sample scenes."""

from kvision.data.annotated_image import AnnotatedImage
from kvision.data.augment import augment
from kvision.data.batch import as_dataset, to_fit
from kvision.data.batches import Batches, as_batches
from kvision.data.camvid import (
    CAMVID_CLASS_NAMES,
    CAMVID_COLOR_GROUPS,
    CAMVID_COLORS,
    read_camvid,
)
from kvision.data.cityscapes import (
    CITYSCAPES_CLASS_NAMES,
    CITYSCAPES_COLORS,
    CITYSCAPES_INSTANCE_CLASS_NAMES,
    read_cityscapes,
    read_cityscapes_instances,
)
from kvision.data.coco import read_coco
from kvision.data.copy_paste import RandomCopyPaste
from kvision.data.detection_dataset import DetectionDataset
from kvision.data.digit_scenes import (
    DIGIT_CLASS_NAMES,
    DIGIT_SEMANTIC_CLASS_NAMES,
    digit_scenes,
)
from kvision.data.instance_dataset import InstanceDataset, paint_instances
from kvision.data.instance_maps import (
    read_instance_map,
    read_instance_maps,
    read_mask_folders,
    write_instance_map,
)
from kvision.data.label_code import IGNORE_LABEL, LabelCode
from kvision.data.problems import Problem, ProblemReport
from kvision.data.scaled_crop import RandomScaledCrop
from kvision.data.segmentation_dataset import LabelledImage, SegmentationDataset, read_label_maps
from kvision.data.tiles import cut_tiles
from kvision.data.voc import (
    VOC_CLASS_NAMES,
    VOC_COLORS,
    VOC_SEMANTIC_CLASS_NAMES,
    read_voc,
    read_voc_segmentation,
)
from kvision.masks.run_lengths import (
    ids_to_runs,
    mask_to_polygons,
    mask_to_runs,
    polygons_to_runs,
    rle_to_runs,
    runs_to_ids,
    runs_to_mask,
    runs_to_rle,
)

__all__ = [
    "CAMVID_CLASS_NAMES",
    "CAMVID_COLORS",
    "CAMVID_COLOR_GROUPS",
    "CITYSCAPES_CLASS_NAMES",
    "CITYSCAPES_COLORS",
    "CITYSCAPES_INSTANCE_CLASS_NAMES",
    "DIGIT_CLASS_NAMES",
    "DIGIT_SEMANTIC_CLASS_NAMES",
    "IGNORE_LABEL",
    "VOC_CLASS_NAMES",
    "VOC_COLORS",
    "VOC_SEMANTIC_CLASS_NAMES",
    "AnnotatedImage",
    "Batches",
    "DetectionDataset",
    "LabelCode",
    "LabelledImage",
    "Problem",
    "ProblemReport",
    "RandomCopyPaste",
    "RandomScaledCrop",
    "SegmentationDataset",
    "as_batches",
    "as_dataset",
    "augment",
    "cut_tiles",
    "digit_scenes",
    "read_camvid",
    "read_cityscapes",
    "read_coco",
    "read_label_maps",
    "read_voc",
    "read_voc_segmentation",
    "InstanceDataset",
    "paint_instances",
    "read_instance_map",
    "read_instance_maps",
    "read_mask_folders",
    "write_instance_map",
    "read_cityscapes_instances",
    "ids_to_runs",
    "mask_to_polygons",
    "mask_to_runs",
    "polygons_to_runs",
    "rle_to_runs",
    "runs_to_ids",
    "runs_to_mask",
    "runs_to_rle",
    "to_fit",
]
