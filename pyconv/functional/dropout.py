"""Dropout of elements and of whole channels, with inverted scaling."""

import math

import numpy as np

from pyconv import _kernels
from pyconv.functional._arguments import flag, number
from pyconv.functional._arrays import (
    check_array,
    contiguous,
    dense,
    empty_like,
    is_array,
    is_channels_last,
    like,
    wants_channels_last,
)
from pyconv.random import default_generator


def _probability(op, p):
    """`p` as a float, checked."""
    p = number(op, "p", p)
    if not 0 <= p <= 1:
        raise ValueError(f"{op}: p must be between 0 and 1; got {p}")
    return p


def _start(op, input, p, training, generator, return_mask):
    """Check the arguments; (p, which is 0 when not training, and the generator)."""
    check_array(op, "input", input)
    p = _probability(op, p)
    flag(op, "return_mask", return_mask)
    if generator is not None and not isinstance(generator, np.random.Generator):
        raise TypeError(f"{op}: generator must be a numpy.random.Generator; got {type(generator).__name__}")
    if not flag(op, "training", training):
        p = 0.0
    return p, default_generator() if generator is None else generator


def dropout(input, p=0.5, training=True, inplace=False, *, generator=None, return_mask=False):
    """Set each element to 0 with probability p, and multiply the others by 1 / (1 - p).

    Parameters
    ----------
    input : ndarray
        Any shape, float32 or float64.
    p : float
        Between 0 and 1.
    training : bool
        With False, or p = 0, the result is `input` itself.
    inplace : bool
        Accepted for PyTorch's sake and ignored.
    generator : numpy.random.Generator, optional
        What decides; by default the generator that `pyconv.manual_seed` restarts. One call draws one
        number, a seed, whatever the size of input.
    return_mask : bool
        Also return what `dropout_backward` needs.

    Returns
    -------
    ndarray, or with `return_mask` (ndarray, mask)
        mask is a bool array of input's shape, True where an element is kept, or None when nothing is
        dropped.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> output = F.dropout(np.ones(1000), 0.2, generator=np.random.default_rng(0))
    >>> np.unique(output).tolist()
    [0.0, 1.25]

    Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, 2014.
    """
    p, generator = _start("dropout", input, p, training, generator, return_mask)
    if p == 0:
        return (input, None) if return_mask else input
    x = dense(input)
    output = empty_like(x)
    mask = _kernels.empty(x.shape, np.dtype(bool), x.ndim == 4 and wants_channels_last(x))
    if p == 1:
        mask[...] = False
        np.multiply(x, 0, out=output)
    else:
        seed = int(generator.integers(2**64, dtype=np.uint64))
        _kernels.dropout(x, seed, p, mask, output)
    return (output, mask) if return_mask else output


def dropout_backward(grad_output, mask, p=0.5):
    """Gradient of `dropout`: grad_output / (1 - p) where mask is True, else 0.

    Parameters
    ----------
    grad_output : ndarray
    mask : ndarray of bool, or None
        As `dropout` returned it.
    p : float
        As `dropout` took it.
    """
    op = "dropout_backward"
    p = _start_backward(op, grad_output, mask, p)
    if mask is None:
        return grad_output
    if mask.shape != grad_output.shape:
        raise ValueError(f"{op}: mask must have shape {grad_output.shape}; got {mask.shape}")
    mask = dense(mask)
    g = like(grad_output, mask)
    grad_input = empty_like(g)
    if p == 1:
        np.multiply(g, 0, out=grad_input)
    else:
        _kernels.dropout_backward(g, mask, p, grad_input)
    return grad_input


def _start_backward(op, grad_output, mask, p):
    """Check the arguments; p as a float."""
    check_array(op, "grad_output", grad_output)
    if mask is not None and not (is_array(mask) and mask.dtype == bool):
        raise TypeError(f"{op}: mask must be a bool array or None; got {getattr(mask, 'dtype', type(mask))}")
    return _probability(op, p)


def _check_channels(op, name, array):
    if array.ndim < 2:
        raise ValueError(f"{op}: {name} must have at least 2 dimensions; got shape {array.shape}")


def dropout2d(input, p=0.5, training=True, inplace=False, *, generator=None, return_mask=False):
    """Set each channel of each image to 0 with probability p, and multiply the others by 1 / (1 - p).

    Parameters
    ----------
    input : ndarray (N, C, ...)
        float32 or float64; with `training` False, or p = 0, any shape.
    p, training, inplace, generator, return_mask
        As in `dropout`; the mask has shape (N, C).

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> output = F.dropout2d(np.ones((1, 100, 2, 2)), 0.5, generator=np.random.default_rng(0))
    >>> np.unique(output.sum(axis=(2, 3))).tolist()
    [0.0, 8.0]

    Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015.
    """
    p, generator = _start("dropout2d", input, p, training, generator, return_mask)
    if p == 0:
        return (input, None) if return_mask else input
    _check_channels("dropout2d", "input", input)
    mask = generator.random(input.shape[:2]) >= p
    output = _scale_channels(input, mask, p)
    return (output, mask) if return_mask else output


def dropout2d_backward(grad_output, mask, p=0.5):
    """Gradient of `dropout2d`: grad_output / (1 - p) in the channels where mask is True, else 0.

    Parameters
    ----------
    grad_output : ndarray (N, C, ...)
    mask : ndarray (N, C) of bool, or None
        As `dropout2d` returned it.
    p : float
        As `dropout2d` took it.
    """
    op = "dropout2d_backward"
    p = _start_backward(op, grad_output, mask, p)
    if mask is None:
        return grad_output
    _check_channels(op, "grad_output", grad_output)
    if mask.shape != grad_output.shape[:2]:
        raise ValueError(f"{op}: mask must have shape {grad_output.shape[:2]}; got {mask.shape}")
    return _scale_channels(grad_output, mask, p)


def _scale_channels(array, mask, p):
    x = dense(array)
    output = empty_like(x)
    factor = contiguous(mask * x.dtype.type(1 / (1 - p) if p < 1 else 0))
    n, c = x.shape[:2]
    plane = math.prod(x.shape[2:])
    if x.ndim == 4 and is_channels_last(x):
        _kernels.channel_scale(n * plane, c, 1, max(plane, 1), x, factor, output)
    else:
        _kernels.channel_scale(n, c, plane, 1, x, factor, output)
    return output
