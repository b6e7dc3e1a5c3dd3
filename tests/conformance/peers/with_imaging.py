"""The side of the libraries for images that know no gradients: OpenCV, SciPy and edt."""

import cv2
import edt
import numpy as np
import scipy
from scipy import ndimage
from serving import serve


def opencv_components(mask, connectivity):
    labels = [cv2.connectedComponents(image, connectivity=connectivity)[1] for image in mask]
    return np.stack(labels)


def scipy_components(mask, connectivity):
    structure = ndimage.generate_binary_structure(2, connectivity // 4)
    return np.stack([ndimage.label(image, structure)[0] for image in mask])


def by_instance(distances_of):
    """Of a function that takes one mask, made one that takes label maps."""

    def answer(instances, border_is_outside):
        mode = "constant" if border_is_outside else "edge"
        framed = np.pad(instances, [(0, 0), (1, 1), (1, 1)], mode=mode)
        result = np.zeros(framed.shape)
        for image, ids in zip(result, framed, strict=True):
            for instance in np.unique(ids[ids > 0]):
                mask = ids == instance
                image[mask] = distances_of(mask)[mask]
        return result[:, 1:-1, 1:-1]

    return answer


def opencv_distances(mask):
    return cv2.distanceTransform(mask.view("uint8"), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def edt_distances(instances, border_is_outside):
    return np.stack([edt.edt(image, black_border=border_is_outside) for image in instances])


if __name__ == "__main__":
    serve(
        {
            "cv2.connectedComponents": opencv_components,
            "scipy.ndimage.label": scipy_components,
            "cv2.distanceTransform, precise": by_instance(opencv_distances),
            "edt.edt": edt_distances,
            "scipy.ndimage.distance_transform_edt": by_instance(ndimage.distance_transform_edt),
        },
        modules=[cv2, scipy],
    )
