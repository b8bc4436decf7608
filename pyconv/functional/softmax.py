"""Softmax and its logarithm along one dimension, and their gradients."""

import math
import warnings

from pyconv import _kernels
from pyconv.functional._arguments import dimension
from pyconv.functional._arrays import check_array, check_gradient, dense, empty_like, like, wants_channels_last


def _dimension(op, dim, array):
    """`dim` counted from 0; None is what PyTorch's older releases took."""
    if dim is None:
        warnings.warn(f"{op}: dim should be given; without it, 0 or 1 is taken", stacklevel=3)
        return 0 if array.ndim in (0, 1, 3) else 1
    return dimension(op, "dim", dim, array.ndim)


def _view(array, dim):
    """The sizes (outer, dim, inner) of a dense array in memory order."""
    shape = array.shape or (1,)
    if array.ndim == 4 and wants_channels_last(array):
        n, c, h, w = shape
        shape, dim = (n, h, w, c), (0, 3, 1, 2)[dim]
    return math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])


def _softmax(op, input, dim, log):
    check_array(op, "input", input)
    dim = _dimension(op, dim, input)
    x = dense(input)
    output = empty_like(x)
    _kernels.softmax(*_view(x, dim), x, log, output)
    return output


def _softmax_backward(op, grad_output, output, dim, log):
    check_array(op, "output", output)
    check_gradient(op, grad_output, output)
    y = dense(output)
    grad_input = empty_like(y)
    dim = _dimension(op, dim, y)
    _kernels.softmax_backward(*_view(y, dim), like(grad_output, y), y, log, grad_input)
    return grad_input


def softmax(input, dim=None):
    """exp(x) divided by its sum along one dimension; large x do not overflow.

    Parameters
    ----------
    input : ndarray
        Any shape, float32 or float64.
    dim : int
        The dimension whose entries sum to 1.

    Returns
    -------
    ndarray
        A new array of the input's shape, dtype and memory format.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.softmax(np.log(np.array([[1.0, 2.0, 1.0]])), dim=1).round(6)
    array([[0.25, 0.5 , 0.25]])
    """
    return _softmax("softmax", input, dim, False)


def softmax_backward(grad_output, input, dim=None, *, output=None):
    """Gradient of `softmax`; with the `output` that it returned, input is not looked at and may be None."""
    if output is None:
        output = _softmax("softmax_backward", input, dim, False)
    return _softmax_backward("softmax_backward", grad_output, output, dim, False)


def log_softmax(input, dim=None):
    """The logarithm of `softmax`, accurate where that is close to 0 or 1.

    Parameters
    ----------
    input : ndarray
        Any shape, float32 or float64.
    dim : int
        The dimension along which the exponentials are summed.

    Returns
    -------
    ndarray
        A new array of the input's shape, dtype and memory format.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.log_softmax(np.zeros((1, 4)), dim=1).round(4)
    array([[-1.3863, -1.3863, -1.3863, -1.3863]])
    """
    return _softmax("log_softmax", input, dim, True)


def log_softmax_backward(grad_output, input, dim=None, *, output=None):
    """Gradient of `log_softmax`; with the `output` that it returned, input is not looked at and may be None."""
    if output is None:
        output = _softmax("log_softmax_backward", input, dim, True)
    return _softmax_backward("log_softmax_backward", grad_output, output, dim, True)
