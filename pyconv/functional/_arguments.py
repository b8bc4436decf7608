"""Sizes among the arguments: ints and pairs of ints, checked in one voice."""

LIMIT = 2**31


def is_int(value):
    """Whether a value is an integer, NumPy's included, and no bool."""
    return hasattr(value, "__index__") and not isinstance(value, bool)


def pair(op, name, value, least):
    """`value`, an int or a (vertical, horizontal) pair, as a pair of ints that are at least `least`."""
    values = value if isinstance(value, (tuple, list)) else (value, value)
    if len(values) == 1:
        values = (values[0], values[0])
    if len(values) != 2 or not all(map(is_int, values)):
        raise TypeError(f"{op}: {name} must be an int or a pair of ints; got {value!r}")
    if any(int(v) < least for v in values):
        rule = {0: "non-negative", 1: "positive"}[least]
        raise ValueError(f"{op}: {name} must be {rule}; got {value!r}")
    if any(int(v) >= LIMIT for v in values):
        raise ValueError(f"{op}: {name} must be below 2**31; got {value!r}")
    return int(values[0]), int(values[1])
