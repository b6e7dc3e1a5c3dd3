"""Label maps for tests of ops on instances, and their distances by definition."""

import numpy as np

IDS = np.array([0, 0, 0, 1, 2, 7, 2**31 - 1], "int32")


def patches(rng, shape, sizes):
    """Instances of three by three pixels and more, of few ids; a draw for the harness."""
    batch, height, width = shape
    ids = rng.choice(IDS, (batch, height // 3 + 1, width // 3 + 1))
    return ids.repeat(3, axis=1).repeat(3, axis=2)[:, :height, :width]


def ellipses(rng, height, width, number, radii=(1, 9)):
    """A label map of ellipses, later ones over earlier, some of the same id."""
    image = np.zeros((height, width), "int32")
    y, x = np.mgrid[:height, :width]
    for _ in range(number):
        centre, radius = rng.uniform(0, [height, width]), rng.uniform(*radii, 2)
        inside = ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2 < 1
        image[inside] = rng.choice([1, 2, 3, 40_000, 2**31 - 1])
    return image


def distances(image, border_is_outside):
    """To the nearest pixel outside the instance, all distances written out, in float64."""
    framed = np.pad(image, 1)
    if not border_is_outside and not (image == image[0, 0]).all():
        framed = np.pad(image, 1, mode="edge")  # says what its neighbour says: never nearer
    points = np.stack(np.mgrid[: framed.shape[0], : framed.shape[1]], axis=-1).reshape(-1, 2)
    ids, result = framed.ravel(), np.zeros(framed.size)
    for instance in np.unique(image[image > 0]):
        inside, outside = points[ids == instance], points[ids != instance]
        squares = ((inside[:, None] - outside[None]) ** 2).sum(axis=-1)
        result[ids == instance] = np.sqrt(squares.min(axis=1))
    return result.reshape(framed.shape)[1:-1, 1:-1]
