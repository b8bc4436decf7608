"""Activation layers, as ``torch.nn``'s: elementwise functions of any shape, and softmax along a dimension.

`inplace` is accepted for PyTorch's sake and ignored: a layer never writes to its input.
"""

import numpy as np

from pyconv import functional as F
from pyconv.functional._arguments import count, number
from pyconv.nn.module import Module
from pyconv.nn.parameter import Parameter


class _Activation(Module):
    """A layer that is one function of its input; `_options` are the function's arguments by name."""

    _function = _function_backward = None
    _keeps = "input"  # which the backward takes, or "output", which the layer behind often keeps anyway

    def __init__(self, **options):
        super().__init__()
        self._options = options

    def forward(self, input):
        output = type(self)._function(input, **self._options)
        self._save(output if self._keeps == "output" else input)
        return output

    def backward(self, grad_output):
        (kept,) = self._take()
        if not self.needs_input_grad:
            return None
        return type(self)._function_backward(grad_output, **{self._keeps: kept}, **self._options)

    def extra_repr(self):
        return ", ".join(f"{name}={value!r}" for name, value in self._options.items())


class ReLU(_Activation):
    """max(x, 0). See `pyconv.functional.relu`."""

    _function = staticmethod(F.relu)
    _function_backward = staticmethod(F.relu_backward)

    def __init__(self, inplace=False):
        super().__init__()


class ReLU6(_Activation):
    """min(max(x, 0), 6). See `pyconv.functional.relu6`."""

    _function = staticmethod(F.relu6)
    _function_backward = staticmethod(F.relu6_backward)

    def __init__(self, inplace=False):
        super().__init__()


class LeakyReLU(_Activation):
    """x, or negative_slope x below 0. See `pyconv.functional.leaky_relu`."""

    _function = staticmethod(F.leaky_relu)
    _function_backward = staticmethod(F.leaky_relu_backward)

    def __init__(self, negative_slope=0.01, inplace=False):
        super().__init__(negative_slope=negative_slope)
        self.negative_slope = negative_slope


class ELU(_Activation):
    """x, or alpha (exp(x) - 1) below 0. See `pyconv.functional.elu`."""

    _function = staticmethod(F.elu)
    _function_backward = staticmethod(F.elu_backward)

    def __init__(self, alpha=1.0, inplace=False):
        super().__init__(alpha=alpha)
        self.alpha = alpha


class SELU(_Activation):
    """The self-normalising ELU. See `pyconv.functional.selu`."""

    _function = staticmethod(F.selu)
    _function_backward = staticmethod(F.selu_backward)

    def __init__(self, inplace=False):
        super().__init__()


class CELU(_Activation):
    """x, or alpha (exp(x / alpha) - 1) below 0. See `pyconv.functional.celu`."""

    _function = staticmethod(F.celu)
    _function_backward = staticmethod(F.celu_backward)

    def __init__(self, alpha=1.0, inplace=False):
        super().__init__(alpha=alpha)
        self.alpha = alpha


class GELU(_Activation):
    """x times the normal distribution function. See `pyconv.functional.gelu`."""

    _function = staticmethod(F.gelu)
    _function_backward = staticmethod(F.gelu_backward)

    def __init__(self, approximate="none"):
        super().__init__(approximate=approximate)
        self.approximate = approximate


class SiLU(_Activation):
    """x sigmoid(x). See `pyconv.functional.silu`."""

    _function = staticmethod(F.silu)
    _function_backward = staticmethod(F.silu_backward)

    def __init__(self, inplace=False):
        super().__init__()


class Mish(_Activation):
    """x tanh(softplus(x)). See `pyconv.functional.mish`."""

    _function = staticmethod(F.mish)
    _function_backward = staticmethod(F.mish_backward)

    def __init__(self, inplace=False):
        super().__init__()


class Hardswish(_Activation):
    """x hardsigmoid(x). See `pyconv.functional.hardswish`."""

    _function = staticmethod(F.hardswish)
    _function_backward = staticmethod(F.hardswish_backward)

    def __init__(self, inplace=False):
        super().__init__()


class Hardsigmoid(_Activation):
    """min(max(x + 3, 0), 6) / 6. See `pyconv.functional.hardsigmoid`."""

    _function = staticmethod(F.hardsigmoid)
    _function_backward = staticmethod(F.hardsigmoid_backward)

    def __init__(self, inplace=False):
        super().__init__()


class Hardtanh(_Activation):
    """x held to [min_val, max_val]. See `pyconv.functional.hardtanh`."""

    _function = staticmethod(F.hardtanh)
    _function_backward = staticmethod(F.hardtanh_backward)

    def __init__(self, min_val=-1.0, max_val=1.0, inplace=False):
        if number("Hardtanh", "max_val", max_val) <= number("Hardtanh", "min_val", min_val):
            raise ValueError(f"Hardtanh: max_val must be above min_val; got {max_val} and {min_val}")
        super().__init__(min_val=min_val, max_val=max_val)
        self.min_val = min_val
        self.max_val = max_val


class Softplus(_Activation):
    """log(1 + exp(beta x)) / beta. See `pyconv.functional.softplus`."""

    _function = staticmethod(F.softplus)
    _function_backward = staticmethod(F.softplus_backward)

    def __init__(self, beta=1.0, threshold=20.0):
        super().__init__(beta=beta, threshold=threshold)
        self.beta = beta
        self.threshold = threshold


class Softsign(_Activation):
    """x / (1 + abs(x)). See `pyconv.functional.softsign`."""

    _function = staticmethod(F.softsign)
    _function_backward = staticmethod(F.softsign_backward)


class Sigmoid(_Activation):
    """1 / (1 + exp(-x)). See `pyconv.functional.sigmoid`."""

    _keeps = "output"
    _function = staticmethod(F.sigmoid)
    _function_backward = staticmethod(F.sigmoid_backward)


class Tanh(_Activation):
    """Hyperbolic tangent. See `pyconv.functional.tanh`."""

    _keeps = "output"
    _function = staticmethod(F.tanh)
    _function_backward = staticmethod(F.tanh_backward)


class PReLU(Module):
    """x, or weight x below 0. See `pyconv.functional.prelu`.

    Parameters
    ----------
    num_parameters : int
        1, or the number of channels.
    init : float
        The first value of the weight.
    dtype : float32 or float64, optional
        Of the weight; float32 by default.

    Attributes
    ----------
    weight : Parameter (num_parameters,)
    """

    def __init__(self, num_parameters=1, init=0.25, dtype=None):
        super().__init__()
        self.num_parameters = count("PReLU", "num_parameters", num_parameters, 1)
        self.init = init
        self.weight = Parameter(np.full(self.num_parameters, init, np.dtype(dtype or np.float32)))

    def forward(self, input):
        output = F.prelu(input, self.weight.data)
        self._save(input)
        return output

    def backward(self, grad_output):
        (input,) = self._take()
        needs = self._needs(self.weight)
        grad_input, grad_weight = F.prelu_backward(grad_output, input, self.weight.data, needs=needs)
        self._accumulate(self.weight, grad_weight)
        return grad_input

    def extra_repr(self):
        return f"num_parameters={self.num_parameters}"


class Softmax(Module):
    """exp(x) over its sum along `dim`. See `pyconv.functional.softmax`."""

    _log = False

    def __init__(self, dim=None):
        super().__init__()
        self.dim = dim

    def forward(self, input):
        output = (F.log_softmax if self._log else F.softmax)(input, self.dim)
        self._save(output)
        return output

    def backward(self, grad_output):
        (output,) = self._take()
        if not self.needs_input_grad:
            return None
        backward = F.log_softmax_backward if self._log else F.softmax_backward
        return backward(grad_output, None, self.dim, output=output)

    def extra_repr(self):
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """The logarithm of `Softmax`. See `pyconv.functional.log_softmax`."""

    _log = True
