"""Elementwise activations: y = f(x), and grad_input = f'(x) grad_output."""

from pyconv import _kernels
from pyconv.functional._arrays import check_array, dense, empty_like, like


def _unary(op, input, a=0.0, b=0.0):
    check_array(op, "input", input)
    x = dense(input)
    output = empty_like(x)
    _kernels.unary(_kernels.UNARY[op], x, a, b, output)
    return output


def _unary_backward(op, grad_output, input, a=0.0, b=0.0):
    check_array(f"{op}_backward", "input", input)
    check_array(f"{op}_backward", "grad_output", grad_output, dtype=input.dtype)
    if grad_output.shape != input.shape:
        raise ValueError(
            f"{op}_backward: grad_output must have the shape of input, {input.shape}; got {grad_output.shape}"
        )
    x = dense(input)
    grad_input = empty_like(x)
    _kernels.unary_backward(_kernels.UNARY[op], like(grad_output, x), x, a, b, grad_input)
    return grad_input


def relu(input):
    """Rectified linear unit, max(x, 0); NaN stays NaN.

    Parameters
    ----------
    input : ndarray
        Any shape, float32 or float64.

    Returns
    -------
    ndarray
        A new array of the input's shape, dtype and memory format.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.relu(np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 2.])
    """
    return _unary("relu", input)


def relu_backward(grad_output, input):
    """Gradient of `relu`: grad_output where input > 0, else 0. `input` may be relu's output as well."""
    return _unary_backward("relu", grad_output, input)
