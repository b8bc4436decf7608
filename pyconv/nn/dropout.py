"""Dropout layers, active in training mode only."""

from pyconv import functional as F
from pyconv.nn.module import Module


class Dropout(Module):
    """Set elements to 0 with probability p while training. See `pyconv.functional.dropout`.

    Parameters
    ----------
    p : float
        Between 0 and 1.
    inplace : bool
        Accepted for PyTorch's sake and ignored.
    generator : numpy.random.Generator, optional
        By default the one that `pyconv.manual_seed` restarts.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.Dropout(0.5).eval()(np.ones(3))
    array([1., 1., 1.])
    """

    _function = staticmethod(F.dropout)
    _function_backward = staticmethod(F.dropout_backward)

    def __init__(self, p=0.5, inplace=False, *, generator=None):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}: p must be between 0 and 1; got {p}")
        self.p = p
        self.generator = generator

    def forward(self, input):
        output, mask = type(self)._function(input, self.p, self.training, generator=self.generator, return_mask=True)
        self._save(mask)
        return output

    def backward(self, grad_output):
        (mask,) = self._take()
        return type(self)._function_backward(grad_output, mask, self.p) if self.needs_input_grad else None

    def extra_repr(self):
        return f"p={self.p}"


class Dropout2d(Dropout):
    """Set whole channels to 0 with probability p while training. See `pyconv.functional.dropout2d`."""

    _function = staticmethod(F.dropout2d)
    _function_backward = staticmethod(F.dropout2d_backward)
