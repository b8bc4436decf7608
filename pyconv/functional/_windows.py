"""Images and windows as the pooling kernels see them.

A channels-last input is pooled as it is. Any other is pooled as a batch of planes of one channel each, for
which the kernels have a path of their own, so nothing is converted on the way in or out.
"""

import numpy as np

from pyconv import _kernels
from pyconv.functional._arguments import as_key, check_limit, flag, ints, is_int, is_sequence, pair, remembered, shown
from pyconv.functional._arrays import channels_last, check_array, contiguous, is_array, wants_channels_last

# ---- Images at the door ----------------------------------------------------------------------------


class Batch:
    """A 3-D or 4-D shape as the kernels see it: (images, height, width, channels)."""

    def __init__(self, op, name, shape, is_channels_last):
        if len(shape) not in (3, 4):
            raise ValueError(f"{op}: {name} must have 3 or 4 dimensions; got shape {shape}")
        self.unbatched = len(shape) == 3
        n, c, self.height, self.width = (1, *shape) if self.unbatched else shape
        self.leading, self.is_channels_last = (n, c), is_channels_last
        self.images, self.channels = (n, c) if is_channels_last else (n * c, 1)

    @classmethod
    def of(cls, op, name, array):
        check_array(op, name, array, (3, 4))
        return cls(op, name, array.shape, array.ndim == 4 and wants_channels_last(array))

    @property
    def sizes(self):
        return self.images, self.height, self.width, self.channels

    def check_not_empty(self, op, name):
        if 0 in (self.leading[1], self.height, self.width):
            shape = (*self.leading, self.height, self.width)[self.unbatched :]
            raise ValueError(f"{op}: {name} must have no empty dimension except the batch; got shape {shape}")

    def dense(self, array):
        """An array of this batch's images, in this batch's memory format."""
        if self.is_channels_last:
            return channels_last(array)
        return contiguous(array)

    def empty(self, height, width, dtype):
        """A fresh (N, C, height, width) in this batch's memory format."""
        return _kernels.empty((*self.leading, height, width), dtype, self.is_channels_last)

    def result(self, array):
        return array[0] if self.unbatched else array


def check_indices(op, indices, shape, name):
    if not is_array(indices):
        raise TypeError(f"{op}: indices must be a numpy.ndarray; got {type(indices).__name__}")
    if indices.dtype != np.int64 or not indices.dtype.isnative:
        raise TypeError(f"{op}: indices must have dtype int64; got {indices.dtype}")
    if indices.shape != shape:
        raise ValueError(f"{op}: indices must have the shape of {name}, {shape}; got {indices.shape}")


def check_shape(op, array, wanted):
    """Raise unless a gradient has the output's shape."""
    check_array(op, "grad_output", array)
    if array.shape != wanted:
        raise ValueError(f"{op}: grad_output must have the shape of the output, {wanted}; got {array.shape}")


def checked_shape(op, shape):
    shape = ints(op, "input_shape", shape)
    if len(shape) not in (3, 4):
        raise ValueError(f"{op}: input_shape must be the shape of a 3-D or 4-D input; got {shape}")
    return shape


# ---- Windows ---------------------------------------------------------------------------------------


def ordinary_windows(op, batch, kernel_size, stride, padding, dilation, ceil_mode, average=None):
    """The windows that the kernels are told of; average: (count_include_pad, divisor_override)."""
    batch.check_not_empty(op, "input")
    options = map(as_key, (kernel_size, stride, padding, dilation))
    return _geometry(op, batch.sizes, *options, flag(op, "ceil_mode", ceil_mode), average)


# Options are checked once: afterwards the same ones, on the same shape, find their windows here.
@remembered
def _geometry(op, sizes, kernel_size, stride, padding, dilation, ceil_mode, average):
    _, height, width, _ = sizes
    kernel = pair(op, "kernel_size", kernel_size, 1)
    stride = stride_of(op, stride, kernel)
    padding = pair(op, "padding", padding, 0)
    dilation = pair(op, "dilation", dilation, 1)
    if any(2 * p > k for p, k in zip(padding, kernel)):
        raise ValueError(
            f"{op}: padding must be at most half of kernel_size; got padding={padding}, kernel_size={kernel}"
        )
    output = []
    for extent, k, s, p, d in zip((height, width), kernel, stride, padding, dilation):
        room = extent + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil_mode else 0)
        size = room // s + 1
        if ceil_mode and (size - 1) * s >= extent + p:
            size -= 1  # a window must begin in the input or in its left padding
        if size < 1:
            raise ValueError(
                f"{op}: the output must have at least one pixel; got an input of {height} x {width} "
                f"with kernel_size={kernel}, stride={stride}, padding={padding}, dilation={dilation}"
            )
        if d > 1 and p and any(_is_empty(i * s - p, k, d, extent) for i in range(min(-(-p // s), size))):
            raise ValueError(
                f"{op}: every window must hold a pixel; got an input of {height} x {width} "
                f"with kernel_size={kernel}, stride={stride}, padding={padding}, dilation={dilation}"
            )
        output.append(size)
    windows = {"input": sizes, "output": tuple(output), "kernel": kernel, "stride": stride}
    windows |= {"padding": padding, "dilation": dilation}
    if average is not None:
        windows["count_include_pad"], windows["divisor"] = average
    return windows


def stride_of(op, stride, kernel):
    """The stride as a pair: the kernel's size where it is left out."""
    return kernel if is_left_out(stride) else pair(op, "stride", stride, 1)


def is_left_out(stride):
    """Whether a stride is None or empty, as PyTorch has it."""
    return stride is None or (is_sequence(stride) and len(stride) == 0)


def _is_empty(origin, kernel, dilation, extent):
    first = -(-max(-origin, 0) // dilation)
    return first >= kernel or origin + first * dilation >= extent


def adaptive_windows(op, batch, output_size):
    """The windows of adaptive pooling; ordinary ones where the sizes divide evenly."""
    values = output_size if is_sequence(output_size) else (output_size, output_size)
    if len(values) != 2 or not all(v is None or is_int(v) for v in values):
        raise TypeError(f"{op}: output_size must be an int, None or a pair of these; got {shown(output_size)}")
    extents = batch.height, batch.width
    output = tuple(extent if v is None else int(v) for v, extent in zip(values, extents))
    if any(v < 0 for v in output):
        raise ValueError(f"{op}: output_size must be non-negative; got {shown(output_size)}")
    check_limit(op, "output_size", output, output_size)
    batch.check_not_empty(op, "input")
    windows = {"input": batch.sizes, "output": output}
    if all(v and extent % v == 0 for v, extent in zip(output, extents)):
        kernel = tuple(extent // v for v, extent in zip(output, extents))
        return windows | {"kernel": kernel, "stride": kernel}
    return windows | {"adaptive": True}
