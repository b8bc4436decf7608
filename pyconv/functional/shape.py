"""Operators that only move elements: flatten, pixel_shuffle, channel_shuffle and their gradients."""

import math

from pyconv import _kernels
from pyconv.functional._arguments import dimension, ints, positive
from pyconv.functional._arrays import channels_last, check_array, contiguous, wants_channels_last
from pyconv.functional._taps import rearrange


def _check_gradient(op, grad_output, input_shape, output_shape):
    check_array(op, "grad_output", grad_output)
    if grad_output.shape != output_shape:
        raise ValueError(
            f"{op}: grad_output must have the shape of the output, {output_shape}, for an input of shape "
            f"{tuple(input_shape)}; got {grad_output.shape}"
        )


# ---- flatten ---------------------------------------------------------------------------------------


def _flat_shape(op, shape, start_dim, end_dim):
    start = dimension(op, "start_dim", start_dim, len(shape))
    end = dimension(op, "end_dim", end_dim, len(shape))
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
    input_shape = ints(op, "input_shape", input_shape)
    _check_gradient(op, grad_output, input_shape, _flat_shape(op, input_shape, start_dim, end_dim))
    return contiguous(grad_output).reshape(input_shape)


# ---- pixel_shuffle, channel_shuffle ------------------------------------------------------------------


def _check_images(op, name, array):
    check_array(op, name, array)
    if array.ndim < 3:
        raise ValueError(f"{op}: {name} must have at least 3 dimensions; got shape {array.shape}")


def _rearranged(op, array, shape, last, planes):
    """A new array of `shape` in the memory format of a dense `array`: images, rows and columns of `rearrange`
    where that is channels-last, and where it is not."""
    is_last = array.ndim == 4 and wants_channels_last(array)
    result = _kernels.empty(tuple(shape), array.dtype, is_last)
    array = channels_last(array) if is_last else contiguous(array)
    rearrange(op, array, *(last if is_last else planes), result)
    return result


def _shuffle(op, name, array, r):
    _check_images(op, name, array)
    *batch, c, h, w = array.shape
    if c % (r * r):
        raise ValueError(f"{op}: {name} must have a multiple of {r}^2 channels; got shape {array.shape}")
    n, k = math.prod(batch), c // (r * r)
    last = n, ((h, w * c), (r, r)), ((w, c), (r, 1), (k, r * r))
    planes = n * k, ((h, w), (r, r * h * w)), ((w, 1), (r, h * w))
    return _rearranged(op, array, (*batch, k, h * r, w * r), last, planes)


def _unshuffle(op, name, array, r):
    _check_images(op, name, array)
    *batch, c, height, width = array.shape
    if height % r or width % r:
        raise ValueError(f"{op}: {name} must have a height and width divisible by {r}; got shape {array.shape}")
    n, h, w = math.prod(batch), height // r, width // r
    last = n, ((h, r * width * c),), ((w, r * c), (c, 1), (r, width * c), (r, c))
    planes = n * c, ((r, width), (r, 1), (h, r * width)), ((w, r),)
    return _rearranged(op, array, (*batch, c * r * r, h, w), last, planes)


def pixel_shuffle(input, upscale_factor):
    """Larger images out of more channels: (..., C r^2, H, W) becomes (..., C, H r, W r).

    Parameters
    ----------
    input : ndarray, (..., C r^2, H, W)
        float32 or float64, any strides.
    upscale_factor : int
        r.

    Returns
    -------
    ndarray, (..., C, H r, W r)

    References
    ----------
    Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
    Neural Network, 2016.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.pixel_shuffle(np.arange(4.0).reshape(4, 1, 1), 2)
    array([[[0., 1.],
            [2., 3.]]])
    """
    return _shuffle("pixel_shuffle", "input", input, positive("pixel_shuffle", "upscale_factor", upscale_factor))


def pixel_shuffle_backward(grad_output, upscale_factor):
    """Gradient of `pixel_shuffle`: `pixel_unshuffle` of grad_output."""
    op = "pixel_shuffle_backward"
    return _unshuffle(op, "grad_output", grad_output, positive(op, "upscale_factor", upscale_factor))


def pixel_unshuffle(input, downscale_factor):
    """More channels out of larger images: (..., C, H r, W r) becomes (..., C r^2, H, W).

    The inverse of `pixel_shuffle`.

    Parameters
    ----------
    input : ndarray, (..., C, H r, W r)
        float32 or float64, any strides.
    downscale_factor : int
        r.

    Returns
    -------
    ndarray, (..., C r^2, H, W)

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.pixel_unshuffle(np.zeros((1, 3, 8, 8)), 2).shape
    (1, 12, 4, 4)
    """
    op = "pixel_unshuffle"
    return _unshuffle(op, "input", input, positive(op, "downscale_factor", downscale_factor))


def pixel_unshuffle_backward(grad_output, downscale_factor):
    """Gradient of `pixel_unshuffle`: `pixel_shuffle` of grad_output."""
    op = "pixel_unshuffle_backward"
    return _shuffle(op, "grad_output", grad_output, positive(op, "downscale_factor", downscale_factor))


def _mix(op, array, rows):
    """Channels seen as a matrix of `rows` rows, transposed."""
    n, c, *image = array.shape
    columns, pixels = c // rows, math.prod(image)
    last = n * pixels, ((1, 0),), ((columns, 1), (rows, columns))
    planes = n, ((columns, pixels), (rows, columns * pixels)), ((pixels, 1),)
    return _rearranged(op, array, array.shape, last, planes)


def _channel_groups(op, name, array, groups):
    _check_images(op, name, array)
    groups = positive(op, "groups", groups)
    if array.shape[1] % groups:
        raise ValueError(f"{op}: groups must divide the channels; got shape {array.shape}, groups={groups}")
    return groups


def channel_shuffle(input, groups):
    """Take one channel of each group in turn: channel g (C / groups) + i becomes i groups + g.

    Parameters
    ----------
    input : ndarray, (N, C, ...)
        float32 or float64, any strides.
    groups : int
        Divides C.

    Returns
    -------
    ndarray
        Of the input's shape and memory format.

    References
    ----------
    Zhang et al., ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices, 2017.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.channel_shuffle(np.arange(6.0).reshape(1, 6, 1), 2).ravel()
    array([0., 3., 1., 4., 2., 5.])
    """
    op = "channel_shuffle"
    return _mix(op, input, _channel_groups(op, "input", input, groups))


def channel_shuffle_backward(grad_output, groups):
    """Gradient of `channel_shuffle`: the channels back where they were."""
    op = "channel_shuffle_backward"
    groups = _channel_groups(op, "grad_output", grad_output, groups)
    return _mix(op, grad_output, max(grad_output.shape[1] // groups, 1))
