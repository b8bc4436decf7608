"""Convolution layers."""

import math

import numpy as np

from pyconv import functional as F
from pyconv import random
from pyconv.functional._arguments import count, is_sequence, layer_flag, shown
from pyconv.functional.conv import _convolve, _convolve_backward
from pyconv.nn.module import Module
from pyconv.nn.parameter import Parameter

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def _pair(op, name, value, least):
    values = tuple(value) if is_sequence(value) else (value, value)
    if len(values) != 2:
        raise ValueError(f"{op}: {name} must be an int or a pair; got {shown(value)}")
    return tuple(count(op, name, item, least) for item in values)


class _ConvNd(Module):
    """What both convolutions share: their arguments and parameters."""

    def _setup(self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode):
        op = type(self).__name__
        self.groups = count(op, "groups", groups, 1)
        self.in_channels = count(op, "in_channels", in_channels, 0)
        self.out_channels = count(op, "out_channels", out_channels, 0)
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise ValueError(f"{op}: groups must divide {name}; got {name}={channels}, groups={groups}")
        self.kernel_size = _pair(op, "kernel_size", kernel_size, 1)
        self.stride = _pair(op, "stride", stride, 1)
        self.dilation = _pair(op, "dilation", dilation, 1)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"{op}: padding must be an int, a pair, 'same' or 'valid'; got {padding!r}")
            if padding == "same" and self.stride != (1, 1):
                raise ValueError(f"{op}: padding='same' needs stride 1; got stride={stride}")
            self.padding = padding
        else:
            self.padding = _pair(op, "padding", padding, 0)
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"{op}: padding_mode must be one of {', '.join(PADDING_MODES)}; got {shown(padding_mode)}")
        self.padding_mode = padding_mode

    def _set_parameters(self, weight_shape, bias, dtype):
        """Weight and bias, uniform in +-1/sqrt(fan_in): PyTorch's kaiming_uniform(a=sqrt(5))."""
        fan_in = math.prod(weight_shape[1:])
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        dtype = np.dtype(dtype or np.float32)
        self.weight = Parameter(random.uniform(bound, weight_shape, dtype))
        bias = layer_flag(type(self).__name__, "bias", bias)
        self.register_parameter("bias", Parameter(random.uniform(bound, self.out_channels, dtype)) if bias else None)

    def extra_repr(self):
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0, 0):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if getattr(self, "output_padding", (0, 0)) != (0, 0):
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


class Conv2d(_ConvNd):
    """2-D convolution (cross-correlation) over (N, C, H, W) or (C, H, W), as ``torch.nn.Conv2d``.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, dilation : int or pair (height, width)
    padding : int, pair, ``"same"`` or ``"valid"``
        What is added on both sides; "same" keeps the image's size and needs stride 1.
    groups : int
        Divides the channels; ``groups=in_channels`` is a depthwise convolution.
    bias : bool
    padding_mode : "zeros", "reflect", "replicate" or "circular"
    dtype : float32 or float64, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    weight : Parameter (out_channels, in_channels / groups, kernel height, kernel width)
    bias : Parameter (out_channels,) or None

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.Conv2d(3, 8, 3, stride=2, padding=1)(np.zeros((1, 3, 32, 32), np.float32)).shape
    (1, 8, 16, 16)
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        padding_mode="zeros",
        dtype=None,
    ):
        super().__init__()
        self._setup(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        self._set_parameters((self.out_channels, self.in_channels // self.groups, *self.kernel_size), bias, dtype)

    def _margins(self):
        """(left, right, top, bottom), as `functional.pad` takes them."""
        if self.padding == "valid":
            return (0, 0, 0, 0)
        if self.padding == "same":
            (top, bottom), (left, right) = (
                (d * (k - 1) // 2, d * (k - 1) - d * (k - 1) // 2) for k, d in zip(self.kernel_size, self.dilation)
            )
            return (left, right, top, bottom)
        height, width = self.padding
        return (width, width, height, height)

    def forward(self, input, relu=False, remake=None):
        """The output; `relu` gives max(output, 0) in the same pass. `remake` is a function that returns the
        input once more, for the backward, so that the input need not be kept."""
        bias = None if self.bias is None else self.bias.data
        x, padding = input, self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(input, self._margins(), mode=self.padding_mode), 0
        options = self.stride, padding, self.dilation, self.groups
        output = _convolve("conv2d", x, self.weight.data, bias, *options, relu=relu)
        self._save(input.shape, remake or x, padding, output if relu else None)
        return output

    def backward(self, grad_output, residual=None):
        """The gradient of the input; `residual` is added to it in the same pass."""
        input_shape, x, padding, rectified = self._take()
        x = x() if callable(x) else x
        if rectified is not None:
            grad_output = F.relu_backward(grad_output, rectified)
        padded = self.padding_mode != "zeros"
        grad_input, grad_weight, grad_bias = _convolve_backward(
            grad_output,
            x,
            self.weight.data,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            self._needs(self.weight, self.bias),
            None if padded else residual,
        )
        self._accumulate(self.weight, grad_weight)
        self._accumulate(self.bias, grad_bias)
        if grad_input is not None and padded:
            grad_input = F.pad_backward(grad_input, input_shape, self._margins(), mode=self.padding_mode)
            if residual is not None:
                grad_input = F.add(grad_input, residual)
        return grad_input


class ConvTranspose2d(_ConvNd):
    """Transposed 2-D convolution, the gradient of `Conv2d` as a layer; as ``torch.nn.ConvTranspose2d``.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, padding, output_padding, dilation : int or pair (height, width)
        The output's height is (H - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1.
    groups : int
    bias : bool
    padding_mode : "zeros"
    dtype : float32 or float64, optional

    Attributes
    ----------
    weight : Parameter (in_channels, out_channels / groups, kernel height, kernel width)
    bias : Parameter (out_channels,) or None

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.ConvTranspose2d(8, 3, 2, stride=2)(np.zeros((1, 8, 16, 16), np.float32)).shape
    (1, 3, 32, 32)
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        output_padding=0,
        groups=1,
        bias=True,
        dilation=1,
        padding_mode="zeros",
        dtype=None,
    ):
        super().__init__()
        if padding_mode != "zeros" or isinstance(padding, str):
            raise ValueError(
                "ConvTranspose2d: padding must be an int or a pair and padding_mode 'zeros'; "
                f"got padding={shown(padding)}, padding_mode={shown(padding_mode)}"
            )
        self._setup(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        self.output_padding = _pair("ConvTranspose2d", "output_padding", output_padding, 0)
        self._set_parameters((self.in_channels, self.out_channels // self.groups, *self.kernel_size), bias, dtype)

    def _output_padding(self, input, output_size):
        """What reaches `output_size`, (H, W) or with the leading dimensions, from the smallest output."""
        if output_size is None:
            return self.output_padding
        smallest = [
            (extent - 1) * s - 2 * p + d * (k - 1) + 1
            for extent, s, p, d, k in zip(input.shape[-2:], self.stride, self.padding, self.dilation, self.kernel_size)
        ]
        extra = tuple(want - have for want, have in zip(tuple(output_size)[-2:], smallest))
        if len(extra) != 2 or any(not 0 <= e < s for e, s in zip(extra, self.stride)):
            largest = [have + s - 1 for have, s in zip(smallest, self.stride)]
            raise ValueError(
                f"ConvTranspose2d: output_size must be between {smallest} and {largest}; got {output_size}"
            )
        return extra

    def forward(self, input, output_size=None):
        extra = self._output_padding(input, output_size)
        output = F.conv_transpose2d(
            input,
            self.weight.data,
            None if self.bias is None else self.bias.data,
            self.stride,
            self.padding,
            extra,
            self.groups,
            self.dilation,
        )
        self._save(input, extra)
        return output

    def backward(self, grad_output):
        input, extra = self._take()
        grad_input, grad_weight, grad_bias = F.conv_transpose2d_backward(
            grad_output,
            input,
            self.weight.data,
            self.stride,
            self.padding,
            extra,
            self.groups,
            self.dilation,
            needs=self._needs(self.weight, self.bias),
        )
        self._accumulate(self.weight, grad_weight)
        self._accumulate(self.bias, grad_bias)
        return grad_input
