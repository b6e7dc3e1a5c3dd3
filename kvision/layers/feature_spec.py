"""What a pyramid level looks like before any tensor exists."""

from typing import NamedTuple


class FeatureSpec(NamedTuple):
    """Static description of one pyramid level.

    Attributes:
        channels: Number of feature channels.
        stride: Image pixels between two neighbouring positions of the map.
    """

    channels: int
    stride: int


def level_number(name: str) -> int:
    """Number of a pyramid level: ``"P3"`` -> 3.

    Args:
        name: Name of the level, ``"P"`` followed by digits.

    Returns:
        The number, at which a feature map has stride ``2**number`` unless dilated.

    Raises:
        ValueError: If the name has another form.
    """
    if not name.startswith("P") or not name[1:].isdecimal():
        raise ValueError(f'A pyramid level must be named "P<number>". Received: {name!r}.')
    return int(name[1:])
