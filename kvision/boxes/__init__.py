"""Pure tensor math of boxes: anchors, codes, sampling, resizing."""

from kvision.boxes.anchors import cell_anchors, grid_anchors, pyramid_anchors
from kvision.boxes.coder import MAX_LOG_SCALE, decode_boxes, encode_boxes
from kvision.boxes.gather import gather_rows
from kvision.boxes.geometry import clip_boxes, shortest_side
from kvision.boxes.resize import (
    PADDING_COLOR,
    RESIZE_POLICIES,
    resize_boxes,
    resize_images,
    resized_size,
    restore_boxes,
)
from kvision.boxes.sampling import (
    image_fingerprints,
    mix_bits,
    sample_candidates,
    sampling_keys,
)

__all__ = [
    "MAX_LOG_SCALE",
    "PADDING_COLOR",
    "RESIZE_POLICIES",
    "cell_anchors",
    "clip_boxes",
    "decode_boxes",
    "encode_boxes",
    "gather_rows",
    "grid_anchors",
    "image_fingerprints",
    "mix_bits",
    "pyramid_anchors",
    "resize_boxes",
    "resize_images",
    "resized_size",
    "restore_boxes",
    "sample_candidates",
    "sampling_keys",
    "shortest_side",
]
