"""Linear layers, and the one that does nothing."""

import math

import numpy as np

from pyconv import functional as F
from pyconv import random
from pyconv.functional._arguments import count, layer_flag
from pyconv.functional.linear import _linear
from pyconv.nn.module import Module
from pyconv.nn.parameter import Parameter


class Identity(Module):
    """Returns its input; takes and ignores any arguments, as ``torch.nn.Identity``."""

    def __init__(self, *args, **kwargs):
        super().__init__()

    def forward(self, input):
        return input

    def backward(self, grad_output):
        return grad_output if self.needs_input_grad else None


class Linear(Module):
    """y = x W^T + b, as ``torch.nn.Linear``.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    dtype : float32 or float64, optional
        Of the parameters; float32 by default.

    Attributes
    ----------
    weight : Parameter (out_features, in_features)
    bias : Parameter (out_features,) or None
        Both start uniform in +-1/sqrt(in_features).

    Notes
    -----
    The input is (..., in_features), the output (..., out_features).

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.Linear(20, 30)(np.zeros((128, 20), np.float32)).shape
    (128, 30)
    """

    def __init__(self, in_features, out_features, bias=True, dtype=None):
        super().__init__()
        self.in_features = count("Linear", "in_features", in_features, 0)
        self.out_features = count("Linear", "out_features", out_features, 0)
        bound = 1 / math.sqrt(in_features) if in_features else 0.0
        dtype, bias = np.dtype(dtype or np.float32), layer_flag("Linear", "bias", bias)
        self.weight = Parameter(random.uniform(bound, (self.out_features, self.in_features), dtype))
        self.register_parameter("bias", Parameter(random.uniform(bound, self.out_features, dtype)) if bias else None)

    def forward(self, input, relu=False):
        """The output; `relu` gives max(output, 0) in the same pass."""
        output = _linear(input, self.weight.data, None if self.bias is None else self.bias.data, relu)
        self._save(input, output if relu else None)
        return output

    def backward(self, grad_output):
        input, rectified = self._take()
        if rectified is not None:
            grad_output = F.relu_backward(grad_output, rectified)
        needs = self._needs(self.weight, self.bias)
        grad_input, grad_weight, grad_bias = F.linear_backward(grad_output, input, self.weight.data, needs=needs)
        self._accumulate(self.weight, grad_weight)
        self._accumulate(self.bias, grad_bias)
        return grad_input

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
