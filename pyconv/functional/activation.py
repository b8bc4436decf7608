"""Elementwise activations: y = f(x), and grad_input = f'(x) grad_output.

Each takes an ndarray of any shape, float32 or float64, and returns a new one of its shape, dtype and memory
format. `inplace` is accepted for PyTorch's sake and ignored: inputs are never written to. NaN stays NaN.
Each ``*_backward`` takes the forward's input, which the derivative is computed from; those of `sigmoid` and `tanh`
need no exponential where they are given the output.
"""

import math

from pyconv import _kernels
from pyconv.functional._arguments import is_one_of, needed, number, shown
from pyconv.functional._arrays import check_array, check_gradient, contiguous, dense, empty_like, is_channels_last, like


def _unary(op, input, a=0.0, b=0.0, kernel=None):
    check_array(op, "input", input)
    x = dense(input)
    output = empty_like(x)
    _kernels.unary(_kernels.UNARY[kernel or op], x, a, b, output)
    return output


def _unary_backward(op, grad_output, input, a=0.0, b=0.0, kernel=None, argument="input"):
    name = f"{op}_backward"
    check_array(name, argument, input)
    check_gradient(name, grad_output, input)
    x = dense(input)
    grad_input = empty_like(x)
    g = like(grad_output, x)
    _kernels.unary_backward(_kernels.UNARY[kernel or op], g, x, a, b, grad_input)
    return grad_input


def _backward_of_output(op, grad_output, input, output):
    if output is None:
        return _unary_backward(op, grad_output, input)
    return _unary_backward(op, grad_output, output, kernel=f"{op}_output", argument="output")


def relu(input, inplace=False):
    """Rectified linear unit, max(x, 0).

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


def relu6(input, inplace=False):
    """min(max(x, 0), 6)."""
    return _unary("relu6", input, 0.0, 6.0, "hardtanh")


def relu6_backward(grad_output, input):
    """Gradient of `relu6`."""
    return _unary_backward("relu6", grad_output, input, 0.0, 6.0, "hardtanh")


def leaky_relu(input, negative_slope=0.01, inplace=False):
    """x where x > 0, else negative_slope x.

    Parameters
    ----------
    input : ndarray
        Any shape, float32 or float64.
    negative_slope : float

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.leaky_relu(np.array([-1.0, 2.0]), 0.1)
    array([-0.1,  2. ])
    """
    negative_slope = number("leaky_relu", "negative_slope", negative_slope)
    return _unary("leaky_relu", input, negative_slope)


def leaky_relu_backward(grad_output, input, negative_slope=0.01):
    """Gradient of `leaky_relu`."""
    negative_slope = number("leaky_relu_backward", "negative_slope", negative_slope)
    return _unary_backward("leaky_relu", grad_output, input, negative_slope)


def _ends(op, min_val, max_val):
    min_val, max_val = number(op, "min_val", min_val), number(op, "max_val", max_val)
    if min_val > max_val:
        raise ValueError(f"{op}: min_val must be at most max_val; got {min_val} and {max_val}")
    return min_val, max_val


def hardtanh(input, min_val=-1.0, max_val=1.0, inplace=False):
    """x held to [min_val, max_val]; the gradient is 0 at both ends.

    Parameters
    ----------
    input : ndarray
        Any shape, float32 or float64.
    min_val, max_val : float

    Raises
    ------
    ValueError
        When min_val is above max_val.
    """
    return _unary("hardtanh", input, *_ends("hardtanh", min_val, max_val))


def hardtanh_backward(grad_output, input, min_val=-1.0, max_val=1.0):
    """Gradient of `hardtanh`."""
    return _unary_backward("hardtanh", grad_output, input, *_ends("hardtanh_backward", min_val, max_val))


def hardsigmoid(input, inplace=False):
    """min(max(x + 3, 0), 6) / 6."""
    return _unary("hardsigmoid", input)


def hardsigmoid_backward(grad_output, input):
    """Gradient of `hardsigmoid`."""
    return _unary_backward("hardsigmoid", grad_output, input)


def hardswish(input, inplace=False):
    """x hardsigmoid(x) (Howard et al., Searching for MobileNetV3, 2019)."""
    return _unary("hardswish", input)


def hardswish_backward(grad_output, input):
    """Gradient of `hardswish`."""
    return _unary_backward("hardswish", grad_output, input)


def softsign(input):
    """x / (1 + abs(x))."""
    return _unary("softsign", input)


def softsign_backward(grad_output, input):
    """Gradient of `softsign`."""
    return _unary_backward("softsign", grad_output, input)


def sigmoid(input):
    """1 / (1 + exp(-x)).

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.sigmoid(np.array([0.0]))
    array([0.5])
    """
    return _unary("sigmoid", input)


def sigmoid_backward(grad_output, input=None, output=None):
    """Gradient of `sigmoid`: of its `output` y, which is quicker, y (1 - y) grad_output; else of its `input`."""
    return _backward_of_output("sigmoid", grad_output, input, output)


def tanh(input):
    """Hyperbolic tangent."""
    return _unary("tanh", input)


def tanh_backward(grad_output, input=None, output=None):
    """Gradient of `tanh`: of its `output` y, which is quicker, (1 - y^2) grad_output; else of its `input`."""
    return _backward_of_output("tanh", grad_output, input, output)


def silu(input, inplace=False):
    """x sigmoid(x), also known as swish."""
    return _unary("silu", input)


def silu_backward(grad_output, input):
    """Gradient of `silu`."""
    return _unary_backward("silu", grad_output, input)


def mish(input, inplace=False):
    """x tanh(softplus(x)) (Misra, Mish, 2019)."""
    return _unary("mish", input)


def mish_backward(grad_output, input):
    """Gradient of `mish`."""
    return _unary_backward("mish", grad_output, input)


def elu(input, alpha=1.0, inplace=False):
    """x where x > 0, else alpha (exp(x) - 1).

    Parameters
    ----------
    input : ndarray
        Any shape, float32 or float64.
    alpha : float
    """
    alpha = number("elu", "alpha", alpha)
    return _unary("elu", input, alpha, 1.0)


def elu_backward(grad_output, input, alpha=1.0):
    """Gradient of `elu`."""
    alpha = number("elu_backward", "alpha", alpha)
    return _unary_backward("elu", grad_output, input, alpha, 1.0)


def selu(input, inplace=False):
    """s x where x > 0, else s t (exp(x) - 1), with s = 1.0507... and t = 1.6732...

    Klambauer et al., Self-Normalizing Neural Networks, 2017.
    """
    return _unary("selu", input)


def selu_backward(grad_output, input):
    """Gradient of `selu`."""
    return _unary_backward("selu", grad_output, input)


def _celu_scales(op, alpha):
    alpha = number(op, "alpha", alpha)
    if alpha == 0:
        raise ValueError(f"{op}: alpha must not be 0")
    return alpha, 1 / alpha


def celu(input, alpha=1.0, inplace=False):
    """x where x > 0, else alpha (exp(x / alpha) - 1).

    Parameters
    ----------
    input : ndarray
        Any shape, float32 or float64.
    alpha : float
        Not 0.
    """
    return _unary("celu", input, *_celu_scales("celu", alpha), "elu")


def celu_backward(grad_output, input, alpha=1.0):
    """Gradient of `celu`."""
    return _unary_backward("celu", grad_output, input, *_celu_scales("celu_backward", alpha), "elu")


def softplus(input, beta=1.0, threshold=20.0):
    """log(1 + exp(beta x)) / beta, or x itself where beta x > threshold.

    Parameters
    ----------
    input : ndarray
        Any shape, float32 or float64.
    beta, threshold : float
    """
    beta = number("softplus", "beta", beta)
    threshold = number("softplus", "threshold", threshold)
    return _unary("softplus", input, beta, threshold)


def softplus_backward(grad_output, input, beta=1.0, threshold=20.0):
    """Gradient of `softplus`."""
    beta = number("softplus_backward", "beta", beta)
    threshold = number("softplus_backward", "threshold", threshold)
    return _unary_backward("softplus", grad_output, input, beta, threshold)


def _gelu_kernel(op, approximate):
    if not is_one_of(approximate, ("none", "tanh")):
        raise ValueError(f"{op}: approximate must be 'none' or 'tanh'; got {shown(approximate)}")
    return "gelu" if approximate == "none" else "gelu_tanh"


def gelu(input, approximate="none"):
    """x times the probability that a standard normal number is below x.

    Parameters
    ----------
    input : ndarray
        Any shape, float32 or float64.
    approximate : {"none", "tanh"}
        "tanh" takes 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) (Hendrycks and Gimpel, 2016).

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    return _unary("gelu", input, kernel=_gelu_kernel("gelu", approximate))


def gelu_backward(grad_output, input, approximate="none"):
    """Gradient of `gelu`."""
    return _unary_backward("gelu", grad_output, input, kernel=_gelu_kernel("gelu_backward", approximate))


def _prelu_view(op, input, weight):
    """`input` dense, and its sizes (outer, channels, inner) in memory order."""
    check_array(op, "input", input)
    check_array(op, "weight", weight, (0, 1), input.dtype)
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.size not in (1, channels):
        raise ValueError(
            f"{op}: weight must have 1 or {channels} elements for input of shape {input.shape}; got {weight.size}"
        )
    x = dense(input)
    if weight.size == 1:
        return x, (1, 1, x.size)
    if x.ndim == 4 and is_channels_last(x):
        n, c, h, w = x.shape
        return x, (n * h * w, c, 1)
    return x, (*x.shape[:2], math.prod(x.shape[2:]))


def prelu(input, weight):
    """x where x > 0, else weight x, with a weight for all or for each channel.

    Parameters
    ----------
    input : ndarray (N, C, ...), or of any shape for a single weight
        float32 or float64.
    weight : ndarray (C,) or (1,)
        Of the dtype of input.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.prelu(np.array([[-1.0, -1.0, 3.0]]), np.array([0.5, 0.25, 0.0]))
    array([[-0.5 , -0.25,  3.  ]])

    He et al., Delving Deep into Rectifiers, 2015.
    """
    x, view = _prelu_view("prelu", input, weight)
    output = empty_like(x)
    _kernels.prelu(*view, x, contiguous(weight), output)
    return output


def prelu_backward(grad_output, input, weight, *, needs=(True, True)):
    """Gradients of `prelu`: (grad_input, grad_weight), None for what is not needed."""
    op = "prelu_backward"
    x, view = _prelu_view(op, input, weight)
    check_array(op, "grad_output", grad_output, dtype=input.dtype)
    if grad_output.shape != input.shape:
        raise ValueError(f"{op}: grad_output must have shape {input.shape}; got {grad_output.shape}")
    needs = needed(op, needs, ("input", "weight"))
    grad_input = empty_like(x) if needs[0] else None
    grad_weight = _kernels.empty(weight.shape, weight.dtype) if needs[1] else None
    _kernels.prelu_backward(*view, like(grad_output, x), x, contiguous(weight), grad_input, grad_weight)
    return grad_input, grad_weight
