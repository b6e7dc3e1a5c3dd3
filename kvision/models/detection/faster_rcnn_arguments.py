"""What the arguments of Faster R-CNN may be."""

import functools
import math
from numbers import Integral, Real

from kvision.layers.feature_spec import level_number


def _is_integer(value, lowest=-math.inf):
    return isinstance(value, Integral) and value >= lowest


def _is_number(value, highest=math.inf):
    return isinstance(value, Real) and math.isfinite(value) and 0 <= value <= highest


def _are_positive(values):
    return len(values) > 0 and all(_is_number(value) and value > 0 for value in values)


POSITIVE_INTEGER = ("a positive integer", lambda value: _is_integer(value, 1))
COUNT = ("an integer, at least 0", lambda value: _is_integer(value, 0))
_INTEGER = ("an integer", _is_integer)
_POSITIVE_INTEGER_OR_NONE = (
    "a positive integer or None",
    lambda value: value is None or _is_integer(value, 1),
)
_LENGTH = ("a finite number, at least 0", _is_number)
_FRACTION = ("a number in [0, 1]", lambda value: _is_number(value, 1))
_POSITIVE = ("positive numbers", _are_positive)
_POSITIVE_OF_EACH_LEVEL = ("positive numbers", lambda levels: all(map(_are_positive, levels)))
_SWITCH = ("True or False", lambda value: value in (True, False))
_BOX_LOSS = ("'smooth_l1' or 'l2'", lambda value: value in ("smooth_l1", "l2"))

_FINEST_STRIDE = 4  # of the published pyramids, P2

ARGUMENTS = {
    "fpn_filters": _POSITIVE_INTEGER_OR_NONE,
    "anchor_sizes": _POSITIVE_OF_EACH_LEVEL,
    "aspect_ratios": _POSITIVE,
    "rpn_pre_nms_top_n": POSITIVE_INTEGER,
    "rpn_pre_nms_top_n_train": POSITIVE_INTEGER,
    "rpn_post_nms_top_n": POSITIVE_INTEGER,
    "rpn_post_nms_top_n_train": POSITIVE_INTEGER,
    "rpn_nms_threshold": _FRACTION,
    "rpn_min_side": _LENGTH,
    "rpn_positive_iou": _FRACTION,
    "rpn_negative_iou": _FRACTION,
    "anchors_per_image": POSITIVE_INTEGER,
    "anchor_positive_fraction": _FRACTION,
    "roi_output_size": POSITIVE_INTEGER,
    "roi_sampling_ratio": COUNT,
    "roi_aligned": _SWITCH,
    "box_head_units": POSITIVE_INTEGER,
    "roi_positive_iou": _FRACTION,
    "rois_per_image": POSITIVE_INTEGER,
    "roi_positive_fraction": _FRACTION,
    "crowd_overlap": _FRACTION,
    "box_regression_loss": _BOX_LOSS,
    "smooth_l1_beta": _LENGTH,
    "score_threshold": _FRACTION,
    "nms_threshold": _FRACTION,
    "max_detections": POSITIVE_INTEGER,
    "seed": _INTEGER,
}
"""Arguments that are no part of a `Detector`, each with what it must be, in words and as a test."""


def pyramid_levels(model, levels):
    """Chooses the levels of the backbone that the pyramid is built on.

    Args:
        model: A `FasterRCNN` that has its backbone.
        levels: Their names, or `None` for those of a stride of 4 or more.

    Returns:
        Tuple of names, finest first.

    Raises:
        ValueError: If the backbone has no levels, or not those.
    """
    backbone = model.backbone
    if not hasattr(backbone, "feature_specs"):
        _refuse(
            model, "`backbone` must have `feature_specs`, as those of kvision.backbones", backbone
        )
    specs = backbone.feature_specs
    if levels is None:
        chosen = [name for name, spec in specs.items() if spec.stride >= _FINEST_STRIDE]
    else:
        chosen = {levels} if isinstance(levels, str) else set(levels)
    if not chosen or not set(specs).issuperset(chosen):
        _refuse(model, f"`levels` must be some of the backbone's {list(specs)}", levels)
    return tuple(sorted(chosen, key=level_number))


def check_arguments(model):
    """Checks the attributes of a `FasterRCNN` that hold its arguments.

    Args:
        model: The model, before its layers are made.

    Raises:
        ValueError: For the first one outside its range, or that does not go with another.
    """
    refuse = functools.partial(_refuse, model)
    check_values(model, ARGUMENTS)
    sizes, levels = model.anchor_sizes, list(model.levels)
    if model.fpn_filters is None and len(model.backbone.feature_specs) < 2:
        refuse("without a pyramid, `backbone` must have two levels or more", levels)
    if model.fpn_filters is None and len(sizes) != 1:
        refuse("without a pyramid, `anchor_sizes` must have one entry, of all sizes", sizes)
    if model.fpn_filters is not None and len(sizes) < len(levels):
        refuse(
            f"`anchor_sizes` must have an entry for each of the levels {levels}, and one more for "
            "each coarser level that the pyramid is to add",
            sizes,
        )
    if len({len(level) for level in sizes}) != 1:
        refuse("`anchor_sizes` must have as many sizes at each level", sizes)
    if model.rpn_negative_iou > model.rpn_positive_iou:
        refuse(
            f"`rpn_negative_iou` must not exceed `rpn_positive_iou`, {model.rpn_positive_iou}",
            model.rpn_negative_iou,
        )


def check_values(model, arguments):
    """Checks attributes of a model, each by itself.

    Args:
        model: The model.
        arguments: Name -> what it must be, in words and as a test.

    Raises:
        ValueError: For the first one outside its range.
    """
    for name, (description, holds) in arguments.items():
        value = getattr(model, name)
        if not holds(value):
            _refuse(model, f"`{name}` must be {description}", value)


def _refuse(model, rule, value):
    raise ValueError(f"{type(model).__name__}: {rule}. Received: {value!r}.")
