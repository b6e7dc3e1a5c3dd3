"""The side of the libraries for images that know no gradients: OpenCV and SciPy."""

import cv2
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


if __name__ == "__main__":
    serve(
        {
            "cv2.connectedComponents": opencv_components,
            "scipy.ndimage.label": scipy_components,
        },
        modules=[cv2, scipy],
    )
