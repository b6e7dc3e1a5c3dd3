"""Photographs that golden values are made of, cut so that both libraries see the same pixels."""

from pathlib import Path

import numpy as np

NAMES = ("000000000133", "000000000208", "000000000321")


def photographs(folder, height, width):
    """Reads the upper left part of each photograph.

    Args:
        folder: Folder of coco_tiny's images.
        height: Rows of the part.
        width: Columns of the part.

    Returns:
        `(3, height, width, 3)` array, uint8.
    """
    from PIL import Image

    return np.stack(
        [
            np.asarray(Image.open(Path(folder) / f"{name}.jpg").convert("RGB"))[:height, :width]
            for name in NAMES
        ]
    )
