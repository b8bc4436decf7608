"""Pooling layers."""

from pyconv import functional as F
from pyconv.functional._arguments import flag
from pyconv.functional._windows import check_shape, is_left_out
from pyconv.functional.pooling import max_pool2d_restoring, max_pool2d_saving
from pyconv.nn.grad_mode import is_grad_enabled
from pyconv.nn.module import Module


def _stride_of(kernel_size, stride):
    return kernel_size if is_left_out(stride) else stride


class MaxPool2d(Module):
    """Maximum over windows of (N, C, H, W) or (C, H, W), as ``torch.nn.MaxPool2d``.

    Parameters
    ----------
    kernel_size, stride, padding, dilation : int or pair (height, width)
        The stride is the kernel size when None; the padding, of -infinity, is at most half of the kernel.
    return_indices : bool
        Whether forward returns (output, indices) for `MaxUnpool2d`; backward takes output's gradient.
    ceil_mode : bool
        Whether the last windows may reach beyond the padded input.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.MaxPool2d(2)(np.zeros((1, 3, 32, 32), np.float32)).shape
    (1, 3, 16, 16)
    """

    def __init__(self, kernel_size, stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, _stride_of(kernel_size, stride)
        self.padding, self.dilation = padding, dilation
        self.return_indices = flag("MaxPool2d", "return_indices", return_indices)
        self.ceil_mode = flag("MaxPool2d", "ceil_mode", ceil_mode)

    def forward(self, input, relu=False):
        """The maxima; `relu`, not to be had with indices, gives max(output, 0) in the same pass."""
        options = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        if self.return_indices:
            output, indices = F.max_pool2d(input, *options, return_indices=True)
            self._save(input.shape, indices)
            return output, indices
        if not is_grad_enabled():
            output = F.max_pool2d(input, *options)
            return F.relu(output) if relu else output
        output, saved = max_pool2d_saving(input, *options, relu=relu)
        self._save(None, saved)
        return output

    def backward(self, grad_output):
        input_shape, saved = self._take()
        if not self.needs_input_grad:
            return None
        if input_shape is not None:
            return F.max_pool2d_backward(grad_output, saved, input_shape)
        return max_pool2d_restoring(grad_output, saved)

    def extra_repr(self):
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """Average over windows of (N, C, H, W) or (C, H, W), as ``torch.nn.AvgPool2d``.

    Parameters
    ----------
    kernel_size, stride, padding : int or pair (height, width)
        The stride is the kernel size when None; the padding, of zeros, is at most half of the kernel.
    ceil_mode : bool
        Whether the last windows may reach beyond the padded input.
    count_include_pad : bool
        Whether the zeros of the padding count.
    divisor_override : int, optional
        What the sums are divided by instead of the number of pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.AvgPool2d(2)(np.ones((1, 1, 2, 4), np.float32))
    array([[[[1., 1.]]]], dtype=float32)
    """

    def __init__(
        self,
        kernel_size,
        stride=None,
        padding=0,
        ceil_mode=False,
        count_include_pad=True,
        divisor_override=None,
    ):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, _stride_of(kernel_size, stride), padding
        self.ceil_mode = flag("AvgPool2d", "ceil_mode", ceil_mode)
        self.count_include_pad = flag("AvgPool2d", "count_include_pad", count_include_pad)
        self.divisor_override = divisor_override

    def _options(self):
        return (
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def forward(self, input):
        output = F.avg_pool2d(input, *self._options())
        self._save(input.shape)
        return output

    def backward(self, grad_output):
        (input_shape,) = self._take()
        if not self.needs_input_grad:
            return None
        return F.avg_pool2d_backward(grad_output, input_shape, *self._options())

    def extra_repr(self):
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """Average over windows that give the output's size, as ``torch.nn.AdaptiveAvgPool2d``.

    Parameters
    ----------
    output_size : int, None or a pair of these
        Height and width of the output; None keeps the input's.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.AdaptiveAvgPool2d(1)(np.ones((1, 3, 7, 5), np.float32)).shape
    (1, 3, 1, 1)
    """

    def __init__(self, output_size):
        super().__init__()
        self.output_size = output_size

    def forward(self, input):
        output = F.adaptive_avg_pool2d(input, self.output_size)
        self._save(input.shape, output.shape)
        return output

    def backward(self, grad_output):
        input_shape, output_shape = self._take()
        check_shape("AdaptiveAvgPool2d.backward", grad_output, output_shape)
        return F.adaptive_avg_pool2d_backward(grad_output, input_shape) if self.needs_input_grad else None

    def extra_repr(self):
        return f"output_size={self.output_size}"


class AdaptiveMaxPool2d(Module):
    """Maximum over windows that give the output's size, as ``torch.nn.AdaptiveMaxPool2d``.

    Parameters
    ----------
    output_size : int, None or a pair of these
        Height and width of the output; None keeps the input's.
    return_indices : bool
        Whether forward returns (output, indices).

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.AdaptiveMaxPool2d((2, None))(np.ones((1, 3, 7, 5), np.float32)).shape
    (1, 3, 2, 5)
    """

    def __init__(self, output_size, return_indices=False):
        super().__init__()
        self.output_size = output_size
        self.return_indices = flag("AdaptiveMaxPool2d", "return_indices", return_indices)

    def forward(self, input):
        needs_indices = self.return_indices or is_grad_enabled()
        if not needs_indices:
            return F.adaptive_max_pool2d(input, self.output_size)
        output, indices = F.adaptive_max_pool2d(input, self.output_size, return_indices=True)
        self._save(input.shape, indices)
        return (output, indices) if self.return_indices else output

    def backward(self, grad_output):
        input_shape, indices = self._take()
        if not self.needs_input_grad:
            return None
        return F.adaptive_max_pool2d_backward(grad_output, indices, input_shape)

    def extra_repr(self):
        return f"output_size={self.output_size}"


class GlobalAvgPool2d(AdaptiveAvgPool2d):
    """The average of each H x W plane: (N, C, H, W) becomes (N, C, 1, 1)."""

    def __init__(self):
        super().__init__(1)


class GlobalMaxPool2d(AdaptiveMaxPool2d):
    """The maximum of each H x W plane: (N, C, H, W) becomes (N, C, 1, 1)."""

    def __init__(self):
        super().__init__(1)


class MaxUnpool2d(Module):
    """Put pooled elements back in their places among zeros, as ``torch.nn.MaxUnpool2d``.

    Parameters
    ----------
    kernel_size, stride, padding : int or pair (height, width)
        Those of the `MaxPool2d` whose output and indices forward takes.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> output, indices = nn.MaxPool2d(2, return_indices=True)(np.ones((1, 1, 4, 4), np.float32))
    >>> nn.MaxUnpool2d(2)(output, indices).shape
    (1, 1, 4, 4)
    """

    def __init__(self, kernel_size, stride=None, padding=0):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, _stride_of(kernel_size, stride), padding

    def forward(self, input, indices, output_size=None):
        output = F.max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)
        self._save(indices)
        return output

    def backward(self, grad_output):
        (indices,) = self._take()
        return F.max_unpool2d_backward(grad_output, indices) if self.needs_input_grad else None

    def extra_repr(self):
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
