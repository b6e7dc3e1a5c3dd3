"""The arguments of Deep Watershed, and what is wrong with them."""

import numbers

import numpy as np

from kvision.backbones.pixels import CONVENTIONS

ARGUMENTS = (
    "gate",
    "stage",
    "level_edges",
    "level_weights",
    "energy_loss",
    "include_ridge",
    "direction_weight",
    "semantic_weight",
    "background_weight",
    "image_border_is_outside",
    "target_min_area",
    "depths",
    "widths",
    "strides",
    "branch_filters",
    "fuse_filters",
    "energy_widths",
    "energy_strides",
    "energy_filters",
    "normalization",
    "dropout",
    "semantic_codes",
    "normalize_pixels",
    "cut",
    "min_area",
    "grow",
    "fill_holes",
    "grow_within_gate",
    "max_instances",
)
"""Their names, but those of `ImageModel`."""


def check_arguments(model):
    """Checks the arguments that a model keeps as attributes.

    Args:
        model: A `DeepWatershed`.

    Raises:
        ValueError: If one is out of its range.
    """

    def check(name, right, wanted):
        if not right:
            refuse(model, name, wanted, getattr(model, name))

    check("gate", model.gate in ("head", "external", None), "'head', 'external' or None")
    if model.gate is None and model.num_classes > 1:
        refuse(model, "gate", "one that knows the classes, of several", None)
    if model.gate is None and model.grow_within_gate:
        refuse(model, "grow_within_gate", "False without a gate", True)
    edges = model.level_edges
    rising = len(edges) >= 2 and edges[0] == 0 and all(np.diff(edges) > 0)
    check("level_edges", rising, "at least two increasing numbers, of which the first is 0")
    for name, choices in (
        ("energy_loss", ("binary", "cross_entropy")),
        ("normalization", (None, "batch")),
        ("normalize_pixels", tuple(CONVENTIONS)),
    ):
        check(name, getattr(model, name) in choices, f"one of {choices}")
    for name in ("depths", "widths"):
        values = getattr(model, name)
        check(name, len(values) == 5 and min(values) > 0, "five positive integers")
    for name, number in (("strides", 4), ("energy_strides", len(model.energy_widths))):
        values = getattr(model, name)
        right = len(values) == number and set(values) <= {1, 2}
        check(name, right, f"{number} integers, each of them 1 or 2")
    for name in ("direction_weight", "semantic_weight", "background_weight"):
        check(name, getattr(model, name) >= 0, "not negative")
    for name, number in (("semantic_codes", model.num_classes), ("level_weights", len(edges))):
        values = getattr(model, name)
        check(name, values is None or len(values) == number, f"{number} numbers")
    for name in ("cut", "min_area", "grow"):
        values = getattr(model, name)
        right = not isinstance(values, tuple) or len(values) == model.num_classes
        given = values if isinstance(values, tuple) else (values,)
        right = right and all(isinstance(value, numbers.Real) and value >= 0 for value in given)
        check(name, right, "a number that is not negative, or one for each class")
    deepest = max(model.cut) if isinstance(model.cut, tuple) else model.cut
    check("cut", deepest < len(edges) - 1, f"below the last level, {len(edges) - 1}")
    check("max_instances", model.max_instances >= 1, "positive")


def refuse(model, name, wanted, received):
    """Raises a ValueError that names the argument.

    Args:
        model: Who speaks.
        name: Of the argument.
        wanted: What it must be.
        received: What it is.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{type(model).__name__}: `{name}` must be {wanted}. Received: {received!r}.")
