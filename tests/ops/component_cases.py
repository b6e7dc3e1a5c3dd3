"""What the tests of `connected_components` and `watershed_instances` share."""

import numpy as np


def flooded(image, connectivity):
    """The labels of one image, by a flood from each pixel that has none yet."""
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    if connectivity == 8:
        steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    labels = np.zeros(image.shape, "int32")
    for y, x in np.argwhere(image):
        if labels[y, x]:
            continue
        labels[y, x] = number = labels.max() + 1
        flood = [(y, x)]
        while flood:
            y0, x0 = flood.pop()
            for v, u in ((y0 + dy, x0 + dx) for dy, dx in steps):
                inside = 0 <= v < image.shape[0] and 0 <= u < image.shape[1]
                if inside and image[v, u] and not labels[v, u]:
                    labels[v, u] = number
                    flood.append((v, u))
    return labels
