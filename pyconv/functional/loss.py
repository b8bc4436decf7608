"""Losses and their gradients.

``reduction`` is "mean", "sum" or "none"; "mean" and "sum" give a NumPy scalar of the input's dtype. In each
``*_backward`` grad_output is a number for these, and an array of the losses' shape for "none".
"""

import numpy as np

from pyconv import _kernels
from pyconv.functional._arrays import (
    channels_last,
    check_array,
    contiguous,
    dense,
    empty_like,
    in_format_of,
    like,
)
from pyconv.functional.softmax import log_softmax

# ---- What every loss checks ------------------------------------------------------------------------


def _check_reduction(op, reduction, size_average=None, reduce=None):
    if size_average is not None or reduce is not None:
        raise ValueError(
            f"{op}: size_average and reduce must be None, use reduction; got {size_average}, {reduce}"
        )
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{op}: reduction must be 'mean', 'sum' or 'none'; got {reduction!r}")


def _upstream(op, grad_output, reduction, shape, dtype):
    """grad_output: a float for "mean" and "sum", for "none" an array of the losses' shape."""
    if reduction != "none":
        if np.ndim(grad_output) != 0:
            raise ValueError(
                f"{op}: grad_output must be a number for reduction={reduction!r}; "
                f"got shape {np.shape(grad_output)}"
            )
        return float(grad_output)
    if shape == () and np.ndim(grad_output) == 0:
        return np.asarray(grad_output, dtype)
    check_array(op, "grad_output", grad_output, dtype=dtype)
    if grad_output.shape != shape:
        raise ValueError(f"{op}: grad_output must have the losses' shape, {shape}; got {grad_output.shape}")
    return grad_output


def _divide(a, b):
    """a / b for numbers, with NaN and infinity in place of an error."""
    with np.errstate(all="ignore"):
        return float(np.float64(a) / np.float64(b))


def _check_weight(op, weight, classes, dtype):
    if weight is None:
        return None
    check_array(op, "weight", weight, 1, dtype)
    if weight.shape != (classes,):
        raise ValueError(f"{op}: weight must have shape ({classes},), one a class; got {weight.shape}")
    return contiguous(weight)


# ---- Classes ---------------------------------------------------------------------------------------


def _class_dimension(op, input):
    check_array(op, "input", input)
    if input.ndim == 0:
        raise ValueError(f"{op}: input must have at least 1 dimension; got shape ()")
    return 0 if input.ndim == 1 else 1


def _check_classes(op, target, input, ignore_index):
    """`target` as a flat int64 array of class indices, checked."""
    classes = input.shape[_class_dimension(op, input)]
    shape = input.shape[:1] + input.shape[2:] if input.ndim > 1 else ()
    if isinstance(ignore_index, bool) or not hasattr(ignore_index, "__index__"):
        raise TypeError(f"{op}: ignore_index must be an int; got {type(ignore_index).__name__}")
    if not isinstance(target, (np.ndarray, np.generic, int)):
        raise TypeError(f"{op}: target must be a numpy.ndarray; got {type(target).__name__}")
    target = np.asarray(target)
    if target.dtype.kind not in "iu":
        raise TypeError(f"{op}: target must have an integer dtype for class indices; got {target.dtype}")
    if target.shape != shape:
        raise ValueError(
            f"{op}: target must have shape {shape} for input of shape {input.shape}; got {target.shape}"
        )
    if target.size and (target.min() < 0 or target.max() >= classes):
        wrong = np.flatnonzero(((target < 0) | (target >= classes)) & (target != ignore_index))
        if wrong.size:
            place = tuple(map(int, np.unravel_index(wrong[0], shape))) if shape else ()
            raise ValueError(
                f"{op}: target must be class indices from 0 to {classes - 1}, or ignore_index="
                f"{ignore_index}; got {target.ravel()[wrong[0]]} at {place}"
            )
    return np.ascontiguousarray(target, np.int64).ravel()


def _rows(array):
    """(N, C, ...) or (C,) as a dense matrix of C columns."""
    if array.ndim <= 2:
        return contiguous(array).reshape(-1, array.shape[-1]) if array.size else array.reshape(_matrix(array))
    if array.ndim == 4:
        return channels_last(array).transpose(0, 2, 3, 1).reshape(_matrix(array))
    return contiguous(np.moveaxis(array, 1, -1)).reshape(_matrix(array))


def _matrix(array):
    classes = array.shape[0 if array.ndim == 1 else 1]
    rows = array.shape[:1] + array.shape[2:] if array.ndim > 1 else ()
    return int(np.prod(rows)), classes


def _empty_rows(input):
    """A fresh array that `_rows` views without a copy, and that view."""
    if input.ndim <= 2:
        whole = _kernels.empty(input.shape, input.dtype)
        return whole, whole.reshape(_matrix(input))
    if input.ndim == 4:
        whole = _kernels.empty(input.shape, input.dtype, True)
        return whole, whole.transpose(0, 2, 3, 1).reshape(_matrix(input))
    rows = _kernels.empty(input.shape[:1] + input.shape[2:] + input.shape[1:2], input.dtype)
    return np.moveaxis(rows, -1, 1), rows.reshape(_matrix(input))


def _from_rows(whole, input):
    """What `_empty_rows` made, in the memory format of input."""
    return in_format_of(whole, input) if input.ndim == 4 else contiguous(whole)


def _row_weights(target, weight, ignore_index):
    """The weight of every row, 0 where it is ignored."""
    kept = target != ignore_index
    return kept if weight is None else np.where(kept, weight[np.where(kept, target, 0)], 0)


def _total_weight(target, weight, ignore_index):
    return float(_row_weights(target, weight, ignore_index).sum(dtype=np.float64))


def _reduced(losses, reduction, total, shape):
    """Losses of the rows as what the caller gets."""
    if reduction == "none":
        return losses.reshape(shape)[()]
    value = float(losses.sum(dtype=np.float64))
    return losses.dtype.type(value if reduction == "sum" else _divide(value, total))


def cross_entropy(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    """Cross entropy between softmax(input) and target.

    Parameters
    ----------
    input : ndarray (C,), (N, C) or (N, C, d1, ...)
        Logits, float32 or float64.
    target : ndarray
        Class indices of any integer dtype and of input's shape without C, or class probabilities of
        input's shape and dtype.
    weight : ndarray (C,), optional
        The weight of each class; the mean is the weighted one.
    ignore_index : int
        Targets of this value count for nothing, in the mean's divisor too. Class indices only.
    reduction : {"mean", "sum", "none"}
    label_smoothing : float
        Between 0 and 1: how much of the target is spread evenly over the classes
        (Szegedy et al., Rethinking the Inception Architecture, 2016).

    Returns
    -------
    NumPy scalar, or for "none" an ndarray of input's shape without C

    Raises
    ------
    ValueError
        When a class index is out of range, or shapes do not agree.
    TypeError
        When target is neither integers nor probabilities of input's dtype.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.cross_entropy(np.array([[0.0, 0.0], [0.0, 9.0]]), np.array([0, 1])).round(4).item()
    0.3466
    """
    _check_reduction("cross_entropy", reduction, size_average, reduce)
    args = _cross_entropy_args("cross_entropy", input, target, weight, ignore_index, label_smoothing)
    loss, _ = _cross_entropy(input, *args, ignore_index, reduction, None)
    return loss


def cross_entropy_backward(
    grad_output, input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0
):
    """Gradient of `cross_entropy` with respect to input."""
    op = "cross_entropy_backward"
    _check_reduction(op, reduction)
    args = _cross_entropy_args(op, input, target, weight, ignore_index, label_smoothing)
    shape = input.shape[:1] + input.shape[2:] if input.ndim > 1 else ()
    grad_output = _upstream(op, grad_output, reduction, shape, input.dtype)
    return _cross_entropy(input, *args, ignore_index, reduction, grad_output)[1]


def _cross_entropy_with_gradient(input, target, weight, ignore_index, reduction, label_smoothing):
    """The loss ("mean" or "sum") and its gradient in one pass."""
    _check_reduction("cross_entropy", reduction)
    args = _cross_entropy_args("cross_entropy", input, target, weight, ignore_index, label_smoothing)
    return _cross_entropy(input, *args, ignore_index, reduction, 1.0, True)


def _cross_entropy_args(op, input, target, weight, ignore_index, label_smoothing):
    classes = input.shape[_class_dimension(op, input)]
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{op}: label_smoothing must be between 0 and 1; got {label_smoothing}")
    if isinstance(target, np.ndarray) and target.shape == input.shape and target.dtype.kind == "f":
        check_array(op, "target", target, dtype=input.dtype)  # probabilities
    else:
        target = _check_classes(op, target, input, ignore_index)
    return target, _check_weight(op, weight, classes, input.dtype), float(label_smoothing)


def _cross_entropy(input, target, weight, smoothing, ignore_index, reduction, grad_output, both=False):
    """(loss, gradient): the loss where grad_output is None or `both`, the gradient where it is not None."""
    if target.dtype.kind == "f":
        return _soft_cross_entropy(input, target, weight, smoothing, reduction, grad_output)
    x = _rows(input)
    total = _total_weight(target, weight, ignore_index) if reduction == "mean" else 1.0
    losses = gradient = grad_rows = row_scale = None
    scale = 1.0
    if grad_output is None or both:
        losses = _kernels.empty(x.shape[:1], x.dtype)
    if grad_output is not None:
        gradient, grad_rows = _empty_rows(input)
        if reduction == "none":
            row_scale = contiguous(grad_output.reshape(-1))
        else:
            scale = _divide(grad_output, total)
    _kernels.cross_entropy(
        x, target, weight, int(ignore_index), smoothing, row_scale, scale, losses, grad_rows
    )
    if losses is not None:
        shape = input.shape[:1] + input.shape[2:] if input.ndim > 1 else ()
        losses = _reduced(losses, reduction, total, shape)
    return losses, None if gradient is None else _from_rows(gradient, input)


def _soft_cross_entropy(input, target, weight, smoothing, reduction, grad_output):
    """Cross entropy with class probabilities for a target; (loss, gradient) as above."""
    x, t = _rows(input), _rows(target)
    rows, classes = x.shape
    if smoothing:
        t = t * x.dtype.type(1 - smoothing) + x.dtype.type(smoothing / classes)
    if weight is not None:
        t = t * weight
    log_p = log_softmax(x, 1)
    losses = -(t * log_p).sum(axis=1)
    shape = input.shape[:1] + input.shape[2:] if input.ndim > 1 else ()
    loss = _reduced(losses, reduction, rows, shape)
    if grad_output is None:
        return loss, None
    scale = grad_output.reshape(-1, 1) if reduction == "none" else grad_output
    if reduction == "mean":
        scale = x.dtype.type(_divide(grad_output, rows))
    gradient, grad_rows = _empty_rows(input)
    grad_rows[...] = (np.exp(log_p) * t.sum(axis=1, keepdims=True) - t) * scale
    return loss, _from_rows(gradient, input)


def nll_loss(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    """Negative log likelihood: minus the log-probability that input has at target.

    Parameters
    ----------
    input : ndarray (C,), (N, C) or (N, C, d1, ...)
        Log-probabilities, as `log_softmax` returns them.
    target, weight, ignore_index, reduction
        As in `cross_entropy`, class indices only.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.nll_loss(np.log([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 0]), reduction="none").round(4)
    array([0.6931, 1.3863])
    """
    op = "nll_loss"
    _check_reduction(op, reduction, size_average, reduce)
    target = _check_classes(op, target, input, ignore_index)
    x = _rows(input)
    weight = _check_weight(op, weight, x.shape[1], x.dtype)
    if not x.shape[1]:
        losses = np.zeros(x.shape[0], x.dtype)
    else:
        kept = target != ignore_index
        picked = x[np.arange(x.shape[0]), np.where(kept, target, 0)]
        weighted = -picked if weight is None else -picked * weight[np.where(kept, target, 0)]
        losses = np.where(kept, weighted, x.dtype.type(0))
    shape = input.shape[:1] + input.shape[2:] if input.ndim > 1 else ()
    total = _total_weight(target, weight, ignore_index) if reduction == "mean" else 1.0
    return _reduced(losses, reduction, total, shape)


def nll_loss_backward(grad_output, input, target, weight=None, ignore_index=-100, reduction="mean"):
    """Gradient of `nll_loss` with respect to input."""
    op = "nll_loss_backward"
    _check_reduction(op, reduction)
    target = _check_classes(op, target, input, ignore_index)
    rows, classes = _matrix(input)
    weight = _check_weight(op, weight, classes, input.dtype)
    shape = input.shape[:1] + input.shape[2:] if input.ndim > 1 else ()
    scale = _upstream(op, grad_output, reduction, shape, input.dtype)
    if reduction == "none":
        scale = scale.reshape(-1)
    elif reduction == "mean":
        scale = _divide(scale, _total_weight(target, weight, ignore_index))
    gradient, grad_rows = _empty_rows(input)
    grad_rows[...] = 0
    kept = np.flatnonzero(target != ignore_index)
    slope = -np.broadcast_to(np.asarray(scale, input.dtype), rows)[kept]
    grad_rows[kept, target[kept]] = slope if weight is None else slope * weight[target[kept]]
    return _from_rows(gradient, input)


# ---- Functions of two numbers ----------------------------------------------------------------------


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
    _check_reduction(name, reduction)
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
    _check_reduction("mse_loss", reduction, size_average, reduce)
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
    _check_reduction("l1_loss", reduction, size_average, reduce)
    return _pointwise("l1_loss", input, target, reduction)


def l1_loss_backward(grad_output, input, target, reduction="mean"):
    """Gradient of `l1_loss` with respect to input."""
    return _pointwise_backward("l1_loss", grad_output, input, target, reduction)


def _check_beta(op, beta):
    if not beta >= 0:
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
    _check_reduction("smooth_l1_loss", reduction, size_average, reduce)
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
    _check_reduction(op, reduction, size_average, reduce)
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
    _check_reduction(op, reduction)
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
