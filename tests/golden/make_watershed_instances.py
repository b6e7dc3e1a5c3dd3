"""Golden instances of energy maps, by scikit-image and the published steps of deep watershed.

Run in an environment with scikit-image: `python tests/golden/make_watershed_instances.py`.

The steps are those of `E2E/post_process.py` of github.com/min2209/dwt: the order, the functions and
what they do by default.
"""

from pathlib import Path

import numpy as np
import skimage
from scipy.ndimage import gaussian_filter
from skimage.measure import label
from skimage.morphology import dilation, remove_small_holes, remove_small_objects

SHAPES = {"flat": (40, 70), "tall": (90, 33), "wide": (12, 130)}
# Persons, cars and trucks; then other numbers, and one class alone.
ARGUMENTS = {
    "published": {"cut": (1, 2, 2), "min_area": (20, 25, 45), "grow": (1, 2, 2), "fill_holes": 64},
    "coarse": {"cut": (0, 1, 3), "min_area": (3, 0, 9), "grow": (4, 0, 1), "fill_holes": 9},
    "alone": {"cut": (2,), "min_area": (6,), "grow": (3,), "fill_holes": 5},
    "untouched": {"cut": (1,), "min_area": (0,), "grow": (0,), "fill_holes": 0},
}


def cut_as_published(energy, semantic, cut, min_area, grow, fill_holes):
    """Ids in the order of `post_process.py`, then renamed in raster order."""
    result = np.zeros(energy.shape, "int32")
    number = 0
    for index in range(len(cut)):
        mask = (energy > cut[index]) & (semantic == index + 1)
        # `min_size` of old: objects of fewer pixels are removed.
        mask = remove_small_objects(mask, max_size=min_area[index] - 1, connectivity=1)
        if fill_holes:
            mask = remove_small_holes(mask, max_size=fill_holes - 1, connectivity=1)
        components = label(mask, connectivity=2)
        window = np.ones((2 * grow[index] + 1,) * 2, bool)
        for component in range(1, components.max() + 1):
            number += 1
            result[dilation(components == component, window)] = number
    ids, first = np.unique(result, return_index=True)
    renamed = np.zeros(number + 1, "int32")
    renamed[[i for _, i in sorted(zip(first, ids, strict=True)) if i]] = np.arange(
        1, 1 + np.count_nonzero(ids)
    )
    return renamed[result]


def main():
    rng = np.random.default_rng(6)
    arrays = {"scikit-image": skimage.__version__}
    for name, arguments in ARGUMENTS.items():
        classes = len(arguments["cut"])
        for shape_name, shape in SHAPES.items():
            smooth = gaussian_filter(rng.normal(size=shape), 2.0)
            noise = gaussian_filter(rng.normal(size=shape), 0.7)
            energy = np.clip(2 + 3 * smooth / smooth.std() + noise / noise.std(), 0, 15)
            parts = gaussian_filter(rng.normal(size=(classes + 1, *shape)), (0, 5, 5))
            parts[0] -= parts.std()  # less background
            case = {"energy": energy.astype("int32"), "semantic": parts.argmax(0).astype("int32")}
            if classes == 1:
                case["semantic"][:] = 1
            instances = cut_as_published(**case, **arguments)
            print(name, shape_name, instances.max(), "instances")
            for key, array in {**case, **arguments, "instances": instances}.items():
                arrays[f"{name}/{shape_name}/{key}"] = np.array(array, "int32")
    np.savez_compressed(Path(__file__).with_name("watershed_instances.npz"), **arrays)


if __name__ == "__main__":
    main()
