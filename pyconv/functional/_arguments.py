"""Arguments that are no arrays: ints, numbers, sizes and pairs of them, checked in one voice."""

import numbers
from functools import lru_cache, wraps

import numpy as np

LIMIT = 2**31


def scalar(value):
    """What a 0-d array holds; any other value as it is."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def is_int(value):
    """Whether a value is an integer, NumPy's and 0-d arrays included, and no bool."""
    if type(value) is int:
        return True
    value = scalar(value)
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_sequence(value):
    """Whether a value is a sequence as sizes are given in: a tuple, a list, a range or a 1-D array."""
    return isinstance(value, (tuple, list, range)) or (isinstance(value, np.ndarray) and value.ndim == 1)


def is_one_of(value, choices):
    """Whether a value is one of these strings."""
    return isinstance(value, str) and value in choices


def shown(value):
    """A value as an error names it: of an array that would fill the screen, its shape."""
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) and value.size > 8 else repr(value)


def flag(op, name, value):
    """`value`, which must be a bool, as Python's own."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{op}: {name} must be a bool; got {shown(value)}")
    return bool(value)


def layer_flag(op, name, value):
    """The same of what a layer is made with, where PyTorch takes numbers and None, too."""
    return bool(value) if value is None or is_int(value) else flag(op, name, value)


def integer(op, name, value):
    """`value`, which must be an int, as Python's own."""
    if not is_int(value):
        raise TypeError(f"{op}: {name} must be an int; got {shown(value)}")
    return int(value)


def count(op, name, value, least):
    """`value`, which must be an int and at least `least`, as Python's own."""
    if integer(op, name, value) < least:
        raise ValueError(f"{op}: {name} must be at least {least}; got {value}")
    return int(value)


def check_limit(op, name, values, got):
    """Raise unless these sizes, of `got`, are such that the kernels can count them."""
    if max(map(int, values), default=0) >= LIMIT:
        raise ValueError(f"{op}: {name} must be below 2**31; got {shown(got)}")


def positive(op, name, value):
    """`value`, which must be an int above 0, as Python's own."""
    if integer(op, name, value) < 1:
        raise ValueError(f"{op}: {name} must be positive; got {value}")
    check_limit(op, name, (value,), value)
    return int(value)


def number(op, name, value):
    """`value`, which must be a real number, as a float."""
    if type(value) is float:
        return value
    value = scalar(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{op}: {name} must be a number; got {type(value).__name__}")
    return float(value)


def dimension(op, name, value, ndim):
    """`value`, one of the dimensions of an array of `ndim`, counted from 0; a scalar has one as well."""
    extent = max(ndim, 1)
    if not -extent <= integer(op, name, value) < extent:
        raise ValueError(f"{op}: {name} must be in [{-extent}, {extent - 1}]; got {value}")
    return int(value) % extent


def pair(op, name, value, least):
    """`value`, an int or a (vertical, horizontal) pair, as a pair of ints that are at least `least`."""
    values = value if is_sequence(value) else (value, value)
    if len(values) == 1:
        values = (values[0], values[0])
    if len(values) != 2 or not all(map(is_int, values)):
        raise TypeError(f"{op}: {name} must be an int or a pair of ints; got {shown(value)}")
    if any(int(v) < least for v in values):
        rule = {0: "non-negative", 1: "positive"}[least]
        raise ValueError(f"{op}: {name} must be {rule}; got {shown(value)}")
    check_limit(op, name, values, value)
    return int(values[0]), int(values[1])


def ints(op, name, value):
    """`value`, a sequence of non-negative ints such as a shape, as a tuple."""
    if not is_sequence(value) or not all(map(is_int, value)):
        raise TypeError(f"{op}: {name} must be a sequence of ints; got {shown(value)}")
    if any(int(v) < 0 for v in value):
        raise ValueError(f"{op}: {name} must be non-negative ints; got {shown(value)}")
    return tuple(map(int, value))


def needed(op, needs, names=("input", "weight", "bias")):
    """`needs`, which says of each of these whether its gradient is to be computed, as a tuple of bools."""
    if not isinstance(needs, (tuple, list)) or len(needs) != len(names):
        raise ValueError(f"{op}: needs must have {len(names)} entries ({', '.join(names)}); got {shown(needs)}")
    return tuple(map(bool, needs))


class _Unkept(tuple):
    __hash__ = None


def as_key(value):
    """`value`, an int or a pair, for a `remembered` check; a pair of anything but ints is never found there.

    It would be: (1.0, 1.0) == (1, 1), and so are their hashes.
    """
    if type(value) is not int and is_sequence(value):
        for item in value:
            if type(item) is not int:
                return _Unkept(value)
        return tuple(value)
    return value


def remembered(check):
    """`check`, whose result depends on its arguments alone, with the last thousand results kept.

    Arguments that can't be hashed are checked each time; pairs must have come through `as_key`.
    """
    kept = lru_cache(maxsize=1024, typed=True)(check)

    @wraps(check)
    def call(*arguments):
        try:
            return kept(*arguments)
        except TypeError:
            pass
        return check(*arguments)

    return call
