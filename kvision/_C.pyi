# ruff: noqa: E501
"""The native kernels on NumPy arrays. Written by tools/stub.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy import ndarray
from numpy.typing import ArrayLike

_Described = Sequence[tuple[str, Sequence[int]]]
_Pointed = Sequence[tuple[int, str, Sequence[int]]]

def atrous_pyramid_pooling(
    x: ArrayLike,
    kernels: Sequence[ArrayLike],
    biases: ArrayLike,
    *,
    dilation_rates: ArrayLike,
    relu: bool = False,
    num_threads: int = 0,
) -> ndarray:
    """Convolutions of one input at several dilation rates, side by side.

    x: (images, height, width, in_channels).
    kernels: of each branch (kernel_height, kernel_width, in_channels, its filters).
    biases: of all filters.
    dilation_rates: of each branch, at least 1.
    relu: whether what is below zero becomes zero.
    output: (images, height, width, filters).
    """

def atrous_pyramid_pooling_gradient(
    kernels: Sequence[ArrayLike],
    output_gradient: ArrayLike,
    *,
    dilation_rates: ArrayLike,
    num_threads: int = 0,
) -> ndarray:
    """Gradient of atrous_pyramid_pooling without `relu` with respect to x."""

def atrous_pyramid_pooling_kernel_gradient(
    x: ArrayLike,
    output_gradient: ArrayLike,
    *,
    dilation_rates: ArrayLike,
    kernel_shapes: ArrayLike,
    num_threads: int = 0,
) -> list[ndarray]:
    """Gradient of atrous_pyramid_pooling without `relu` with respect to the kernels.

    kernel_shapes: of the kernels, one row each.
    """

def batched_nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    *,
    iou_threshold: float,
    score_threshold: float = ...,
    max_output_size: int = 100,
    max_output_size_per_class: int = 100,
    num_threads: int = 0,
) -> tuple[ndarray, ndarray, ndarray]:
    """Greedy non-maximum suppression within every image and class, merged into each image's best.

    Detections descend by score; equal scores ascend by box index, then by class.

    boxes: (B, N, C, 4), or (B, N, 1, 4) where classes share boxes; x1 y1 x2 y2.
    scores: (B, N, C). Only scores greater than `score_threshold` are candidates; NaN and -inf never
      are.
    iou_threshold: boxes are suppressed above it. Compared with float IoUs as the float it is: round a
      double down.
    score_threshold: -inf for none.
    max_output_size: K, detections an image.
    max_output_size_per_class: detections of each class of an image at most.
    indices: (B, K), the box of each detection, padded with -1.
    labels: (B, K), the class of each detection, padded with -1.
    num_detections: (B,).
    """

def border_weight_map(
    instances: ArrayLike,
    *,
    background_weight: float = 1.0,
    foreground_weight: float = 1.0,
    border_weight: float = 10.0,
    sigma: float = 5.0,
    num_threads: int = 0,
) -> ndarray:
    """U-Net's weight of each pixel: more between cells that touch.

    instances: (batch, height, width), ids of cells greater than 0, all else is background.
    background_weight, foreground_weight: the first term.
    border_weight, sigma: border_weight * exp(-(d1 + d2)^2 / (2 sigma^2)) is the second, with the
      distances to the borders of the two nearest cells; 0 with fewer than two cells.
    output: (batch, height, width), the sum.
    """

def build_info() -> dict[str, str]:
    """What the library was built with; empty where a part was left out."""

def connected_components(
    mask: ArrayLike,
    *,
    connectivity: int = 8,
    num_threads: int = 0,
) -> ndarray:
    """The connected components of masks.

    mask: (batch, height, width).
    connectivity: 4 for neighbours that share a side, 8 for those that share a corner too.
    labels: (batch, height, width), the components of each image numbered from 1 in raster order of
      their first pixels; 0 where the mask is not set.
    """

def depthwise_atrous_pyramid_pooling(
    x: ArrayLike,
    kernels: ArrayLike,
    biases: ArrayLike,
    *,
    kernel_sizes: ArrayLike,
    dilation_rates: ArrayLike,
    activation: str = "none",
    num_threads: int = 0,
) -> ndarray:
    """Depthwise atrous convolutions of one input, side by side.

    x: (images, height, width, channels).
    kernels: those of all branches, (size, size, channels), one after the other.
    biases: those of all branches, (channels,), one after the other.
    kernel_sizes: the odd side of each branch's kernel.
    dilation_rates: the distance of each branch's taps.
    activation: "none" or "relu".
    output: (images, height, width, num_branches * channels).
    """

def depthwise_atrous_pyramid_pooling_gradient(
    output_gradient: ArrayLike,
    output: ArrayLike,
    x: ArrayLike,
    kernels: ArrayLike,
    *,
    kernel_sizes: ArrayLike,
    dilation_rates: ArrayLike,
    activation: str = "none",
    num_threads: int = 0,
) -> tuple[ndarray, ndarray, ndarray]:
    """Gradients of depthwise_atrous_pyramid_pooling with respect to its tensors.

    output: what it gave, which tells where a ReLU let it pass.
    """

def distance_transform(
    instances: ArrayLike,
    *,
    image_border_is_outside: bool = False,
    num_threads: int = 0,
) -> ndarray:
    """The distance of each pixel to the nearest one outside its instance.

    instances: (batch, height, width), ids of instances greater than 0, all else is background.
    image_border_is_outside: whether what lies beyond the image is outside; it is for an instance that
      fills the image.
    distance: (batch, height, width), Euclidean, between pixel centres; 0 on the background.
    """

def elementwise_iou(
    boxes1: ArrayLike,
    boxes2: ArrayLike,
    *,
    kind: str = "iou",
    num_threads: int = 0,
) -> ndarray:
    """IoU, GIoU, DIoU or CIoU of the boxes at equal places.

    boxes1: (batch, num_boxes1, 4), x1 y1 x2 y2.
    boxes2: (batch, num_boxes1, 4).
    kind: "iou", "giou", "diou" or "ciou".
    output: (batch, num_boxes1).
    """

def elementwise_iou_gradient(
    output_gradient: ArrayLike,
    boxes1: ArrayLike,
    boxes2: ArrayLike,
    *,
    kind: str = "iou",
    num_threads: int = 0,
) -> tuple[ndarray, ndarray]:
    """Gradients of the overlaps with respect to both sets of boxes."""

def ffi_handlers() -> dict[str, dict[str, Any]]:
    """The handlers of XLA's foreign function interface, by target and platform."""

def match_boxes(
    boxes: ArrayLike,
    valid: ArrayLike,
    crowd: ArrayLike,
    candidates: ArrayLike,
    *,
    positive_threshold: float,
    negative_threshold: float,
    allow_low_quality: bool = False,
    crowd_overlap: float = 0.7,
    num_threads: int = 0,
) -> tuple[ndarray, ndarray]:
    """Which box of the ground truth each candidate stands for, by IoU, without a matrix of IoUs.

    boxes: (B, M, 4), x1 y1 x2 y2.
    valid: (B, M). False marks padding.
    crowd: (B, M). Negative candidates that lie in such a box are ignored.
    candidates: (B, N, 4), or (1, N, 4) where images share them.
    matches: (B, N), the valid box of the greatest IoU.
    status: (B, N), 1 for positive, 0 for negative, -1 for ignored.
    """

def matrix_nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    method: str = "gaussian",
    sigma: float = 2.0,
    score_threshold: float = 0.0,
    max_output_size: int = -1,
    num_threads: int = 0,
) -> tuple[ndarray, ndarray, ndarray]:
    """Matrix non-maximum suppression of one set of boxes.

    boxes: (N, 4), x1 y1 x2 y2.
    scores: (N,). Only scores greater than `score_threshold` are candidates; NaN and -inf never are.
    labels: (N,). Boxes of different labels do not see each other.
    method: "linear" or "gaussian": f(x) = 1 - x or exp(-sigma x^2) in the decay min f(IoU) / f(c).
    sigma: of the Gaussian, positive.
    score_threshold: decayed scores must be greater; -inf for none.
    max_output_size: length of `indices`; -1 for N.
    indices: boxes by descending decayed score, padded with -1.
    decayed_scores: their decayed scores, padded with 0.
    count: how many there are.
    """

def max_pool_with_argmax(
    x: ArrayLike,
    *,
    pool_size: ArrayLike,
    strides: ArrayLike,
    offset: ArrayLike,
    output_shape: ArrayLike,
    num_threads: int = 0,
) -> tuple[ndarray, ndarray]:
    """Max pooling that tells where each maximum was.

    x: (batch, height, width, channels), fewer than 2^31 cells a map.
    pool_size, strides: of the windows, as (height, width).
    offset: where the first window begins, as (rows, columns) above and left of the map.
    output_shape: (batch, output_height, output_width, channels).
    pooled: the maximum of each window.
    argmax: the cell y * width + x of each value, the first of the largest.
    """

def max_unpool(
    x: ArrayLike,
    argmax: ArrayLike,
    *,
    output_shape: ArrayLike,
    num_threads: int = 0,
) -> ndarray:
    """Each value at the cell that it was the maximum of, zeros elsewhere.

    x: (batch, output_height, output_width, channels).
    argmax: of the shape of x, the cell y * width + x of each value, as max_pool_with_argmax tells it.
    output_shape: (batch, height, width, channels), fewer than 2^31 cells a map.
    output: values that fall on one cell are summed.
    """

def max_unpool_gradient(
    output_gradient: ArrayLike,
    argmax: ArrayLike,
    *,
    num_threads: int = 0,
) -> ndarray:
    """Gradient of max_unpool: the value of a map at each argmax.

    output_gradient: (batch, height, width, channels).
    argmax: (batch, output_height, output_width, channels), cells y * width + x of the map.
    """

def nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    *,
    iou_threshold: float,
    score_threshold: float = ...,
    max_output_size: int = -1,
    num_threads: int = 0,
) -> tuple[ndarray, ndarray]:
    """Greedy non-maximum suppression of one set of boxes.

    boxes: (N, 4), x1 y1 x2 y2.
    scores: (N,). Only scores greater than `score_threshold` are candidates; NaN and -inf never are.
    iou_threshold: boxes are suppressed above it. Compared with float IoUs as the float it is: round a
      double down.
    score_threshold: -inf for none.
    max_output_size: length of `indices`; -1 for N.
    indices: boxes kept by descending score, padded with -1.
    count: how many are kept.
    """

def ops() -> list[dict[str, Any]]:
    """Every op: its tensors, its attributes and its documentation."""

def output_specs(
    op: str,
    inputs: _Described,
    attributes: Mapping[str, Any],
) -> list[tuple[str, list[int]]]:
    """The (dtype, shape) of every output of an op, from those of its inputs."""

def pairwise_iou(
    boxes1: ArrayLike,
    boxes2: ArrayLike,
    *,
    kind: str = "iou",
    num_threads: int = 0,
) -> ndarray:
    """IoU, GIoU, DIoU or CIoU of every pair of boxes.

    boxes1: (batch, num_boxes1, 4), x1 y1 x2 y2.
    boxes2: (batch, num_boxes2, 4).
    kind: "iou", "giou", "diou" or "ciou".
    output: (batch, num_boxes1, num_boxes2).
    """

def pairwise_iou_gradient(
    output_gradient: ArrayLike,
    boxes1: ArrayLike,
    boxes2: ArrayLike,
    *,
    kind: str = "iou",
    num_threads: int = 0,
) -> tuple[ndarray, ndarray]:
    """Gradients of the overlaps with respect to both sets of boxes."""

def roi_align(
    features: Sequence[ArrayLike],
    boxes: ArrayLike,
    levels: ArrayLike,
    *,
    spatial_scales: ArrayLike,
    output_height: int,
    output_width: int,
    sampling_ratio: int = 0,
    aligned: bool = True,
    num_threads: int = 0,
) -> ndarray:
    """Average of bilinear samples in the bins of each box, read from its own level.

    features: maps (batch, height, width, channels), each of its own height and width.
    boxes: (batch, num_boxes, 4), x1 y1 x2 y2.
    levels: (batch, num_boxes), the map that a box reads; zeros where there is none.
    spatial_scales: cells of each map per unit of the boxes.
    sampling_ratio: samples of a bin along each axis; 0 for as many as it has cells, rounded up.
    aligned: whether boxes are shifted by half a cell.
    output: (batch, num_boxes, output_height, output_width, channels).
    """

def roi_align_gradient(
    output_gradient: ArrayLike,
    boxes: ArrayLike,
    levels: ArrayLike,
    *,
    spatial_scales: ArrayLike,
    feature_shapes: ArrayLike,
    sampling_ratio: int = 0,
    aligned: bool = True,
    num_threads: int = 0,
) -> list[ndarray]:
    """Gradient of roi_align with respect to its features.

    feature_shapes: of the features, one row each.
    """

def roi_pool(
    features: ArrayLike,
    boxes: ArrayLike,
    *,
    spatial_scale: ArrayLike,
    output_height: int,
    output_width: int,
    num_threads: int = 0,
) -> tuple[ndarray, ndarray]:
    """Maximum of the features in the bins of each box.

    features: (batch, height, width, channels), fewer than 2^31 cells a map.
    boxes: (batch, num_boxes, 4), x1 y1 x2 y2.
    spatial_scale: cells of the map per unit of the boxes.
    output: (batch, num_boxes, output_height, output_width, channels), 0 where a bin has no cells.
    argmax: the cell y * width + x of each value, -1 where a bin has no cells.
    """

def roi_pool_gradient(
    output_gradient: ArrayLike,
    argmax: ArrayLike,
    boxes: ArrayLike,
    *,
    spatial_scale: ArrayLike,
    feature_shape: ArrayLike,
    num_threads: int = 0,
) -> ndarray:
    """Gradient of roi_pool with respect to its features.

    boxes, spatial_scale: those that gave `argmax`.
    feature_shape: of the features.
    """

def run(
    op: str,
    inputs: _Pointed,
    outputs: _Pointed,
    attributes: Mapping[str, Any],
    stream: int | None = None,
    allocate: Callable[[int], int] | None = None,
    num_threads: int = 0,
) -> None:
    """Runs an op on memory of somebody else: tensors are (address, dtype, shape), contiguous; with a stream, a cudaStream_t, on its device, where `allocate(bytes)` gives the address of memory that lives until the kernels have run."""

def soft_nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    method: str = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float = 0.001,
    max_output_size: int = -1,
    num_threads: int = 0,
) -> tuple[ndarray, ndarray, ndarray]:
    """Soft non-maximum suppression of one set of boxes.

    boxes: (N, 4), x1 y1 x2 y2.
    scores: (N,). Only scores greater than `score_threshold` are candidates; NaN and -inf never are.
    labels: (N,). Boxes of different labels do not see each other.
    method: "linear": scores are multiplied by 1 - IoU above `iou_threshold`. "gaussian": by
      exp(-IoU^2 / sigma).
    sigma: of the Gaussian, positive.
    iou_threshold: of the linear method. Compared with float IoUs as the float it is.
    score_threshold: -inf for none.
    max_output_size: length of `indices`; -1 for N.
    indices: boxes by order of selection, padded with -1.
    decayed_scores: their scores when they were selected, padded with 0.
    count: how many are selected.
    """

def watershed_targets(
    instances: ArrayLike,
    *,
    level_edges: ArrayLike,
    image_border_is_outside: bool = False,
    min_area: int = 0,
    num_threads: int = 0,
) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """What a deep watershed network is taught, from instances.

    instances: (batch, height, width), ids of instances greater than 0, all else is background.
    level_edges: (num_levels,), each greater than the one before; the last level is open.
    image_border_is_outside: whether what lies beyond the image is outside; it is for an instance that
      fills the image.
    min_area: instances of fewer pixels have targets of 0, as the background has.
    distance: (batch, height, width), Euclidean, to the nearest pixel outside the instance.
    direction: (batch, height, width, 2), unit vectors x, y along which the distance grows, or (0, 0).
    level: (batch, height, width), which of level_edges is the last, from the second on, that is less
      than the distance, or 0.
    weight: (batch, height, width), 200 / sqrt(pixels of the instance).
def watershed_instances(
    energy: ArrayLike,
    semantic: ArrayLike,
    grow_within: ArrayLike,
    *,
    cut: ArrayLike,
    min_area: ArrayLike,
    grow: ArrayLike,
    fill_holes: int = 64,
    connectivity: int = 8,
    num_threads: int = 0,
) -> ndarray:
    """Instances of an energy map, as deep watershed cuts them.

    energy: (B, H, W).
    semantic: (B, H, W), classes from 1, all else is background; or (B, 0, 0): all is of class 1.
    grow_within: (B, H, W), where instances may grow to; or (B, 0, 0): anywhere.
    cut, min_area, grow: (C,), of each class from 1 on.
    fill_holes: holes of fewer pixels are filled.
    connectivity: 4 for neighbours that share a side, 8 for those that share a corner too.
    instances: (B, H, W), ids of each image from 1 in raster order of their first pixels, 0 for
      background.
    """
