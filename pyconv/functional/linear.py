"""Linear: y = x W^T + b over the last dimension of x."""

import numpy as np

from pyconv import _kernels
from pyconv.functional._arguments import needed
from pyconv.functional._arrays import check_array, contiguous


def _check(op, input, weight, bias):
    check_array(op, "input", input)
    check_array(op, "weight", weight, ndim=(1, 2), dtype=input.dtype)
    if input.ndim == 0 or input.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"{op}: input must have {weight.shape[-1]} features in its last dimension, as weight of shape "
            f"{weight.shape} has; got shape {input.shape}"
        )
    if bias is not None:
        check_array(op, "bias", bias, ndim=1 if weight.ndim == 2 else 0, dtype=input.dtype)
        if bias.shape != weight.shape[:-1]:
            raise ValueError(f"{op}: bias must have shape {weight.shape[:-1]}; got {bias.shape}")


def _rows(array, features):
    """The array as a dense matrix of `features` columns."""
    dense = contiguous(array)
    if dense.ndim == 2:
        return dense
    return dense.reshape(dense.size // features if features else int(np.prod(array.shape[:-1])), features)


def _shaped(array, shape):
    """The array in a shape that it mostly has already: a small network's step notices the calls."""
    return array if array.shape == shape else array.reshape(shape)


def linear(input, weight, bias=None):
    """y = x W^T + b.

    Parameters
    ----------
    input : ndarray (..., in_features)
        float32 or float64; one dimension or more.
    weight : ndarray (out_features, in_features) or (in_features,)
        A vector stands for one output feature, whose dimension the result then lacks.
    bias : ndarray (out_features,), optional

    Returns
    -------
    ndarray (..., out_features)

    Raises
    ------
    ValueError
        When the numbers of features do not agree.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.linear(np.array([1.0, 2.0]), np.array([[1.0, 1.0], [0.0, 3.0]]), np.array([0.0, 1.0]))
    array([3., 7.])
    """
    return _linear(input, weight, bias, False)


def _linear(input, weight, bias, relu):
    """linear, followed by relu where asked."""
    _check("linear", input, weight, bias)
    out_features, in_features = weight.shape if weight.ndim == 2 else (1, weight.shape[0])
    x = _rows(input, in_features)
    output = _kernels.empty((x.shape[0], out_features), x.dtype)
    b = None if bias is None else contiguous(bias)
    _kernels.linear_forward(x, _rows(weight, in_features), b, relu, output)
    return _shaped(output, input.shape[:-1] + weight.shape[:-1])


def linear_backward(grad_output, input, weight, *, needs=(True, True, True)):
    """Gradients of `linear`.

    Parameters
    ----------
    grad_output : ndarray (..., out_features)
    input, weight : ndarray
        What `linear` saw.
    needs : three bools
        Which of the gradients of input, weight and bias to compute.

    Returns
    -------
    (grad_input, grad_weight, grad_bias)
        None for those not needed.
    """
    _check("linear_backward", input, weight, None)
    check_array("linear_backward", "grad_output", grad_output, dtype=input.dtype)
    if grad_output.shape != input.shape[:-1] + weight.shape[:-1]:
        raise ValueError(
            f"linear_backward: grad_output must have shape {input.shape[:-1] + weight.shape[:-1]}; "
            f"got {grad_output.shape}"
        )
    needs = needed("linear_backward", needs)
    out_features, in_features = weight.shape if weight.ndim == 2 else (1, weight.shape[0])
    g = _rows(grad_output, out_features) if weight.ndim == 2 else contiguous(grad_output).reshape(-1, 1)
    grad_input = grad_weight = grad_bias = None
    if needs[0]:
        grad_input = _kernels.empty((g.shape[0], in_features), g.dtype)
        _kernels.linear_grad_input(g, _rows(weight, in_features), grad_input)
        grad_input = _shaped(grad_input, input.shape)
    if needs[1] or needs[2]:
        grad_weight = _kernels.empty((out_features, in_features), g.dtype) if needs[1] else None
        grad_bias = _kernels.empty((out_features,), g.dtype) if needs[2] else None
        _kernels.linear_grad_weight(g, _rows(input, in_features), grad_weight, grad_bias)
        grad_weight = _shaped(grad_weight, weight.shape) if needs[1] else None
        grad_bias = _shaped(grad_bias, weight.shape[:-1]) if needs[2] else None
    return grad_input, grad_weight, grad_bias
