"""Checks of arguments that are plain Python numbers, for every op."""

import numbers


def check_number(op, name, value):
    """Raises `TypeError` unless `value` is a number that is known when the op is called."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{op}: `{name}` must be a number, known when the op is called or traced. "
            f"Received: {value!r}."
        )


def standardize_pair(op, name, value):
    """Returns `value`, a positive int or a pair of them, as a pair of ints."""
    is_pair = isinstance(value, (tuple, list))
    pair = tuple(value) if is_pair else (value, value)
    if len(pair) != 2 or not all(is_int(number) and number >= 1 for number in pair):
        raise ValueError(
            f"{op}: `{name}` must be a positive int or a pair (height, width) of them. "
            f"Received: {value}."
        )
    return int(pair[0]), int(pair[1])


def is_int(value):
    """Whether `value` is a whole number, of whatever type; infinity is none."""
    return isinstance(value, numbers.Real) and value % 1 == 0
