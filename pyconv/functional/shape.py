"""Operators that only move elements: flatten, pixel_shuffle, channel_shuffle and their gradients."""

from pyconv.functional._arguments import is_int
from pyconv.functional._arrays import check_array, contiguous


def _dimension(op, name, value, ndim):
    if not is_int(value):
        raise TypeError(f"{op}: {name} must be an int; got {value!r}")
    low, high = -max(ndim, 1), max(ndim, 1) - 1
    if not low <= value <= high:
        raise ValueError(f"{op}: {name} must be in [{low}, {high}]; got {value}")
    return int(value) % max(ndim, 1)


def _check_gradient(op, grad_output, input_shape, output_shape):
    check_array(op, "grad_output", grad_output)
    if grad_output.shape != output_shape:
        raise ValueError(
            f"{op}: grad_output must have the shape of the output, {output_shape}, for an input of shape "
            f"{tuple(input_shape)}; got {grad_output.shape}"
        )


# ---- flatten ---------------------------------------------------------------------------------------


def _flat_shape(op, shape, start_dim, end_dim):
    start = _dimension(op, "start_dim", start_dim, len(shape))
    end = _dimension(op, "end_dim", end_dim, len(shape))
    if start > end:
        raise ValueError(f"{op}: start_dim must not come after end_dim; got {start_dim} and {end_dim}")
    flat = 1
    for extent in shape[start : end + 1]:
        flat *= extent
    return (*shape[:start], flat, *shape[end + 1 :])


def flatten(input, start_dim=0, end_dim=-1):
    """Make one dimension of several, in the order of the logical shape.

    Parameters
    ----------
    input : ndarray
        Any shape, float32 or float64, any strides: out of channels-last memory too the order is (C, H, W).
    start_dim, end_dim : int
        The first and the last dimension of those that become one.

    Returns
    -------
    ndarray
        A view of the input where its memory is contiguous, as in PyTorch; otherwise a copy.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.flatten(np.zeros((2, 3, 4, 5)), start_dim=1).shape
    (2, 60)
    """
    check_array("flatten", "input", input)
    return contiguous(input).reshape(_flat_shape("flatten", input.shape, start_dim, end_dim))


def flatten_backward(grad_output, input_shape, start_dim=0, end_dim=-1):
    """Gradient of `flatten`: grad_output in the shape of the input."""
    op = "flatten_backward"
    input_shape = tuple(input_shape)
    _check_gradient(op, grad_output, input_shape, _flat_shape(op, input_shape, start_dim, end_dim))
    return contiguous(grad_output).reshape(input_shape)
