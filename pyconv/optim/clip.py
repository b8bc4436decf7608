"""Gradient clipping, as ``torch.nn.utils`` has it."""

import math

import numpy as np

from pyconv import _kernels
from pyconv.functional._arrays import check_array, dense
from pyconv.optim.optimizer import check_number, is_parameter


def _gradients(op, parameters):
    parameters = [parameters] if is_parameter(parameters) else list(parameters)
    for parameter in parameters:
        if not is_parameter(parameter):
            raise TypeError(f"{op}: parameters must be Parameters; got {type(parameter).__name__}")
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def clip_grad_norm_(parameters, max_norm, norm_type=2.0, error_if_nonfinite=False, foreach=None):
    """Scale all gradients in place so that their norm, taken as one long vector, is at most `max_norm`.

    Parameters
    ----------
    parameters : Parameter or iterable of Parameter
        Those without a gradient are passed over.
    max_norm : float
        The largest norm to leave.
    norm_type : float
        The p of the p-norm; ``float("inf")`` for the largest absolute value.
    error_if_nonfinite : bool
        Whether to raise when the norm is NaN or infinite.
    foreach : bool, optional
        Accepted for PyTorch's sake.

    Returns
    -------
    float
        The norm before clipping.

    Raises
    ------
    ValueError
        If the norm is not finite and `error_if_nonfinite` is True.

    Examples
    --------
    >>> import numpy as np, pyconv.nn as nn, pyconv.optim as optim
    >>> weight = nn.Parameter(np.zeros(2))
    >>> weight.grad = np.array([3.0, 4.0])
    >>> optim.clip_grad_norm_([weight], 1.0)
    5.0
    >>> weight.grad.round(4)
    array([0.6, 0.8])
    """
    grads = _gradients("clip_grad_norm_", parameters)
    max_norm = float(check_number("clip_grad_norm_", "max_norm", max_norm))
    if norm_type != "inf":
        check_number("clip_grad_norm_", "norm_type", norm_type)
    with np.errstate(all="ignore"):  # infinite gradients and norms are as welcome as in PyTorch
        norm = _norm(grads, float(norm_type))
        if error_if_nonfinite and not math.isfinite(norm):
            raise ValueError(f"clip_grad_norm_: the norm of the gradients must be finite; got {norm}")
        scale = max_norm / (norm + 1e-6)
        if not scale >= 1:  # NaN too, as in PyTorch
            for grad in grads:
                np.multiply(grad, grad.dtype.type(scale), out=grad)
    return norm


def _norm(grads, order):
    """The norm of all gradients together, summed in double precision and in a fixed order."""
    grads = [grad for grad in grads if grad.size]
    if not grads:
        return 0.0
    if order == 2:
        by_dtype = {}
        for grad in grads:
            check_array("clip_grad_norm_", "a gradient", grad)
            by_dtype.setdefault(grad.dtype.char, []).append(dense(grad))
        return math.sqrt(sum(map(_kernels.square_sum, by_dtype.values())))
    sizes = [np.abs(grad) for grad in grads]
    if order == math.inf:
        return float(np.max([size.max() for size in sizes]))
    if order == -math.inf:
        return float(np.min([size.min() for size in sizes]))
    if order == 0:  # of each tensor the number of nonzero elements, then the number of nonzero tensors
        return float(sum(size.any() for size in sizes))
    return float(sum((size.astype(np.float64) ** order).sum() for size in sizes) ** (1 / order))


def clip_grad_value_(parameters, clip_value, foreach=None):
    """Clip every element of the gradients, in place, to [-clip_value, clip_value].

    Parameters
    ----------
    parameters : Parameter or iterable of Parameter
        Those without a gradient are passed over.
    clip_value : float
        The largest absolute value to leave.
    foreach : bool, optional
        Accepted for PyTorch's sake.

    Examples
    --------
    >>> import numpy as np, pyconv.nn as nn, pyconv.optim as optim
    >>> weight = nn.Parameter(np.zeros(3))
    >>> weight.grad = np.array([-3.0, 0.5, 4.0])
    >>> optim.clip_grad_value_([weight], 1.0)
    >>> weight.grad
    array([-1. ,  0.5,  1. ])
    """
    limit = float(check_number("clip_grad_value_", "clip_value", clip_value))
    for grad in _gradients("clip_grad_value_", parameters):
        np.clip(grad, -limit, limit, out=grad)
