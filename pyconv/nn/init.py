"""Initial values, with the names and formulas of ``torch.nn.init``.

Each function fills an ndarray or a `Parameter` in place and returns it. The random ones draw from
`generator`, a ``numpy.random.Generator``, or else from the package's own (`pyconv.manual_seed`); the values
depend on the shape and dtype alone, not on how the array lies in memory.
"""

import math
import warnings

import numpy as np

from pyconv.random import default_generator

_LINEAR = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def calculate_gain(nonlinearity, param=None):
    """The factor by which to widen weights before a nonlinearity.

    Parameters
    ----------
    nonlinearity : str
        "linear", "conv2d" or the like, "sigmoid": 1; "tanh": 5/3; "relu": sqrt(2); "leaky_relu":
        sqrt(2 / (1 + slope**2)); "selu": 3/4.
    param : float, optional
        The slope of "leaky_relu", 0.01 by default.

    Returns
    -------
    float

    Examples
    --------
    >>> from pyconv.nn import init
    >>> init.calculate_gain("leaky_relu", 1.0)
    1.0
    """
    if nonlinearity in _LINEAR or nonlinearity == "sigmoid":
        return 1
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"calculate_gain: param must be a number; got {slope!r}")
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(
        "calculate_gain: nonlinearity must be linear, conv2d or the like, sigmoid, tanh, relu, leaky_relu or "
        f"selu; got {nonlinearity!r}"
    )


def _array(op, tensor):
    array = tensor if isinstance(tensor, np.ndarray) else getattr(tensor, "data", None)
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{op}: tensor must be an ndarray or a Parameter; got {type(tensor).__name__}")
    return array


def _fans(op, array):
    """The numbers of inputs that one output sees and of outputs that one input reaches."""
    if array.ndim < 2:
        raise ValueError(f"{op}: tensor must have at least 2 dimensions; got shape {array.shape}")
    field = math.prod(array.shape[2:])
    return array.shape[1] * field, array.shape[0] * field


def _draw(array, generator, kind, out=None):
    """An array, `out` if given, of standard draws of a `kind`, of the array's shape and, where there is such, its
    dtype."""
    generator = default_generator() if generator is None else generator
    if not isinstance(generator, np.random.Generator):
        raise TypeError(f"init: generator must be a numpy.random.Generator or None; got {generator!r}")
    dtype = array.dtype if array.dtype in (np.float32, np.float64) else np.float64
    return getattr(generator, kind)(array.shape, dtype, out)


def _fill(array, generator, kind, scale, shift):
    """Standard draws times `scale` plus `shift`: in place where that is possible, since a large layer's weight is
    most of what its process holds."""
    if array.flags.c_contiguous and array.flags.writeable and array.dtype in (np.float32, np.float64):
        _draw(array, generator, kind, array)
        array *= scale
        array += shift
    else:
        array[...] = _draw(array, generator, kind) * scale + shift


def uniform_(tensor, a=0.0, b=1.0, generator=None):
    """Fill with draws from the uniform distribution on [a, b)."""
    _fill(_array("uniform_", tensor), generator, "random", b - a, a)
    return tensor


def normal_(tensor, mean=0.0, std=1.0, generator=None):
    """Fill with draws from the normal distribution."""
    array = _array("normal_", tensor)
    if not std >= 0:
        raise ValueError(f"normal_: std must be at least 0; got {std}")
    _fill(array, generator, "standard_normal", std, mean)
    return tensor


def trunc_normal_(tensor, mean=0.0, std=1.0, a=-2.0, b=2.0, generator=None):
    """Fill with draws from the normal distribution, drawn again until they lie in [a, b]."""
    array = _array("trunc_normal_", tensor)
    if not (std > 0 and a < b and a < mean + 3 * std and b > mean - 3 * std):
        raise ValueError(
            f"trunc_normal_: [a, b] must reach within 3 std of mean; got mean={mean}, std={std}, a={a}, b={b}"
        )
    values = _draw(array, generator, "standard_normal") * std + mean
    outside = (values < a) | (values > b)
    while outside.any():
        values[outside] = _draw(values[outside], generator, "standard_normal") * std + mean
        outside = (values < a) | (values > b)
    array[...] = values
    return tensor


def constant_(tensor, val):
    """Fill with one value."""
    _array("constant_", tensor).fill(val)
    return tensor


def ones_(tensor):
    """Fill with ones."""
    return constant_(tensor, 1.0)


def zeros_(tensor):
    """Fill with zeros."""
    return constant_(tensor, 0.0)


def _xavier_std(op, tensor, gain):
    return gain * math.sqrt(2.0 / sum(_fans(op, _array(op, tensor))))


def xavier_uniform_(tensor, gain=1.0, generator=None):
    """Fill from the uniform distribution on +-gain * sqrt(6 / (fan_in + fan_out)).

    Parameters
    ----------
    tensor : ndarray or Parameter
        At least 2-dimensional: (out, in, ...).
    gain : float
        See `calculate_gain`.
    generator : numpy.random.Generator, optional

    References
    ----------
    Glorot, Bengio: Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010.
    """
    bound = math.sqrt(3.0) * _xavier_std("xavier_uniform_", tensor, gain)
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor, gain=1.0, generator=None):
    """Fill from the normal distribution of standard deviation gain * sqrt(2 / (fan_in + fan_out)).

    See `xavier_uniform_` for the parameters and the reference.
    """
    return normal_(tensor, 0.0, _xavier_std("xavier_normal_", tensor, gain), generator)


def _kaiming_std(op, tensor, a, mode, nonlinearity):
    """The standard deviation, or None where there is nothing to fill."""
    array = _array(op, tensor)
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{op}: mode must be 'fan_in' or 'fan_out'; got {mode!r}")
    if array.size == 0:
        warnings.warn(f"{op}: there is nothing to fill in shape {array.shape}", stacklevel=3)
        return None
    fan_in, fan_out = _fans(op, array)
    return calculate_gain(nonlinearity, a) / math.sqrt(fan_in if mode == "fan_in" else fan_out)


def kaiming_uniform_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu", generator=None):
    """Fill from the uniform distribution on +-gain * sqrt(3 / fan).

    Parameters
    ----------
    tensor : ndarray or Parameter
        At least 2-dimensional: (out, in, ...).
    a : float
        The slope of the leaky_relu that follows.
    mode : {"fan_in", "fan_out"}
        Whether to keep the variance of the outputs, or of the gradients in the backward pass.
    nonlinearity : str
        See `calculate_gain`.
    generator : numpy.random.Generator, optional

    References
    ----------
    He, Zhang, Ren, Sun: Delving deep into rectifiers, ICCV 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv.nn import init
    >>> weight = init.kaiming_uniform_(np.empty((64, 3, 5, 5)), generator=np.random.default_rng(0))
    >>> bool(abs(weight).max() <= (6 / 75) ** 0.5)
    True
    """
    std = _kaiming_std("kaiming_uniform_", tensor, a, mode, nonlinearity)
    return tensor if std is None else uniform_(tensor, -math.sqrt(3.0) * std, math.sqrt(3.0) * std, generator)


def kaiming_normal_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu", generator=None):
    """Fill from the normal distribution of standard deviation gain / sqrt(fan).

    See `kaiming_uniform_` for the parameters and the reference.
    """
    std = _kaiming_std("kaiming_normal_", tensor, a, mode, nonlinearity)
    return tensor if std is None else normal_(tensor, 0.0, std, generator)
