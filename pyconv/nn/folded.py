"""Convolutions with the batch norm behind them folded in, for when no backward will follow.

y = (x * w + b - mean) s + beta = x * (w s) + ((b - mean) s + beta), with s = gamma / sqrt(var + eps).
"""

import math

import numpy as np

from pyconv import _kernels
from pyconv import functional as F
from pyconv.functional._arrays import channels_last
from pyconv.functional.conv import PreparedWeight, _convolve, _plan
from pyconv.nn.conv import Conv2d
from pyconv.nn.module import Module
from pyconv.nn.parameter import Parameter


def can_fold(conv, norm):
    """Whether the norm goes by running statistics of the convolution's dtype."""
    return norm.running_mean is not None and norm.running_mean.dtype == conv.weight.dtype


def fold(conv, norm):
    """The weight and bias of the one convolution that gives norm(conv(x)) in evaluation."""
    weight, mean = conv.weight.data, norm.running_mean
    scale = 1 / np.sqrt(norm.running_var.astype(np.float64) + norm.eps)
    if norm.weight is not None:
        scale *= norm.weight.data
    bias = -mean * scale if conv.bias is None else (conv.bias.data - mean) * scale
    if norm.bias is not None:
        bias += norm.bias.data
    return weight * scale.astype(weight.dtype).reshape(-1, 1, 1, 1), bias.astype(weight.dtype)


def check_shortcut(shape, shortcut):
    """Raise unless a residual's shortcut, where there is one, has the shape that its main branch gives."""
    if shortcut is not None and shortcut.shape != shape:
        raise ValueError(f"Residual: main and shortcut must give the same shape; got {shape} and {shortcut.shape}")


def _convolve_and_clamp(input, weight, bias, options, relu, residual, ceiling):
    """relu(conv2d(...) + residual), with a ceiling that is a number at most that."""
    residual = None if residual is None else channels_last(residual)
    clamp = not math.isnan(ceiling)
    output = _convolve("conv2d", input, weight, bias, *options, residual, relu and not clamp)
    if clamp:
        _kernels.unary(_kernels.UNARY["hardtanh"], output, 0.0, ceiling, output)  # nobody else has it yet
    return output


class ConvNorm(Module):
    """A convolution and the batch norm behind it as one convolution.

    Folding costs a pass over the weights and saves one over the output, so it is done where the output is
    the larger. Nothing is kept between calls that a change of the weights could make stale.
    """

    def __init__(self, conv, norm):
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, input, relu=False, residual=None, ceiling=math.nan):
        conv, norm = self.conv, self.norm
        weight = conv.weight.data
        options = conv.stride, conv.padding, conv.dilation, conv.groups
        fits = input.ndim == 4 and not norm.training and can_fold(conv, norm)
        fits = fits and (residual is None or residual.dtype == weight.dtype)
        shape = _plan("conv2d", input.shape, weight.shape, *options)[1] if fits else None
        if not fits or weight.size > math.prod(shape):
            output = conv(input)
            check_shortcut(output.shape, residual)
            return norm(output, relu, residual, ceiling)
        check_shortcut(shape, residual)
        return _convolve_and_clamp(input, *fold(conv, norm), options, relu, residual, ceiling)


class PreparedConv(Conv2d):
    """A convolution whose weight will not change, with the batch norm behind it if there was one.

    Its arrays are copies of its own, unless `copy` is false, and are not trained, so what the kernels make of them
    can be kept. Its attributes are those of the convolution that it is.
    """

    def __init__(self, conv, norm=None, copy=True):
        Module.__init__(self)
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
                     "padding_mode"):  # fmt: skip
            setattr(self, name, getattr(conv, name))
        if norm is None:
            weight, bias = (None if part is None else part.data for part in (conv.weight, conv.bias))
            if copy:
                weight, bias = weight.copy(), None if bias is None else bias.copy()
        else:
            weight, bias = fold(conv, norm)
        self.folded = norm is not None
        self.options = self.stride, self.padding if self.padding_mode == "zeros" else 0, self.dilation, self.groups
        self.prepared = PreparedWeight(weight)
        self.weight = Parameter(self.prepared.data, requires_grad=False)
        self.register_parameter("bias", None if bias is None else Parameter(bias, requires_grad=False))

    def forward(self, input, relu=False, residual=None, ceiling=math.nan):
        x = input if self.padding_mode == "zeros" else F.pad(input, self._margins(), mode=self.padding_mode)
        if residual is not None and x.ndim == residual.ndim == 3:
            return self.forward(input[None], relu, residual[None], ceiling)[0]
        if residual is not None:
            check_shortcut(_plan("conv2d", x.shape, self.prepared.data.shape, *self.options)[1], residual)
        bias = None if self.bias is None else self.bias.data
        return _convolve_and_clamp(x, self.prepared, bias, self.options, relu, residual, ceiling)

    def extra_repr(self):
        return super().extra_repr() + ", batch norm folded" * self.folded
