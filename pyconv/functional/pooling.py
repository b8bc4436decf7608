"""Pooling: maxima and averages over windows, their gradients, and the inverse of maximum pooling."""

import numpy as np

from pyconv import _kernels
from pyconv.functional._arguments import LIMIT, check_limit, flag, integer, ints, pair, shown
from pyconv.functional._arrays import check_array, wants_channels_last
from pyconv.functional._windows import (
    Batch,
    adaptive_windows,
    check_indices,
    check_shape,
    checked_shape,
    ordinary_windows,
    stride_of,
)
from pyconv.functional.activation import relu as rectify
from pyconv.functional.activation import relu_backward

MOST_TAPS = 255  # what an 8-bit tap number can tell apart, and one number for no tap


# ---- Maximum pooling -------------------------------------------------------------------------------


def _max_pool(batch, windows, input, index_dtype, relu=False):
    """output, and the indices of the maxima: int64 places, uint8 taps, or None for None."""
    output = batch.empty(*windows["output"], input.dtype)
    indices = None if index_dtype is None else batch.empty(*windows["output"], np.dtype(index_dtype))
    x = input[None] if batch.unbatched else input
    _kernels.max_pool(windows, batch.dense(x), output, indices, relu)
    return output, indices


def _max_pool_result(op, batch, windows, input, return_indices):
    """What an operator returns: the output, or (output, indices)."""
    if not flag(op, "return_indices", return_indices):
        return batch.result(_max_pool(batch, windows, input, None)[0])
    return tuple(map(batch.result, _max_pool(batch, windows, input, np.int64)))


def max_pool2d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """Maximum over the windows of each H x W plane.

    Parameters
    ----------
    input : ndarray, (N, C, H, W) or (C, H, W)
        float32 or float64, any strides.
    kernel_size : int or pair
        Height and width of a window.
    stride : int or pair, optional
        Distance of neighbouring windows; the kernel size when None.
    padding : int or pair
        Pixels of -infinity added on each side, at most half of the kernel.
    dilation : int or pair
        Distance of neighbouring taps within a window.
    ceil_mode : bool
        Whether the last windows may reach beyond the padded input.
    return_indices : bool
        Whether to return the places of the maxima as well.

    Returns
    -------
    output : ndarray, (N, C, OH, OW) or (C, OH, OW)
        OH = floor((H + 2 padding - dilation (kernel_size - 1) - 1) / stride) + 1, or with ceil. NaN is
        larger than any number.
    indices : ndarray of int64, only with `return_indices`
        row * W + column of each maximum in its plane: the first of equal ones.

    Raises
    ------
    ValueError
        If a size is not positive, padding is more than half of the kernel, or the output has no pixel.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> x = np.arange(16.0).reshape(1, 4, 4)
    >>> F.max_pool2d(x, 2)
    array([[[ 5.,  7.],
            [13., 15.]]])
    >>> F.max_pool2d(x, 2, return_indices=True)[1]
    array([[[ 5,  7],
            [13, 15]]])
    """
    op = "max_pool2d"
    batch = Batch.of(op, "input", input)
    windows = ordinary_windows(op, batch, kernel_size, stride, padding, dilation, ceil_mode)
    return _max_pool_result(op, batch, windows, input, return_indices)


def max_pool2d_saving(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, relu=False):
    """output, and what `max_pool2d_restoring` makes the gradient from: what a layer keeps.

    Channels-last, that is the 8-bit number of each window's winning tap where the windows have at most 255,
    an eighth of the memory of `max_pool2d`'s indices; otherwise those. With `relu` the output is
    max(max_pool2d(input), 0), and tap numbers tell of that as well.
    """
    op = "max_pool2d"
    batch = Batch.of(op, "input", input)
    windows = ordinary_windows(op, batch, kernel_size, stride, padding, dilation, ceil_mode)
    kernel = windows["kernel"]
    few_taps = batch.is_channels_last and kernel[0] * kernel[1] <= MOST_TAPS
    in_pass = relu and few_taps and batch.channels > 1
    output, indices = _max_pool(batch, windows, input, np.uint8 if few_taps else np.int64, in_pass)
    output, rectified = batch.result(output), None
    if relu and not in_pass:
        output = rectified = rectify(output)
    return output, (batch, windows, input.shape, indices, rectified)


def max_pool2d_restoring(grad_output, saved):
    """grad_input of `max_pool2d_saving`."""
    op = "max_pool2d_backward"
    batch, windows, input_shape, indices, rectified = saved
    check_shape(op, grad_output, (*input_shape[:-2], *windows["output"]))
    if rectified is not None:
        grad_output = relu_backward(grad_output, rectified)
    if indices.dtype == np.int64:
        return _scatter(op, grad_output, batch.result(indices), batch, False)
    grad_input = batch.empty(batch.height, batch.width, grad_output.dtype)
    _kernels.max_pool_backward(windows, batch.dense(grad_output), indices, grad_input)
    return grad_input


def _scatter(op, pooled, indices, batch, assign):
    """Zeros of the batch's size, with `pooled` added (or assigned) at `indices`."""
    result = batch.empty(batch.height, batch.width, pooled.dtype)
    if batch.unbatched:
        pooled, indices = pooled[None], indices[None]
    count = pooled.shape[2] * pooled.shape[3]
    sizes = (batch.images, batch.height * batch.width, count, batch.channels)
    try:
        _kernels.pool_scatter(sizes, assign, batch.dense(pooled), batch.dense(indices), result)
    except IndexError:
        _raise_bad_index(op, indices, batch.height, batch.width)
    return batch.result(result)


def _raise_bad_index(op, indices, height, width):
    bad = indices[(indices < 0) | (indices >= height * width)][0]
    raise ValueError(f"{op}: indices must be places in the plane, 0 to {height} * {width} - 1; got {bad}") from None


def _index_backward(op, grad_output, indices, input_shape):
    check_array(op, "grad_output", grad_output, (3, 4))
    input_shape = checked_shape(op, input_shape)
    if len(input_shape) != grad_output.ndim or input_shape[:-2] != grad_output.shape[:-2]:
        raise ValueError(
            f"{op}: input_shape must have the batch and channels of grad_output, of shape "
            f"{grad_output.shape}; got {input_shape}"
        )
    check_indices(op, indices, grad_output.shape, "grad_output")
    batch = Batch(op, "input", input_shape, grad_output.ndim == 4 and wants_channels_last(grad_output))
    return _scatter(op, grad_output, indices, batch, False)


def max_pool2d_backward(grad_output, indices, input_shape):
    """Gradient of `max_pool2d`: each element of grad_output is added where its maximum was.

    Parameters
    ----------
    grad_output : ndarray, (N, C, OH, OW) or (C, OH, OW)
    indices : ndarray of int64, the shape of grad_output
        What ``max_pool2d(..., return_indices=True)`` returned, in any memory layout.
    input_shape : tuple of int
        (N, C, H, W) or (C, H, W).

    Returns
    -------
    ndarray
        grad_input, of shape `input_shape`, in the memory format of grad_output. Windows that overlap are
        summed in a fixed order.

    Raises
    ------
    ValueError
        If the shapes do not fit, or an index lies outside the plane.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.max_pool2d_backward(np.array([[[1.0, 2.0]]]), np.array([[[1, 1]]]), (1, 1, 3))
    array([[[0., 3., 0.]]])
    """
    return _index_backward("max_pool2d_backward", grad_output, indices, input_shape)


def adaptive_max_pool2d(input, output_size, return_indices=False):
    """Maximum over windows that cut each plane into an output of the size asked for.

    Parameters
    ----------
    input : ndarray, (N, C, H, W) or (C, H, W)
        float32 or float64, any strides.
    output_size : int, None or a pair of these
        OH and OW; None is the input's own. Output i sees the rows floor(i H / OH) up to
        ceil((i + 1) H / OH).
    return_indices : bool
        Whether to return the places of the maxima as well, as `max_pool2d` does.

    Returns
    -------
    output : ndarray, (N, C, OH, OW) or (C, OH, OW)
    indices : ndarray of int64, only with `return_indices`

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.adaptive_max_pool2d(np.arange(6.0).reshape(1, 2, 3), (1, 2))
    array([[[4., 5.]]])
    """
    op = "adaptive_max_pool2d"
    batch = Batch.of(op, "input", input)
    windows = adaptive_windows(op, batch, output_size)
    return _max_pool_result(op, batch, windows, input, return_indices)


def adaptive_max_pool2d_backward(grad_output, indices, input_shape):
    """Gradient of `adaptive_max_pool2d`; see `max_pool2d_backward`."""
    return _index_backward("adaptive_max_pool2d_backward", grad_output, indices, input_shape)


# ---- Average pooling -------------------------------------------------------------------------------


def _average_options(op, count_include_pad, divisor_override):
    count_include_pad = flag(op, "count_include_pad", count_include_pad)
    if divisor_override is None:
        return count_include_pad, 0
    divisor = integer(op, "divisor_override", divisor_override)
    if divisor == 0:
        raise ValueError(f"{op}: divisor_override must not be zero; got {divisor}")
    if abs(divisor) >= LIMIT:
        raise ValueError(f"{op}: divisor_override must be between -2**31 and 2**31; got {divisor}")
    return count_include_pad, divisor


FEW_ROWS, LARGE_ROW = 16, 1 << 16  # an output row whose windows hold more elements is made of several


def _avg_pool(batch, windows, input):
    x = batch.dense(input[None] if batch.unbatched else input)
    if batch.is_channels_last and "adaptive" not in windows and windows["kernel"] == windows["stride"]:
        windows, x = _in_parts(batch, windows, x)
    output = batch.empty(*windows["output"], input.dtype)
    _kernels.avg_pool(windows, x, output)
    return batch.result(output)


def _in_parts(batch, windows, x):
    """The averages of windows that cut the image evenly as those of averages, where rows are few and large.

    A row of outputs is one task; the rows of parts of windows are more.
    """
    images, height, width, channels = windows["input"]
    (rows, columns), (down, across) = windows["output"], windows["kernel"]
    exact = (rows * down, columns * across) == (height, width)
    if any(windows.get("padding", ())) or windows.get("divisor"):
        exact = False
    if images * rows >= FEW_ROWS or down * width * channels < LARGE_ROW or not exact:
        return windows, x
    parts = next((n for n in range(8, down) if down % n == 0), 1)
    if parts > 1:
        kernel = down // parts, across
        part = {"input": windows["input"], "output": (rows * parts, columns), "kernel": kernel, "stride": kernel}
        averages = batch.empty(*part["output"], x.dtype)
        _kernels.avg_pool(part, x, averages)
        whole = {"input": (images, rows * parts, columns, channels), "output": (rows, columns)}
        return whole | {"kernel": (parts, 1), "stride": (parts, 1)}, averages
    return windows, x


def _avg_pool_backward(op, grad_output, input_shape, make_windows):
    check_array(op, "grad_output", grad_output, (3, 4))
    input_shape = checked_shape(op, input_shape)
    batch = Batch(op, "input", input_shape, grad_output.ndim == 4 and wants_channels_last(grad_output))
    windows = make_windows(batch)
    check_shape(op, grad_output, (*input_shape[:-2], *windows["output"]))
    grad_input = batch.empty(batch.height, batch.width, grad_output.dtype)
    grad = batch.dense(grad_output[None] if batch.unbatched else grad_output)
    _kernels.avg_pool_backward(windows, grad, grad_input)
    return batch.result(grad_input)


def avg_pool2d(
    input,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
):
    """Average over the windows of each H x W plane.

    Parameters
    ----------
    input : ndarray, (N, C, H, W) or (C, H, W)
        float32 or float64, any strides.
    kernel_size, stride, padding, ceil_mode
        As in `max_pool2d`, but the padding is zeros.
    count_include_pad : bool
        Whether the zeros of the padding count, or only the pixels of the input do.
    divisor_override : int, optional
        What the sums are divided by instead of the number of pixels; not zero.

    Returns
    -------
    ndarray, (N, C, OH, OW) or (C, OH, OW)

    Raises
    ------
    ValueError
        If a size is not positive, padding is more than half of the kernel, or the output has no pixel.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.avg_pool2d(np.arange(16.0).reshape(1, 4, 4), 2)
    array([[[ 2.5,  4.5],
            [10.5, 12.5]]])
    """
    op = "avg_pool2d"
    batch = Batch.of(op, "input", input)
    average = _average_options(op, count_include_pad, divisor_override)
    return _avg_pool(batch, ordinary_windows(op, batch, kernel_size, stride, padding, 1, ceil_mode, average), input)


def avg_pool2d_backward(
    grad_output,
    input_shape,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
):
    """Gradient of `avg_pool2d`: each element of grad_output is shared out evenly over its window.

    Parameters
    ----------
    grad_output : ndarray, (N, C, OH, OW) or (C, OH, OW)
    input_shape : tuple of int
        (N, C, H, W) or (C, H, W).
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        As the forward pass had them.

    Returns
    -------
    ndarray
        grad_input, of shape `input_shape`, in the memory format of grad_output.
    """
    op = "avg_pool2d_backward"
    average = _average_options(op, count_include_pad, divisor_override)
    return _avg_pool_backward(
        op,
        grad_output,
        input_shape,
        lambda batch: ordinary_windows(op, batch, kernel_size, stride, padding, 1, ceil_mode, average),
    )


def adaptive_avg_pool2d(input, output_size):
    """Average over windows that cut each plane into an output of the size asked for.

    Parameters
    ----------
    input : ndarray, (N, C, H, W) or (C, H, W)
        float32 or float64, any strides.
    output_size : int, None or a pair of these
        OH and OW, as in `adaptive_max_pool2d`; 1 averages each plane.

    Returns
    -------
    ndarray, (N, C, OH, OW) or (C, OH, OW)

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.adaptive_avg_pool2d(np.arange(6.0).reshape(1, 2, 3), 1)
    array([[[2.5]]])
    """
    batch = Batch.of("adaptive_avg_pool2d", "input", input)
    return _avg_pool(batch, adaptive_windows("adaptive_avg_pool2d", batch, output_size), input)


def adaptive_avg_pool2d_backward(grad_output, input_shape):
    """Gradient of `adaptive_avg_pool2d`; the output size is grad_output's."""
    op = "adaptive_avg_pool2d_backward"
    return _avg_pool_backward(
        op, grad_output, input_shape, lambda batch: adaptive_windows(op, batch, grad_output.shape[-2:])
    )


# ---- The inverse of maximum pooling ------------------------------------------------------------------


def _unpool_size(op, input, kernel_size, stride, padding, output_size):
    kernel = pair(op, "kernel_size", kernel_size, 1)
    stride = stride_of(op, stride, kernel)
    padding = pair(op, "padding", padding, 0)
    default = tuple((x - 1) * s + k - 2 * p for x, k, s, p in zip(input.shape[-2:], kernel, stride, padding))
    if output_size is None:
        size = default
    else:
        sizes = ints(op, "output_size", output_size)
        if len(sizes) not in (2, 4):
            raise ValueError(f"{op}: output_size must have 2 or 4 ints; got {shown(output_size)}")
        size = sizes[-2:]
        if any(abs(v - d) >= s for v, d, s in zip(size, default, stride)):
            raise ValueError(f"{op}: output_size must differ by less than stride={stride} from {default}; got {size}")
    if any(v < 1 for v in size):
        raise ValueError(f"{op}: the output must have at least one pixel; got {size}")
    check_limit(op, "the output's size", size, size)
    return size


def max_unpool2d(input, indices, kernel_size, stride=None, padding=0, output_size=None):
    """Put each element back where `max_pool2d` found it, among zeros.

    Parameters
    ----------
    input : ndarray, (N, C, H, W) or (C, H, W)
        float32 or float64, any strides.
    indices : ndarray of int64, the shape of input
        What ``max_pool2d(..., return_indices=True)`` returned. Of equal ones the last element stays.
    kernel_size, stride, padding
        Those of the pooling: they give the output's size where `output_size` does not.
    output_size : sequence of int, optional
        (OH, OW) or (N, C, OH, OW), less than a stride from the default.

    Returns
    -------
    ndarray, (N, C, OH, OW) or (C, OH, OW)

    Raises
    ------
    ValueError
        If an index lies outside the output's planes, or a size is not possible.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> pooled, indices = F.max_pool2d(np.arange(16.0).reshape(1, 4, 4), 2, return_indices=True)
    >>> F.max_unpool2d(pooled, indices, 2)
    array([[[ 0.,  0.,  0.,  0.],
            [ 0.,  5.,  0.,  7.],
            [ 0.,  0.,  0.,  0.],
            [ 0., 13.,  0., 15.]]])
    """
    op = "max_unpool2d"
    check_array(op, "input", input, (3, 4))
    Batch.of(op, "input", input).check_not_empty(op, "input")
    check_indices(op, indices, input.shape, "input")
    size = _unpool_size(op, input, kernel_size, stride, padding, output_size)
    batch = Batch(op, "output", (*input.shape[:-2], *size), input.ndim == 4 and wants_channels_last(input))
    return _scatter(op, input, indices, batch, True)


def max_unpool2d_backward(grad_output, indices):
    """Gradient of `max_unpool2d`: grad_output at the indices.

    Parameters
    ----------
    grad_output : ndarray, (N, C, OH, OW) or (C, OH, OW)
    indices : ndarray of int64, (N, C, H, W) or (C, H, W)

    Returns
    -------
    ndarray
        grad_input, of the shape of `indices`, in the memory format of grad_output.
    """
    op = "max_unpool2d_backward"
    batch = Batch.of(op, "grad_output", grad_output)
    check_indices(op, indices, (*grad_output.shape[:-2], *getattr(indices, "shape", ())[-2:]), "the input")
    if batch.unbatched:
        grad_output, indices = grad_output[None], indices[None]
    height, width = indices.shape[-2:]
    grad_input = batch.empty(height, width, grad_output.dtype)
    sizes = (batch.images, batch.height * batch.width, height * width, batch.channels)
    try:
        _kernels.pool_gather(sizes, batch.dense(grad_output), batch.dense(indices), grad_input)
    except IndexError:
        _raise_bad_index(op, indices, batch.height, batch.width)
    return batch.result(grad_input)
