"""What every test of a number needs: arrays in every legal memory layout, and how close is close.

PyTorch is the oracle: `assert_close` takes its tensors and NumPy arrays alike.
"""

import numpy as np
import torch

# Largest error allowed, relative to the largest magnitude of the expected array: sums of a few thousand
# products round by a few ULP of that, whatever the order.
RTOL = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-12}


def to_numpy(array):
    """A tensor's values as a NumPy array; anything else as it is."""
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


def to_torch(array, requires_grad=False):
    """A tensor of its own memory with the values of `array`, contiguous."""
    return torch.tensor(np.array(array, order="C")).requires_grad_(requires_grad)


def conv2d_passes(x, weight, bias, grad_output, stride, padding, dilation, groups):
    """PyTorch's convolution and its gradients, in float64; the output's shape where there is no grad_output."""
    tensors = [to_torch(a.astype(np.float64), requires_grad=True) for a in (x, weight, bias)]
    output = torch.nn.functional.conv2d(*tensors, stride, padding, dilation, groups)
    if grad_output is None:
        return tuple(output.shape)
    output.backward(to_torch(grad_output.astype(np.float64)))
    return [output.detach().numpy(), *(tensor.grad.numpy() for tensor in tensors)]


def assert_close(actual, expected, rtol=None, err_msg=""):
    """Check shape, dtype, NaN and infinity exactly, and values to `rtol` of the largest expected one.

    rtol: None takes RTOL of actual's dtype; 0 asks for equality. An `actual` of all zeros where
    something else is expected fails at any tolerance.
    """
    actual, expected = to_numpy(actual), to_numpy(expected)
    assert actual.shape == expected.shape, f"{err_msg} shape {actual.shape}, expected {expected.shape}"
    if expected.dtype.kind == "f" and expected.dtype.itemsize <= actual.dtype.itemsize:
        assert actual.dtype == expected.dtype, f"{err_msg} dtype {actual.dtype}, expected {expected.dtype}"
    if actual.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected, err_msg)
        return
    rtol = RTOL[actual.dtype] if rtol is None else rtol
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite], err_msg)
    actual, expected = actual[finite].astype(np.float64), expected[finite].astype(np.float64)
    if not expected.size:
        return
    assert np.isfinite(actual).all(), f"{err_msg} NaN or infinity where finite values are expected"
    scale = np.abs(expected).max()
    assert actual.any() or not scale > 0, f"{err_msg} all zero"
    error = np.abs(actual - expected).max() / (scale or 1)
    assert error <= rtol * (scale > 0), f"{err_msg} relative error {error:.3g}, allowed {rtol:.3g}"


# ---- Memory layouts -------------------------------------------------------------------------------


def channels_last(array):
    if array.ndim != 4:
        return array.copy()
    return array.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)


def _strided(array):
    """Every second element of a larger array, in every dimension."""
    whole = np.full([2 * extent + 1 for extent in array.shape], np.nan, array.dtype)
    view = whole[tuple(slice(0, 2 * extent, 2) for extent in array.shape)]
    view[...] = array
    return view


def _cropped(array):
    """The inside of a larger array whose border is NaN."""
    whole = np.full([extent + 2 for extent in array.shape], np.nan, array.dtype)
    view = whole[(slice(1, -1),) * array.ndim]
    view[...] = array
    return view


def _reversed(array):
    """Negative strides in every dimension."""
    backwards = (slice(None, None, -1),) * array.ndim
    return array[backwards].copy()[backwards]


def _transposed(array):
    """Fortran order."""
    return array.T.copy().T


def _misaligned(array):
    """One byte past an aligned address."""
    memory = np.empty(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def _read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


# name -> a function that returns a new array of the same shape and values in that layout
LAYOUTS = {
    "contiguous": np.copy,
    "channels_last": channels_last,
    "strided": _strided,
    "cropped": _cropped,
    "reversed": _reversed,
    "transposed": _transposed,
    "misaligned": _misaligned,
    "read_only": _read_only,
}


class Guarded:
    """An array for a kernel to write to, between two runs of guard bytes.

    >>> guarded = Guarded((2, 3), np.float32)
    >>> guarded.array[...] = 1
    >>> guarded.check()
    """

    GUARD, BYTE = 512, 0xA5

    def __init__(self, shape, dtype, channels_last=False):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        self.memory = np.full(size + 2 * self.GUARD, self.BYTE, np.uint8)
        inside = self.memory[self.GUARD : self.GUARD + size].view(dtype)
        if channels_last:
            n, c, h, w = shape
            self.array = inside.reshape(n, h, w, c).transpose(0, 3, 1, 2)
        else:
            self.array = inside.reshape(shape)

    def check(self):
        """Fail where a guard byte was written to."""
        assert (self.memory[: self.GUARD] == self.BYTE).all(), "written before the array"
        assert (self.memory[-self.GUARD :] == self.BYTE).all(), "written behind the array"
