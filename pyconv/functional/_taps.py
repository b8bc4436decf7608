"""Weighted sums along the axes of an array, which interpolation, padding and their gradients are.

`Axis` describes the sums along one axis by which inputs each output takes, and gives the tables that the
kernel reads, forward and transposed; `apply` runs them over an array. `rearrange` has the same kernel put
elements in another order.
"""

import math
from functools import lru_cache

import numpy as np

from pyconv import _kernels
from pyconv.functional._arguments import LIMIT
from pyconv.functional._arrays import channels_last, contiguous, wants_channels_last

SHORTEST = 8  # elements that a regular stretch has at least


class Axis:
    """An axis of `extent` elements that becomes one of as many as each of `places` has.

    Parameters
    ----------
    extent : int
    places : list of ndarray of int
        For each tap, the element that each output takes; -1 for none.
    weights : list of ndarray, or None
        For each tap, what the elements are multiplied by; None for 1.
    """

    def __init__(self, extent, places, weights=None):
        self.extent, self.size = extent, len(places[0])
        source = np.concatenate(places)
        target = np.tile(np.arange(self.size), len(places))
        weight = None if weights is None else np.concatenate(weights)
        present = source >= 0
        if not present.all():
            source, target = source[present], target[present]
            weight = None if weight is None else weight[present]
        self.forward = _table(self.size, target, source, weight)
        self.backward = _table(extent, source, target, weight)


def _table(size, target, source, weight):
    """The `Taps` in which each of `size` targets takes its sources, in the order they are given in."""
    order = np.argsort(target, kind="stable")
    target, source = target[order], source[order]
    count = np.bincount(target, minlength=size)
    tap = np.arange(len(target)) - np.repeat(np.cumsum(count) - count, count)
    most = max(int(count.max(initial=0)), 1)
    place = np.zeros((most, size), np.int32)
    place[tap, target] = source
    weights = None
    if weight is not None:
        weights = np.zeros((most, size), weight.dtype)
        weights[tap, target] = weight[order]
    return _kernels.Taps(count.astype(np.int32), place, weights, _stretches(count, place))


def _stretches(count, place):
    """Rows (end, step) of the stretches in which places grow regularly and of what lies between them, as
    ``enum pyconv_step`` says."""
    size = len(count)
    absent = np.arange(len(place))[:, None] >= count
    lengths = np.stack([_lengths(count, place, absent, *step) for step in ((1, 1), (1, 2), (2, 1))])
    longest, steps = lengths.max(axis=0, initial=0), 1 + lengths.argmax(axis=0)
    begins = np.flatnonzero(longest >= SHORTEST)
    stretches = []
    at = 0
    while at < size:
        k = np.searchsorted(begins, at)
        begin = int(begins[k]) if k < len(begins) else size
        if begin > at:
            stretches.append((begin, 0))
        if begin < size:
            stretches.append((begin + int(longest[begin]), int(steps[begin])))
        at = stretches[-1][0]
    return np.array(stretches, np.int32).reshape(-1, 2)


def _lengths(count, place, absent, period, growth):
    """From each element on, over how many the counts are equal and places larger by `growth` than `period` before."""
    size = len(count)
    regular = np.zeros(size, bool)  # whether the element `period` on follows
    regular[:-period] = (absent[:, period:] | (place[:, period:] - place[:, :-period] == growth)).all(axis=0)
    for k in range(period):
        regular[:-period] &= count[k : size - period + k] == count[k + 1 : size - period + k + 1]
    ends = np.where(regular, size, np.arange(size) + period)
    return np.minimum(np.minimum.accumulate(ends[::-1])[::-1], size) - np.arange(size)


@lru_cache(maxsize=1)
def _one():
    return Axis(1, [np.zeros(1, int)])


def apply(array, axes, backward=False, value=0.0):
    """A new pooled array in the memory format of `array`, with the sums of {dimension: Axis}, at least one, taken;
    `value` where a sum is empty."""
    if array.ndim == 4 and wants_channels_last(array):
        by_memory = {(0, 3, 1, 2)[dimension]: axis for dimension, axis in axes.items()}
        return _apply(channels_last(array).transpose(0, 2, 3, 1), by_memory, backward, value).transpose(0, 3, 1, 2)
    return _apply(contiguous(array), axes, backward, value)


def _apply(x, axes, backward, value):
    """`apply` to an array that is dense in C order."""
    side = "backward" if backward else "forward"
    left = sorted(axes)
    while left:
        row = left.pop(0)
        if left and left[0] == row + 1:
            column = left.pop(0)
            after = column + 1
            down, across = axes[row], axes[column]
        elif row == x.ndim - 1:  # of planes of one row
            after, down, across = x.ndim, _one(), axes[row]
        else:
            after, down, across = row + 1, axes[row], _one()
        height, width = (axis.size if backward else axis.extent for axis in (down, across))
        sizes = (math.prod(x.shape[:row]), height, width, math.prod(x.shape[after:]))
        shape = list(x.shape)
        for dimension in range(row, after):
            shape[dimension] = axes[dimension].extent if backward else axes[dimension].size
        y = _kernels.empty(tuple(shape), x.dtype)
        _kernels.resample(sizes, getattr(down, side), getattr(across, side), value, x, y)
        x = y
    return x


@lru_cache(maxsize=128)
def _order(dims):
    """The `Taps` that walk over dims of (extent, stride), the last one fastest."""
    place = np.zeros(1, np.int64)
    for extent, stride in dims:
        place = (place[:, None] + stride * np.arange(extent)).ravel()
    return _table(len(place), np.arange(len(place)), place, None)


def rearrange(op, array, images, rows, columns, result):
    """Fill `result` with the elements of `array`, both dense, image by image.

    rows, columns : tuple of (extent, stride) pairs
        The dimensions of an image in the order of the result's memory, with the strides that they have in
        `array`, in elements; cut in two where it suits, a few thousand elements to `columns`.
    """
    image = array.size // max(images, 1)
    if image >= LIMIT:
        raise ValueError(f"{op}: an image must have fewer than 2**31 elements; got {image}")
    _kernels.resample((images, image, 1, 1), _order(rows), _order(columns), 0.0, array, result)
