"""Checks of arguments that are plain Python numbers, for every op."""

import numbers


def check_number(op, name, value):
    """Raises `TypeError` unless `value` is a number that is known when the op is called."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{op}: `{name}` must be a number, known when the op is called or traced. "
            f"Received: {value!r}."
        )
