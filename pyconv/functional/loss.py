"""Losses of classes and their gradients.

``reduction`` is "mean", "sum" or "none"; "mean" and "sum" give a NumPy scalar of the input's dtype. In each
``*_backward`` grad_output is a number for these, and an array of the losses' shape for "none".
"""

import math
import warnings

import numpy as np

from pyconv import _kernels
from pyconv.functional._arguments import flag, integer, is_one_of, number, scalar, shown
from pyconv.functional._arrays import (
    channels_last,
    check_array,
    contiguous,
    empty_like,
    in_format_of,
    is_array,
    wants_channels_last,
)
from pyconv.functional.softmax import log_softmax

# ---- What every loss checks ------------------------------------------------------------------------


def _reduction(op, reduction, size_average=None, reduce=None):
    """`reduction`, checked; where either of the others is given, what these two say in its place."""
    if size_average is not None or reduce is not None:
        averages = size_average is None or flag(op, "size_average", size_average)
        reduces = reduce is None or flag(op, "reduce", reduce)
        reduction = ("mean" if averages else "sum") if reduces else "none"
        warnings.warn(f"{op}: size_average and reduce are deprecated, use reduction={reduction!r}", stacklevel=3)
    if not is_one_of(reduction, ("mean", "sum", "none")):
        raise ValueError(f"{op}: reduction must be 'mean', 'sum' or 'none'; got {shown(reduction)}")
    return reduction


def _upstream(op, grad_output, reduction, shape, dtype):
    """grad_output: a float for "mean" and "sum", for "none" an array of the losses' shape."""
    grad_output = scalar(grad_output)
    if reduction != "none":
        if isinstance(grad_output, np.ndarray):
            raise ValueError(
                f"{op}: grad_output must be a number for reduction={reduction!r}; got shape {grad_output.shape}"
            )
        return number(op, "grad_output", grad_output)
    if shape == () and not isinstance(grad_output, np.ndarray):
        return np.asarray(number(op, "grad_output", grad_output), dtype)
    check_array(op, "grad_output", grad_output, dtype=dtype)
    if grad_output.shape != shape:
        raise ValueError(f"{op}: grad_output must have the losses' shape, {shape}; got {grad_output.shape}")
    return grad_output


def _divide(a, b):
    """a / b for numbers, b not negative, with NaN and infinity in place of an error."""
    if b:
        return float(a) / float(b)
    return math.copysign(math.inf, a) if abs(a) > 0 else math.nan


def _check_weight(op, weight, classes, dtype):
    if weight is None:
        return None
    check_array(op, "weight", weight, 1, dtype)
    if weight.shape != (classes,):
        raise ValueError(f"{op}: weight must have shape ({classes},), one a class; got {weight.shape}")
    return contiguous(weight)


# ---- Classes ---------------------------------------------------------------------------------------


def _class_count(op, input):
    check_array(op, "input", input)
    if input.ndim == 0:
        raise ValueError(f"{op}: input must have at least 1 dimension; got shape ()")
    return input.shape[0 if input.ndim == 1 else 1]


def _losses_shape(input):
    """The shape of (N, C, ...) or (C,) without the classes."""
    return input.shape[:1] + input.shape[2:] if input.ndim > 1 else ()


def _check_classes(op, target, input, weight, ignore_index):
    """Class indices as an int64 array, checked; and the mean's divisor, the weights of all that count."""
    classes, shape = _class_count(op, input), _losses_shape(input)
    if not -(2**63) <= integer(op, "ignore_index", ignore_index) < 2**63:
        raise ValueError(f"{op}: ignore_index must fit into int64; got {ignore_index}")
    if not is_array(target) and not isinstance(target, (np.generic, int)):
        raise TypeError(f"{op}: target must be a numpy.ndarray; got {type(target).__name__}")
    target = np.asarray(target)
    if target.dtype.kind not in "iu":
        raise TypeError(f"{op}: target must have an integer dtype for class indices; got {target.dtype}")
    if target.shape != shape:
        raise ValueError(f"{op}: target must have shape {shape} for input of shape {input.shape}; got {target.shape}")
    indices = np.ascontiguousarray(target, np.int64)
    if target.dtype.kind == "u":
        indices = np.where(indices < 0, classes + (ignore_index == classes), indices)  # those from 2**63 on
    wrong, total = _kernels.check_classes(classes, indices, input.dtype, weight, ignore_index)
    if wrong >= 0:
        place = tuple(map(int, np.unravel_index(wrong, shape))) if shape else ()
        raise ValueError(
            f"{op}: target must be class indices from 0 to {classes - 1}, or ignore_index="
            f"{ignore_index}; got {target[place]} at {place}"
        )
    return indices, total


def _extents(input):
    """How the kernels see what `_dense` returns: [outer][classes][inner]."""
    if input.ndim == 2:
        return *input.shape, 1
    if input.ndim == 1:
        return 1, input.shape[0], 1
    if input.ndim == 4 and wants_channels_last(input):
        n, c, h, w = input.shape
        return n * h * w, c, 1
    return *input.shape[:2], math.prod(input.shape[2:])


def _dense(input):
    """`input`, dense in the memory format that its result has."""
    return channels_last(input) if input.ndim == 4 and wants_channels_last(input) else contiguous(input)


def _rows(array):
    """(N, C, ...) or (C,) as a dense matrix of C columns."""
    if array.ndim <= 2:
        return contiguous(array).reshape(-1, array.shape[-1]) if array.size else array.reshape(_matrix(array))
    if array.ndim == 4:
        return channels_last(array).transpose(0, 2, 3, 1).reshape(_matrix(array))
    return contiguous(np.moveaxis(array, 1, -1)).reshape(_matrix(array))


def _matrix(array):
    return math.prod(_losses_shape(array)), array.shape[0 if array.ndim == 1 else 1]


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


def _scalar(value, reduction, total, dtype):
    """The sum of all losses as what the caller gets."""
    if reduction == "mean":
        value = _divide(value, total) if total else np.nan  # PyTorch's 0 / 0, with label smoothing as well
    return dtype.type(value)


def _reduced(losses, reduction, total, shape):
    """Losses of the rows as what the caller gets."""
    if reduction == "none":
        return losses.reshape(shape)[()]
    return _scalar(float(losses.sum(dtype=np.float64)), reduction, total, losses.dtype)


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
    reduction = _reduction("cross_entropy", reduction, size_average, reduce)
    args = _cross_entropy_args("cross_entropy", input, target, weight, ignore_index, label_smoothing)
    loss, _ = _cross_entropy(input, *args, ignore_index, reduction, None)
    return loss


def cross_entropy_backward(
    grad_output, input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0
):
    """Gradient of `cross_entropy` with respect to input."""
    op = "cross_entropy_backward"
    _reduction(op, reduction)
    args = _cross_entropy_args(op, input, target, weight, ignore_index, label_smoothing)
    grad_output = _upstream(op, grad_output, reduction, _losses_shape(input), input.dtype)
    return _cross_entropy(input, *args, ignore_index, reduction, grad_output)[1]


def _cross_entropy_with_gradient(input, target, weight, ignore_index, reduction, label_smoothing):
    """The loss ("mean" or "sum") and its gradient in one pass."""
    _reduction("cross_entropy", reduction)
    args = _cross_entropy_args("cross_entropy", input, target, weight, ignore_index, label_smoothing)
    return _cross_entropy(input, *args, ignore_index, reduction, 1.0, True)


def _cross_entropy_args(op, input, target, weight, ignore_index, label_smoothing):
    """(target, the divisor of the mean, weight, label_smoothing), checked."""
    classes = _class_count(op, input)
    smoothing = number(op, "label_smoothing", label_smoothing)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"{op}: label_smoothing must be between 0 and 1; got {label_smoothing}")
    weight = _check_weight(op, weight, classes, input.dtype)
    if isinstance(target, np.ndarray) and target.shape == input.shape and target.dtype.kind == "f":
        check_array(op, "target", target, dtype=input.dtype)  # probabilities
        total = target.size // classes if classes else 0
    else:
        target, total = _check_classes(op, target, input, weight, ignore_index)
    return target, total, weight, smoothing


def _cross_entropy(input, target, total, weight, smoothing, ignore_index, reduction, grad_output, both=False):
    """(loss, gradient): the loss where grad_output is None or `both`, the gradient where it is not None."""
    if target.dtype.kind == "f":
        return _soft_cross_entropy(input, target, total, weight, smoothing, reduction, grad_output)
    x = _dense(input)
    losses = gradient = row_scale = None
    scale, summed = 1.0, False
    if grad_output is None or both:
        summed = reduction != "none"
        losses = None if summed else _kernels.empty((target.size,), x.dtype)
    if grad_output is not None:
        gradient = empty_like(input)
        if reduction == "none":
            row_scale = contiguous(grad_output)
        else:
            scale = _divide(grad_output, total) if reduction == "mean" else grad_output
    value = _kernels.cross_entropy(
        *_extents(input), x, target, weight, ignore_index, smoothing, summed, row_scale, scale, losses, gradient
    )
    if summed:
        return _scalar(value, reduction, total, x.dtype), gradient
    return losses if losses is None else losses.reshape(_losses_shape(input))[()], gradient


def _soft_cross_entropy(input, target, total, weight, smoothing, reduction, grad_output):
    """Cross entropy with class probabilities for a target; (loss, gradient) as above."""
    x, t = _rows(input), _rows(target)
    classes = x.shape[1]
    if smoothing and classes:
        t = t * x.dtype.type(1 - smoothing) + x.dtype.type(smoothing / classes)
    if weight is not None:
        t = t * weight
    log_p = log_softmax(x, 1)
    losses = -(t * log_p).sum(axis=1)
    loss = _reduced(losses, reduction, total, _losses_shape(input))
    if grad_output is None:
        return loss, None
    scale = grad_output.reshape(-1, 1) if reduction == "none" else grad_output
    if reduction == "mean":
        scale = x.dtype.type(_divide(grad_output, total))
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
    reduction = _reduction(op, reduction, size_average, reduce)
    weight = _check_weight(op, weight, _class_count(op, input), input.dtype)
    target, total = _check_classes(op, target, input, weight, ignore_index)
    losses = None if reduction != "none" else _kernels.empty(_losses_shape(input), input.dtype)
    value = _kernels.nll(*_extents(input), _dense(input), target, weight, ignore_index, losses)
    return _scalar(value, reduction, total, input.dtype) if losses is None else losses[()]


def nll_loss_backward(grad_output, input, target, weight=None, ignore_index=-100, reduction="mean"):
    """Gradient of `nll_loss` with respect to input."""
    op = "nll_loss_backward"
    _reduction(op, reduction)
    weight = _check_weight(op, weight, _class_count(op, input), input.dtype)
    target, total = _check_classes(op, target, input, weight, ignore_index)
    scale, row_scale = _upstream(op, grad_output, reduction, _losses_shape(input), input.dtype), None
    if reduction == "none":
        scale, row_scale = 1.0, contiguous(scale)
    elif reduction == "mean":
        scale = _divide(scale, total)
    gradient = empty_like(input)
    _kernels.nll_backward(*_extents(input), target, weight, ignore_index, row_scale, scale, gradient)
    return gradient
