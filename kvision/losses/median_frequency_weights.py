"""Class weights by how rare the classes are."""

import numpy as np


def median_frequency_weights(label_maps, num_classes, ignore_class=None):
    """Balances classes by `median(frequency) / frequency`, for the losses' `class_weight`.

    The frequency of a class is its number of pixels, divided by the number of pixels of all images
    that have it; pixels of `ignore_class` count as pixels of an image. A class that no image has
    gets the weight 0, and does not enter the median. Source: Eigen and Fergus, "Predicting Depth,
    Surface Normals and Semantic Labels", 2015; used by SegNet.

    Args:
        label_maps: Iterable of integer arrays, `(H, W)` or `(H, W, 1)`, one an image.
        num_classes: Number of classes K.
        ignore_class: Label without a weight; inside the classes it gets the weight 0.

    Returns:
        Float64 array `(K,)`.

    Raises:
        ValueError: If a label is neither a class nor `ignore_class`.
    """
    pixels = np.zeros(num_classes, "int64")
    pixels_of_images = np.zeros(num_classes, "int64")
    for number, label_map in enumerate(label_maps):
        labels, counts = np.unique(np.asarray(label_map).astype("int64"), return_counts=True)
        kept = labels != ignore_class
        outside = kept & ((labels < 0) | (labels >= num_classes))
        if outside.any():
            raise ValueError(
                f"median_frequency_weights: labels must be in 0..{num_classes - 1} or "
                f"`ignore_class`={ignore_class}. Received in map {number}: "
                f"{labels[outside].tolist()}."
            )
        pixels[labels[kept]] += counts[kept]
        pixels_of_images[labels[kept]] += counts.sum()
    present = pixels > 0
    weights = np.zeros(num_classes)
    if present.any():
        frequency = pixels[present] / pixels_of_images[present]
        weights[present] = np.median(frequency) / frequency
    return weights
