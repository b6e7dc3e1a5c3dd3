"""Connected components against SciPy, OpenCV and TensorFlow Addons."""

import numpy as np

from kvision import ops
from tests.conformance.comparison import Deviation, Row


def draw_masks(rng):
    """Two images: noise, or patches of one size."""
    height, width = rng.integers(1, [40, 140])
    high, wide = rng.choice([1, 1, 2, 5], 2)
    shape = (2, -(-height // high), -(-width // wide))
    mask = (rng.random(shape) < rng.choice([0.1, 0.4, 0.5, 0.6, 0.9])) * rng.integers(1, 4, shape)
    mask = mask.repeat(high, 1).repeat(wide, 2)[:, :height, :width]
    return {"mask": mask.astype("uint8"), "connectivity": int(rng.choice([4, 8]))}


def draw_masks_of_sides(rng):
    return {"mask": draw_masks(rng)["mask"].astype("int32")}


def components(call):
    return ops.connected_components(call["mask"], connectivity=call.get("connectivity", 4))


def definition(call, of_equal_values=False, goes_on=False, names=None):
    """Each image by floods from its pixels, one after the other.

    `names` are labels whose owner numbers components in an order of its own: a component is called
    by what it has at its first pixel, if no other is called that.
    """
    labels = np.zeros(call["mask"].shape, int)
    count = 0
    for image, values in enumerate(call["mask"]):
        count = count if goes_on else 0
        for start in zip(*np.nonzero(values), strict=True):
            if labels[image][start] == 0:
                count += 1
                _flood(values, start, labels[image], count, call, of_equal_values)
        if names is not None:
            labels[image] = _renamed(labels[image], names[image])
    return labels


def _flood(values, start, labels, label, call, of_equal_values):
    labels[start] = label
    flood = [start]
    while flood:
        y, x = flood.pop()
        for v, u in np.ndindex(3, 3):
            v, u, to_side = y + v - 1, x + u - 1, v == 1 or u == 1
            if not (0 <= v < labels.shape[0] and 0 <= u < labels.shape[1]) or labels[v, u]:
                continue
            joins = values[v, u] == values[start] if of_equal_values else values[v, u] != 0
            if joins and (to_side or call.get("connectivity", 4) == 8):
                labels[v, u] = label
                flood.append((v, u))


def _renamed(labels, names):
    first = np.unique(labels, return_index=True)[1]
    called = np.zeros(labels.max(initial=0) + 1)
    called[labels.ravel()[first]] = names.ravel()[first]
    return called[labels] if len(np.unique(called)) == len(called) else labels


def images_of(call):
    return len(call["mask"])


ORDER = Deviation(
    "theirs", "numbers the components in an order of its own", lambda answer: {"names": answer}
)
VALUES = Deviation(
    "theirs", "a component is of equal values, not of all that are not 0", {"of_equal_values": True}
)
GOES_ON = Deviation(
    "theirs", "numbers go on from one image of the batch to the next", {"goes_on": True}
)
ROWS = (
    Row("imaging", "scipy.ndimage.label", "connected_components", draw_masks, components,
        definition, 0, "equal", cost=20, size=images_of),
    Row("imaging", "cv2.connectedComponents", "connected_components", draw_masks, components,
        definition, 0, "equal", (ORDER,), cost=20, size=images_of),
    Row("addons", "tfa.image.connected_components", "connected_components", draw_masks_of_sides,
        components, definition, 0, "equal", (VALUES, GOES_ON), cost=20, size=images_of),
)  # fmt: skip
