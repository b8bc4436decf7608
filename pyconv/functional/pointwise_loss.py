"""Losses that compare two arrays number by number, and their gradients.

``reduction`` is as in `pyconv.functional.loss`.
"""

import numpy as np

from pyconv import _kernels
from pyconv.functional._arguments import number
from pyconv.functional._arrays import check_array, dense, empty_like, like
from pyconv.functional.loss import _divide, _reduced, _reduction, _upstream


def _check_pair(op, input, target):
    check_array(op, "input", input)
    check_array(op, "target", target, dtype=input.dtype)
    if target.shape != input.shape:
        raise ValueError(f"{op}: target must have the shape of input, {input.shape}; got {target.shape}")


def _pointwise(op, input, target, reduction, parameter=0.0):
    _check_pair(op, input, target)
    x = dense(input)
    losses = empty_like(x) if reduction == "none" else None
    total = _kernels.pointwise_loss(_kernels.POINTWISE_LOSS[op], x, like(target, x), parameter, losses)
    if losses is not None:
        return losses[()]
    return x.dtype.type(total if reduction == "sum" else _divide(total, x.size))


def _pointwise_backward(op, grad_output, input, target, reduction, parameter=0.0):
    name = f"{op}_backward"
    _reduction(name, reduction)
    _check_pair(name, input, target)
    upstream = _upstream(name, grad_output, reduction, input.shape, input.dtype)
    x = dense(input)
    scale = 1.0
    if reduction == "none":
        upstream = like(upstream, x)
    else:
        scale, upstream = upstream if reduction == "sum" else _divide(upstream, x.size), None
    gradient = empty_like(x)
    _kernels.pointwise_loss_backward(
        _kernels.POINTWISE_LOSS[op], upstream, scale, x, like(target, x), parameter, gradient
    )
    return gradient


def mse_loss(input, target, size_average=None, reduce=None, reduction="mean"):
    """(input - target)^2.

    Parameters
    ----------
    input, target : ndarray
        Of one shape and dtype, float32 or float64; unlike in PyTorch, they are not broadcast.
    reduction : {"mean", "sum", "none"}

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.mse_loss(np.array([1.0, 2.0]), np.array([1.0, 4.0])).item()
    2.0
    """
    reduction = _reduction("mse_loss", reduction, size_average, reduce)
    return _pointwise("mse_loss", input, target, reduction)


def mse_loss_backward(grad_output, input, target, reduction="mean"):
    """Gradient of `mse_loss` with respect to input."""
    return _pointwise_backward("mse_loss", grad_output, input, target, reduction)


def l1_loss(input, target, size_average=None, reduce=None, reduction="mean"):
    """abs(input - target); the gradient is 0 where they are equal.

    Parameters
    ----------
    input, target : ndarray
        Of one shape and dtype, float32 or float64; unlike in PyTorch, they are not broadcast.
    reduction : {"mean", "sum", "none"}
    """
    reduction = _reduction("l1_loss", reduction, size_average, reduce)
    return _pointwise("l1_loss", input, target, reduction)


def l1_loss_backward(grad_output, input, target, reduction="mean"):
    """Gradient of `l1_loss` with respect to input."""
    return _pointwise_backward("l1_loss", grad_output, input, target, reduction)


def _check_beta(op, beta):
    if not number(op, "beta", beta) >= 0:
        raise ValueError(f"{op}: beta must be at least 0; got {beta}")
    return float(beta)


def smooth_l1_loss(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0):
    """With d = abs(input - target): d^2 / (2 beta) where d < beta, else d - beta / 2.

    Parameters
    ----------
    input, target : ndarray
        Of one shape and dtype, float32 or float64; unlike in PyTorch, they are not broadcast.
    reduction : {"mean", "sum", "none"}
    beta : float
        At least 0; 0 gives `l1_loss`.
    """
    reduction = _reduction("smooth_l1_loss", reduction, size_average, reduce)
    beta = _check_beta("smooth_l1_loss", beta)
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    return _pointwise("smooth_l1_loss", input, target, reduction, beta)


def smooth_l1_loss_backward(grad_output, input, target, reduction="mean", beta=1.0):
    """Gradient of `smooth_l1_loss` with respect to input."""
    beta = _check_beta("smooth_l1_loss_backward", beta)
    if beta == 0:
        return l1_loss_backward(grad_output, input, target, reduction)
    return _pointwise_backward("smooth_l1_loss", grad_output, input, target, reduction, beta)


def _check_broadcast(op, name, array, input):
    check_array(op, name, array, dtype=input.dtype)
    try:
        return np.broadcast_to(array, input.shape)
    except ValueError:
        raise ValueError(
            f"{op}: {name} must broadcast to the shape of input, {input.shape}; got {array.shape}"
        ) from None


def binary_cross_entropy_with_logits(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    """Cross entropy between sigmoid(input) and target, element by element.

    Parameters
    ----------
    input : ndarray
        Logits of any shape, float32 or float64.
    target : ndarray
        Probabilities, of the shape and dtype of input.
    weight : ndarray, optional
        Weights of the losses; must broadcast to input's shape.
    reduction : {"mean", "sum", "none"}
    pos_weight : ndarray, optional
        Weights of the positive parts; must broadcast to input's shape.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.binary_cross_entropy_with_logits(np.array([0.0, 0.0]), np.array([1.0, 0.0])).round(4).item()
    0.6931
    """
    op = "binary_cross_entropy_with_logits"
    reduction = _reduction(op, reduction, size_average, reduce)
    if weight is None and pos_weight is None:
        return _pointwise(op, input, target, reduction)
    _check_pair(op, input, target)
    one = input.dtype.type(1)
    softplus = np.log1p(np.exp(-np.abs(input))) + np.maximum(-input, 0)  # log(1 + exp(-input))
    if pos_weight is not None:
        softplus = softplus * ((_check_broadcast(op, "pos_weight", pos_weight, input) - one) * target + one)
    losses = (one - target) * input + softplus
    if weight is not None:
        losses = losses * _check_broadcast(op, "weight", weight, input)
    return _reduced(losses, reduction, losses.size, input.shape)


def binary_cross_entropy_with_logits_backward(
    grad_output, input, target, weight=None, reduction="mean", pos_weight=None
):
    """Gradient of `binary_cross_entropy_with_logits` with respect to input."""
    op = "binary_cross_entropy_with_logits"
    if weight is None and pos_weight is None:
        return _pointwise_backward(op, grad_output, input, target, reduction)
    op += "_backward"
    _reduction(op, reduction)
    _check_pair(op, input, target)
    scale = _upstream(op, grad_output, reduction, input.shape, input.dtype)
    if reduction == "mean":
        scale = _divide(scale, input.size)
    one = input.dtype.type(1)
    e = np.exp(-np.abs(input))
    upper = np.where(input >= 0, e, one) / (one + e)  # sigmoid(-input)
    if pos_weight is not None:
        upper = upper * ((_check_broadcast(op, "pos_weight", pos_weight, input) - one) * target + one)
    slope = (one - target) - upper
    if weight is not None:
        slope = slope * _check_broadcast(op, "weight", weight, input)
    gradient = empty_like(dense(input))
    np.multiply(slope, scale, out=gradient, casting="same_kind")
    return gradient
