"""What the tests of `roi_align` and `roi_pool` share: a map, boxes, cases of one channel."""

import numpy as np

from kvision.testing import AT_LEAST_FLOAT32, Case, Input, draws

X = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
NAN, INF = np.nan, np.inf
NOT_FINITE = [
    (NAN, 0, 3, 3),
    (0, NAN, 3, 3),
    (0, 0, NAN, 3),
    (0, 0, 3, NAN),
    (-INF, 0, 3, 3),
    (0, 0, 3, INF),
    (INF, INF, INF, INF),
    (-3e38, 0, 3e38, 3),
]
BOXES = Input("batch num_boxes 4", draws.uniform(-10, 30), AT_LEAST_FLOAT32)


def case(*boxes, outputs, features=X, rtol=1e-6, atol=0.0, **arguments):
    """The bins of each box in turn, on a map of one channel."""
    arguments = {"output_size": 2, "spatial_scale": 1.0, **arguments}
    bins = arguments["output_size"]
    outputs = np.reshape(np.asarray(outputs, "float32"), (1, len(boxes), bins, bins, 1))
    return Case({"features": features, "boxes": [boxes]}, outputs, arguments, rtol=rtol, atol=atol)


def feature_shape(rng, shape, sizes):
    """The draw of an input that holds the shape of the features."""
    return [sizes[axis] for axis in ("batch", "height", "width", "channels")]
