"""A backbone in two parts: what runs on an image, and what runs on each region of it."""

import keras


def split_last_stage(backbone):
    """Splits a backbone before its last stage, as region-based networks without a pyramid do.

    Both parts are made of the backbone's own layers, and share its weights.

    Args:
        backbone: Functional model from images to a pyramid dictionary, with `feature_specs` of two
            levels or more. Everything after its last level but one must come of that level alone.

    Returns:
        `(trunk, stage)`, two functional models: from images to a dictionary of the last level but
        one, and from that level, of any height and width, to the last.

    Raises:
        ValueError: If the backbone is not functional, or something else leads to its last level.
    """
    *_, level, last = backbone.feature_specs
    try:
        trunk = keras.Model(backbone.input, {level: backbone.output[level]}, name="trunk")
        stage = keras.Model(backbone.output[level], backbone.output[last], name="last_stage")
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"split_last_stage: `backbone` must be a functional model whose level {last} follows "
            f"from {level} alone. Received: {backbone.name}."
        ) from error
    for part in (trunk, stage):
        part.autocast = False  # as the backbone: or pixels lose bits
    return trunk, stage
