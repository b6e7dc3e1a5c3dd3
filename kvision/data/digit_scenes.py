"""Scenes of real handwritten digits: the bundled sample of every dense task.

The digits are scikit-learn's (UCI's Optical Recognition of Handwritten Digits, E. Alpaydin and
C. Kaynak, 1998: 1,797 images of 8 x 8 pixels), so nothing is downloaded. Each scene is drawn from a
random stream of its own with nothing but elementwise arithmetic: the same seed gives the same bits
on every machine, and scene k is the same however many are asked for.
"""

import functools

import numpy as np

from kvision.boxes.resize import check_image_size
from kvision.data.scene_painting import paint_scene, sample

DIGIT_CLASS_NAMES = tuple("0123456789")
"""Class names of the scenes' boxes, in the order of their labels."""

DIGIT_SEMANTIC_CLASS_NAMES = ("background", *DIGIT_CLASS_NAMES)
"""Class names of the scenes' semantic labels, in the order of their values."""

_BASE_HEIGHT = 16
_MIN_VISIBLE = 0.6
_TRIES_A_DIGIT = 30
_TRIES_A_SCENE = 50


def digit_scenes(
    num_scenes,
    *,
    image_size=(128, 128),
    split="train",
    num_digits=(3, 8),
    scale=(1.0, 3.0),
    max_overlap=0.3,
    background="texture",
    clutter=True,
    masks=True,
    seed=0,
):
    """Compose handwritten digits into scenes, as NumPy arrays in the batch dictionary.

    Digits of any colour stand on a coloured background; later ones cover earlier ones, but at least
    0.6 of each digit's ink stays visible. The two splits draw on disjoint halves of the digits: the
    first half of scikit-learn's order for ``"train"``, the second, by other writers for the most
    part, for ``"test"``. A box is tight around all of a digit's ink, covered or not; the masks
    show what is visible.

    Args:
        num_scenes: int, number of scenes N.
        image_size: ``(H, W)``, ints; each at least the height of the largest digit.
        split: ``"train"`` or ``"test"``.
        num_digits: ``(least, most)``, within 1..12. A scene in which a digit finds no place has
            fewer than it drew, never fewer than ``least``.
        scale: ``(least, most)``, within 1..3. At scale 1 the 8 x 8 cell of a digit is drawn 16
            pixels high, at scale 3 it is 48.
        max_overlap: float in [0, 1), the largest IoU of two boxes of a scene.
        background: ``"texture"`` (smooth colour noise and grain) or ``"plain"`` (one colour).
        clutter: bool, whether lines, rectangles and ellipses lie behind the digits.
        masks: bool, whether the result holds the two kinds of masks; a detector needs neither.
        seed: non-negative int.

    Returns:
        Dictionary of arrays, with M = the most digits of a scene:

        * ``images``: uint8 ``(N, H, W, 3)``;
        * ``bounding_boxes``: ``boxes`` float32 ``(N, M, 4)``, xyxy in pixels, padded with 0, and
          ``labels`` int32 ``(N, M)``, the digit itself, padded with -1;
        * ``segmentation_masks``: int32 ``(N, H, W, 1)``: 0 is background, d + 1 the digit d. The
          ignore label is 255, and no scene holds it;
        * ``instance_ids``: int32 ``(N, H, W, 1)``: 0 is background, i + 1 the digit of box i;
        * ``image_id``: int32 ``(N,)``, the scene's number; ``original_size``: int32 ``(N, 2)``.

    Raises:
        ValueError: an argument out of its range, or scenes too small to hold their least number of
            digits.
    """
    height, width = check_image_size("digit_scenes", image_size)
    _check(split, num_digits, scale, max_overlap, background)
    if round(_BASE_HEIGHT * scale[1]) > min(height, width):
        raise ValueError(
            f"digit_scenes: at scale {scale[1]} a digit is {round(_BASE_HEIGHT * scale[1])} pixels "
            f"high, more than fits `image_size`={(height, width)}."
        )
    most = num_digits[1]
    images = np.zeros((num_scenes, height, width, 3), "uint8")
    boxes = np.zeros((num_scenes, most, 4), "float32")
    labels = np.full((num_scenes, most), -1, "int32")
    instances = np.zeros((num_scenes if masks else 0, height, width, 1), "int32")
    semantics = np.zeros_like(instances)
    glyphs = _glyphs(split)
    for k in range(num_scenes):
        rng = np.random.default_rng([seed, ("train", "test").index(split), k])
        digits, owner = _arrange(rng, glyphs, (height, width), num_digits, scale, max_overlap)
        images[k] = paint_scene(rng, digits, (height, width), background, clutter)
        boxes[k, : len(digits)] = [digit.box for digit in digits]
        labels[k, : len(digits)] = [digit.label for digit in digits]
        if masks:
            instances[k, ..., 0] = owner
            semantics[k, ..., 0] = np.array([0, *(digit.label + 1 for digit in digits)])[owner]
    scenes = {
        "images": images,
        "bounding_boxes": {"boxes": boxes, "labels": labels},
        "image_id": np.arange(num_scenes, dtype="int32"),
        "original_size": np.tile(np.array([height, width], "int32"), (num_scenes, 1)),
    }
    if masks:
        scenes |= {"segmentation_masks": semantics, "instance_ids": instances}
    return scenes


class _Digit:
    """One digit in its place: a patch of ink in 0..1 with its top-left corner."""

    def __init__(self, label, ink, top, left):
        self.label, self.ink = label, ink
        self.window = np.s_[top : top + ink.shape[0], left : left + ink.shape[1]]
        self.solid = ink >= 0.5
        self.area = int(self.solid.sum())
        rows, columns = (np.flatnonzero(self.solid.any(axis)) for axis in (1, 0))
        self.box = (
            left + int(columns[0]),
            top + int(rows[0]),
            left + int(columns[-1]) + 1,
            top + int(rows[-1]) + 1,
        )

    def iou(self, other):
        """Intersection over union of the two boxes."""
        x1, y1, x2, y2 = self.box
        u1, v1, u2, v2 = other.box
        common = max(0, min(x2, u2) - max(x1, u1)) * max(0, min(y2, v2) - max(y1, v1))
        return common / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - common)


def _arrange(rng, glyphs, size, num_digits, scale, max_overlap):
    """Digits in drawing order, and the map ``(H, W)`` of the ink on top: 0, or position + 1."""
    for _ in range(_TRIES_A_SCENE):
        wanted = rng.integers(num_digits[0], num_digits[1] + 1)
        digits, owner = [], np.zeros(size, "int32")
        for _ in range(wanted * _TRIES_A_DIGIT):
            digit = _draw_digit(rng, glyphs, size, scale)
            if not _fits(digit, digits, owner, max_overlap):
                continue
            digits.append(digit)
            owner[digit.window][digit.solid] = len(digits)
            if len(digits) == wanted:
                break
        if len(digits) >= num_digits[0]:
            return digits, owner
    raise ValueError(
        f"digit_scenes: {num_digits[0]} digits of scale {tuple(scale)} do not fit a scene of "
        f"`image_size`={tuple(size)} with `max_overlap`={max_overlap}."
    )


def _draw_digit(rng, glyphs, size, scale):
    images, labels = glyphs
    index = rng.integers(len(images))
    side = round(_BASE_HEIGHT * (scale[0] + (scale[1] - scale[0]) * rng.random()))
    top, left = (int(rng.integers(length - side + 1)) for length in size)
    at = (np.arange(side, dtype="float32") + np.float32(0.5)) * np.float32(8 / side)
    ink = sample(images[index], at + np.float32(0.5), at + np.float32(0.5))
    ink = np.clip((ink - np.float32(0.3)) * np.float32(2.5), 0, 1)
    return _Digit(int(labels[index]), ink, top, left)


def _fits(digit, others, owner, max_overlap):
    """Whether a new digit keeps to the overlap and leaves enough of the earlier ones visible."""
    if any(digit.iou(other) > max_overlap for other in others):
        return False
    left = np.bincount(owner[owner > 0], minlength=len(others) + 1)[1:]
    covered = np.bincount(owner[digit.window][digit.solid], minlength=len(others) + 1)[1:]
    return all(left[i] - covered[i] >= _MIN_VISIBLE * other.area for i, other in enumerate(others))


@functools.cache
def _glyphs(split):
    """Digits ``(n, 10, 10)`` in 0..1, with a border of nothing, and their labels ``(n,)``."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "digit_scenes: the digits come with scikit-learn: pip install scikit-learn."
        ) from error
    digits = load_digits()
    half = len(digits.images) // 2
    part = slice(half) if split == "train" else slice(half, None)
    images = np.pad(digits.images[part].astype("float32") / 16, ((0, 0), (1, 1), (1, 1)))
    return images, digits.target[part]


def _check(split, num_digits, scale, max_overlap, background):
    if split not in ("train", "test"):
        raise ValueError(f"digit_scenes: `split` must be 'train' or 'test'. Received: {split!r}.")
    if not 1 <= num_digits[0] <= num_digits[1] <= 12:
        raise ValueError(
            f"digit_scenes: `num_digits` must be (least, most) within 1..12. "
            f"Received: {num_digits}."
        )
    if not 1 <= scale[0] <= scale[1] <= 3:
        raise ValueError(
            f"digit_scenes: `scale` must be (least, most) within 1..3. Received: {scale}."
        )
    if not 0 <= max_overlap < 1:
        raise ValueError(
            f"digit_scenes: `max_overlap` must be an IoU in [0, 1). Received: {max_overlap}."
        )
    if background not in ("texture", "plain"):
        raise ValueError(
            f"digit_scenes: `background` must be 'texture' or 'plain'. Received: {background!r}."
        )
