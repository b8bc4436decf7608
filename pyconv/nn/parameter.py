"""Parameter: an array that is trained."""

import numpy as np

from pyconv.functional._arrays import FLOAT_DTYPES


class Parameter:
    """An array that is trained, with its gradient.

    Parameters
    ----------
    data : ndarray
        float32 or float64, of any shape; kept, not copied.
    requires_grad : bool
        Whether backward computes the gradient of it. ``False`` freezes the parameter.

    Attributes
    ----------
    data : ndarray
    grad : ndarray or None
        Sum of the gradients since `Module.zero_grad`.
    requires_grad : bool
    """

    __slots__ = ("data", "grad", "requires_grad", "__weakref__")

    def __init__(self, data, requires_grad=True):
        if not isinstance(data, np.ndarray):
            raise TypeError(f"Parameter: data must be a numpy.ndarray; got {type(data).__name__}")
        if data.dtype not in FLOAT_DTYPES:
            raise TypeError(f"Parameter: data must have dtype float32 or float64; got {data.dtype}")
        self.data = data
        self.grad = None
        self.requires_grad = requires_grad

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    size = property(lambda self: self.data.size)
    ndim = property(lambda self: self.data.ndim)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.data, dtype, copy=copy) if copy else np.asarray(self.data, dtype)

    def __repr__(self):
        frozen = "" if self.requires_grad else ", requires_grad=False"
        return f"Parameter({self.data!r}{frozen})"
