"""The definition of the overlaps of boxes, with derivatives by forward differentiation."""

import numpy as np


class Dual:
    """Numbers `(n,)` with their derivatives `(n, 8)` by the corners of both boxes."""

    def __init__(self, value, slope):
        self.value, self.slope = value, slope

    def __add__(self, other):
        other = constant(other)
        return Dual(self.value + other.value, self.slope + other.slope)

    def __sub__(self, other):
        return self + -1 * constant(other)

    def __rsub__(self, other):
        return constant(other) - self

    def __mul__(self, other):
        other = constant(other)
        slope = self.slope * other.value[..., None] + other.slope * self.value[..., None]
        return Dual(self.value * other.value, slope)

    __radd__, __rmul__ = __add__, __mul__

    def where(self, condition):
        """Itself there, and a constant 0 elsewhere."""
        return Dual(np.where(condition, self.value, 0), np.where(condition[:, None], self.slope, 0))


def constant(value):
    if isinstance(value, Dual):
        return value
    return Dual(np.asarray(value, "float64"), np.zeros(8))


def ratio(numerator, denominator, nan=False):
    """0 where the denominator is; NaN there if so wished."""
    value = (
        denominator.value if nan else np.where(denominator.value == 0, np.inf, denominator.value)
    )
    inverse = Dual(1 / value, -denominator.slope / value[:, None] ** 2)
    return numerator * inverse


def greater(first, second, ties):
    """The greater of two; of equal ones the gradient goes to both by half, or to the first."""
    share = np.where(first.value == second.value, ties, first.value > second.value)
    slope = first.slope * share[:, None] + second.slope * (1 - share)[:, None]
    return Dual(np.maximum(first.value, second.value), slope)


def less(first, second, ties):
    return -1 * greater(-1 * first, -1 * second, ties)


def angle(width, height, nan=False):
    """Of the diagonal and the vertical, 0 for a point; if `nan`, as differentiation has it."""
    flat, point = height.value == 0, (height.value == 0) & (width.value == 0)
    value = np.where(flat, np.pi / 2 * np.sign(width.value), np.arctan(ratio(width, height).value))
    square = width * width + height * height
    slope = ratio(height, square).value[:, None] * width.slope
    slope = slope - ratio(width, square).value[:, None] * height.slope
    if nan:
        value = np.where(point, np.nan, value)
        own = (width.slope != 0) | (height.slope != 0)
        slope = np.where(flat[:, None] & own, np.nan, slope)
    return Dual(value, slope)


def overlap(boxes1, boxes2, kind, ties=0.5, union=0.0, enclosing=0.0, diagonal=0.0, alpha=0.0,
            height=0.0, signed=False, open_enclosing=False, nan=False, squared=False):  # fmt: skip
    """Overlap of each pair: Rezatofighi et al., 2019 (giou), Zheng et al., 2020 (diou, ciou).

    An empty box, one with a reversed side too, has area 0; a ratio to nothing is 0; CIoU's alpha
    counts as a constant. The rest are the ways of others: what they add to a denominator or to the
    heights; areas of reversed boxes taken as they come, enclosing boxes too; 0 / 0; and KerasCV's
    square of the factor in v.
    """
    corners = np.concatenate([boxes1, boxes2], axis=1).astype("float64")
    a = [Dual(corners[:, k], np.eye(8)[k] + 0 * corners[:, :1]) for k in range(8)]
    a, b = a[:4], a[4:]
    sides = []
    for box in (a, b):
        both = [box[k + 2] - box[k] for k in range(2)]
        sides.append(both if signed else [side.where(side.value > 0) for side in both])
    (w1, h1), (w2, h2) = sides
    h1, h2 = h1 + height, h2 + height
    inner = [less(a[k + 2], b[k + 2], ties) - greater(a[k], b[k], ties) for k in range(2)]
    outer = [greater(a[k + 2], b[k + 2], ties) - less(a[k], b[k], ties) for k in range(2)]
    if not open_enclosing:
        outer = [side.where(side.value > 0) for side in outer]
    intersection = (inner[0] * inner[1]).where((inner[0].value > 0) & (inner[1].value > 0))
    area = w1 * h1 + w2 * h2 - intersection
    iou = ratio(intersection, area + union, nan)
    if kind == "iou":
        return iou
    if kind == "giou":
        hull = outer[0] * outer[1]
        return iou - ratio(hull - area, hull + enclosing, nan)
    offset = [0.5 * (a[k] + a[k + 2] - b[k] - b[k + 2]) for k in range(2)]
    squares = [x * x for x in (*offset, *outer)]
    diou = iou - ratio(squares[0] + squares[1], squares[2] + squares[3] + diagonal, nan)
    if kind == "diou":
        return diou
    turn = angle(w1, h1, nan) - angle(w2, h2, nan)
    factor = 4 / np.pi**2
    v = (factor**2 if squared else factor) * (turn * turn)
    weight = ratio(v, 1 - iou + v + alpha, nan).value
    return diou - constant(weight) * v
