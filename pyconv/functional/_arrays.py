"""Arrays at the door: what is legal, and which memory format an operator sees and returns.

Every operator turns its arguments into dense arrays of the one layout that its kernel knows, and every
result is a fresh array of the memory pool. The memory format is read off the strides as PyTorch does,
so that an array of one channel, whose elements lie the same either way, keeps the format it came in.
"""

import numpy as np

from pyconv import _kernels

FLOAT_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def is_array(value):
    """Whether a value is an ndarray, and none with a mask, which would go unnoticed."""
    return type(value) is np.ndarray or (isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray))


def check_array(op, name, array, ndim=None, dtype=None):
    """Raise unless `array` is a native float32 or float64 ndarray with one of the `ndim` dimensions."""
    legal = type(array) is np.ndarray and (array.dtype is FLOAT_DTYPES[0] or array.dtype is FLOAT_DTYPES[1])
    if legal and (dtype is None or array.dtype is dtype) and (ndim is None or array.ndim == ndim):
        return  # nearly always, and a small network's step makes 40 checks
    if not is_array(array):
        raise TypeError(f"{op}: {name} must be a numpy.ndarray; got {type(array).__name__}")
    if array.dtype not in FLOAT_DTYPES or not array.dtype.isnative:
        raise TypeError(f"{op}: {name} must have dtype float32 or float64; got {array.dtype}")
    if dtype is not None and array.dtype != dtype:
        raise TypeError(f"{op}: {name} must have the dtype of input, {dtype}; got {array.dtype}")
    if ndim is not None and array.ndim not in (ndim if isinstance(ndim, tuple) else (ndim,)):
        wanted = " or ".join(map(str, ndim)) if isinstance(ndim, tuple) else ndim
        raise ValueError(f"{op}: {name} must have {wanted} dimensions; got shape {array.shape}")


def check_gradient(op, grad_output, input):
    """Raise unless a gradient has the shape and dtype of an operator's input."""
    check_array(op, "grad_output", grad_output, dtype=input.dtype)
    if grad_output.shape != input.shape:
        raise ValueError(f"{op}: grad_output must have the shape of input, {input.shape}; got {grad_output.shape}")


def is_channels_last(array):
    """Whether a 4-D array is dense in (N, H, W, C) order, told by the strides alone."""
    n, c, h, w = array.shape
    item = array.itemsize
    return array.strides == (h * w * c * item, item, w * c * item, c * item)


def is_contiguous(array):
    """Whether an array is dense in C order, its strides of size-1 dimensions included."""
    stride = array.itemsize
    for extent, actual in zip(reversed(array.shape), reversed(array.strides)):
        if actual != stride:
            return False
        stride *= extent
    return True


def wants_channels_last(array):
    """Whether a result made from this 4-D array should be channels-last: as in PyTorch, when it is."""
    return is_channels_last(array) and not is_contiguous(array)


def channels_last(array):
    """The 4-D array itself where its memory is dense NHWC, otherwise a copy that is."""
    if is_channels_last(array) and array.flags.aligned:
        return array
    n, c, h, w = array.shape
    if array.flags.aligned and (c == 1 or h * w == 1) and array.flags.c_contiguous:
        item = array.itemsize  # the same elements in the same order
        strides = (h * w * c * item, item, w * c * item, c * item)
        return np.lib.stride_tricks.as_strided(array, array.shape, strides)
    result = _kernels.empty(array.shape, array.dtype, True)
    if array.flags.aligned and array.flags.c_contiguous:
        _kernels.transpose(n, c, h * w, array, result)
    else:
        result[...] = array
    return result


def contiguous(array):
    """The array itself where it is dense in C order, otherwise a copy that is."""
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    result = _kernels.empty(array.shape, array.dtype)
    if array.ndim == 4 and array.flags.aligned and is_channels_last(array):
        n, c, h, w = array.shape
        _kernels.transpose(n, h * w, c, array, result)
    else:
        result[...] = array
    return result


def dense(array):
    """The array where its memory is dense in C or channels-last order, otherwise a contiguous copy."""
    if array.ndim == 4 and is_channels_last(array):
        return channels_last(array)
    return contiguous(array)


def empty_like(array):
    """A fresh array of the shape, dtype and memory format of a dense one."""
    return _kernels.empty(array.shape, array.dtype, array.ndim == 4 and wants_channels_last(array))


def like(array, model):
    """`array`, dense in the memory format of the dense `model` of the same shape."""
    return channels_last(array) if model.ndim == 4 and is_channels_last(model) else contiguous(array)


def in_format_of(result, model):
    """A channels-last result in the memory format that `model`, an operator's input, asks for."""
    return result if wants_channels_last(model) else contiguous(result)
