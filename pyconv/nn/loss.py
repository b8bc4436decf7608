"""Losses: ``loss = criterion(input, target)``, then ``criterion.backward()`` is the gradient of input.

The loss is a float for the reductions "mean" and "sum", an array for "none".
"""

import numpy as np

from pyconv import functional as F
from pyconv.functional.loss import _cross_entropy_with_gradient, _reduction, _upstream
from pyconv.nn.grad_mode import is_grad_enabled
from pyconv.nn.module import Module


class _Loss(Module):
    """A loss of two arrays; `_options()` are its function's arguments by name."""

    _function = _function_backward = None

    def __init__(self, size_average=None, reduce=None, reduction="mean"):
        super().__init__()
        self.reduction = _reduction(type(self).__name__, reduction, size_average, reduce)

    def _options(self):
        return {"reduction": self.reduction}

    def forward(self, input, target):
        loss = type(self)._function(input, target, **self._options())
        self._save(input, target)
        return loss if self.reduction == "none" else float(loss)

    def backward(self, grad_output=1.0):
        """The gradient of input: the loss's own, times grad_output (an array for "none")."""
        input, target = self._take()
        return type(self)._function_backward(grad_output, input, target, **self._options())

    def extra_repr(self):
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"


class NLLLoss(_Loss):
    """Negative log likelihood of class indices. See `pyconv.functional.nll_loss`."""

    _function = staticmethod(F.nll_loss)
    _function_backward = staticmethod(F.nll_loss_backward)

    def __init__(self, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index

    def _options(self):
        return {"weight": self.weight, "ignore_index": self.ignore_index, "reduction": self.reduction}


class CrossEntropyLoss(_Loss):
    """Cross entropy between softmax(input) and target. See `pyconv.functional.cross_entropy`.

    Parameters
    ----------
    weight : ndarray (C,), optional
        The weight of each class; a buffer.
    ignore_index : int
    reduction : {"mean", "sum", "none"}
    label_smoothing : float
        Between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> criterion = nn.CrossEntropyLoss()
    >>> round(criterion(np.zeros((2, 4)), np.array([0, 3])), 4)
    1.3863
    >>> criterion.backward()
    array([[-0.375,  0.125,  0.125,  0.125],
           [ 0.125,  0.125,  0.125, -0.375]])
    """

    _function = staticmethod(F.cross_entropy)
    _function_backward = staticmethod(F.cross_entropy_backward)

    def __init__(
        self,
        weight=None,
        size_average=None,
        ignore_index=-100,
        reduce=None,
        reduction="mean",
        label_smoothing=0.0,
    ):
        super().__init__(size_average, reduce, reduction)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"CrossEntropyLoss: label_smoothing must be between 0 and 1; got {label_smoothing}")
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def _options(self):
        return {
            "weight": self.weight,
            "ignore_index": self.ignore_index,
            "reduction": self.reduction,
            "label_smoothing": self.label_smoothing,
        }

    def forward(self, input, target):
        if self.reduction == "none" or not is_grad_enabled():
            return super().forward(input, target)
        loss, gradient = _cross_entropy_with_gradient(input, target, **self._options())
        self._save(gradient)
        return float(loss)

    def backward(self, grad_output=1.0):
        if self.reduction == "none":
            return super().backward(grad_output)
        (gradient,) = self._take()
        if np.ndim(grad_output) or grad_output != 1:
            scale = _upstream("CrossEntropyLoss.backward", grad_output, self.reduction, (), gradient.dtype)
            gradient *= gradient.dtype.type(scale)
        return gradient


class MSELoss(_Loss):
    """(input - target)^2. See `pyconv.functional.mse_loss`."""

    _function = staticmethod(F.mse_loss)
    _function_backward = staticmethod(F.mse_loss_backward)


class L1Loss(_Loss):
    """abs(input - target). See `pyconv.functional.l1_loss`."""

    _function = staticmethod(F.l1_loss)
    _function_backward = staticmethod(F.l1_loss_backward)


class SmoothL1Loss(_Loss):
    """Quadratic below beta, linear above. See `pyconv.functional.smooth_l1_loss`."""

    _function = staticmethod(F.smooth_l1_loss)
    _function_backward = staticmethod(F.smooth_l1_loss_backward)

    def __init__(self, size_average=None, reduce=None, reduction="mean", beta=1.0):
        super().__init__(size_average, reduce, reduction)
        self.beta = beta

    def _options(self):
        return {"reduction": self.reduction, "beta": self.beta}


class BCEWithLogitsLoss(_Loss):
    """Cross entropy of sigmoid(input). See `pyconv.functional.binary_cross_entropy_with_logits`."""

    _function = staticmethod(F.binary_cross_entropy_with_logits)
    _function_backward = staticmethod(F.binary_cross_entropy_with_logits_backward)

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def _options(self):
        return {"weight": self.weight, "reduction": self.reduction, "pos_weight": self.pos_weight}
