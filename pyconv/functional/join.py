"""Joins of branches: addition, and concatenation with its way back."""

import math

import numpy as np

from pyconv import _kernels
from pyconv.functional._arguments import integer, ints
from pyconv.functional._arrays import (
    channels_last,
    check_array,
    contiguous,
    empty_like,
    is_channels_last,
    wants_channels_last,
)


def _same_format(a, b):
    """Both arrays dense in one memory format: channels-last where either is."""
    if a.ndim == 4 and (wants_channels_last(a) or wants_channels_last(b)):
        return channels_last(a), channels_last(b)
    return contiguous(a), contiguous(b)


def add(input, other):
    """input + other, for arrays of one shape and dtype.

    Parameters
    ----------
    input, other : ndarray
        float32 or float64; shapes are not broadcast.

    Returns
    -------
    ndarray
        A new array; channels-last where one of the arrays is.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.add(np.ones(2), np.ones(2))
    array([2., 2.])
    """
    return _add(input, other, False)


def _add(input, other, relu):
    """add, followed by relu where asked."""
    check_array("add", "input", input)
    check_array("add", "other", other, dtype=input.dtype)
    if input.shape != other.shape:
        raise ValueError(f"add: other must have the shape of input, {input.shape}; got {other.shape}")
    a, b = _same_format(input, other)
    output = empty_like(a)
    _kernels.add(a, b, relu, output)
    return output


def _dimension(op, dim, ndim):
    dim = integer(op, "dim", dim)
    if not -ndim <= dim < ndim:
        raise ValueError(f"{op}: dim must be a dimension of {ndim}-dimensional arrays; got {dim}")
    return dim % ndim


def cat(tensors, dim=0):
    """Arrays joined along a dimension, as ``torch.cat``.

    Parameters
    ----------
    tensors : sequence of ndarray
        At least one; of one dtype, and of shapes that differ in dimension `dim` alone.
    dim : int

    Returns
    -------
    ndarray
        In the memory format of the first.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.cat([np.zeros((1, 2)), np.ones((1, 1))], dim=1)
    array([[0., 0., 1.]])
    """
    if not isinstance(tensors, (tuple, list)):
        raise TypeError(f"cat: tensors must be a sequence of ndarrays; got {type(tensors).__name__}")
    if len(tensors) == 0:
        raise ValueError("cat: tensors must be at least one; got none")
    first = tensors[0]
    check_array("cat", "tensors[0]", first)
    dim = _dimension("cat", dim, first.ndim)
    for index, array in enumerate(tensors):
        check_array("cat", f"tensors[{index}]", array, first.ndim, first.dtype)
        if array.shape[:dim] + array.shape[dim + 1 :] != first.shape[:dim] + first.shape[dim + 1 :]:
            raise ValueError(
                f"cat: tensors must have shapes that differ in dimension {dim} alone; "
                f"got {', '.join(str(array.shape) for array in tensors)}"
            )
    shape = list(first.shape)
    shape[dim] = sum(array.shape[dim] for array in tensors)
    last = first.ndim == 4 and wants_channels_last(first)
    output = _kernels.empty(tuple(shape), first.dtype, last)
    order = (0, 2, 3, 1) if last else tuple(range(first.ndim))  # of the dimensions in memory
    rows = math.prod(shape[axis] for axis in order[: order.index(dim)])
    _kernels.concat(rows, [channels_last(array) if last else contiguous(array) for array in tensors], output)
    return output


def cat_backward(grad_output, sizes, dim=0):
    """Gradients of `cat`: its arrays' extents along `dim` are `sizes`.

    Returns
    -------
    list of ndarray
        Dense, in the memory format of `grad_output`, of which they may be views.
    """
    check_array("cat_backward", "grad_output", grad_output)
    dim = _dimension("cat_backward", dim, grad_output.ndim)
    sizes = ints("cat_backward", "sizes", sizes)
    if sum(sizes) != grad_output.shape[dim]:
        raise ValueError(
            f"cat_backward: sizes must add up to grad_output's {grad_output.shape[dim]} in dimension {dim}; got {sizes}"
        )
    cuts = np.cumsum(sizes)[:-1]
    parts = np.split(grad_output, cuts, axis=dim)
    if grad_output.ndim != 4 or dim != 1 or not is_channels_last(grad_output) or not grad_output.flags.aligned:
        return [contiguous(part) for part in parts]
    n, channels, h, w = grad_output.shape
    results = []
    for part in parts:
        result = _kernels.empty(part.shape, part.dtype, True)
        if part.size:
            _kernels.copy_columns(n * h * w, part.shape[1], part, channels, result, part.shape[1])
        results.append(result)
    return results
