"""Normalisation: batch, group, instance, layer and local response norm; `_normalization` does the work of most."""

import math

import numpy as np

from pyconv import _kernels
from pyconv.functional._arguments import count, flag, integer, ints, is_int, needed, number
from pyconv.functional._arrays import check_array, check_gradient, dense, empty_like, like, wants_channels_last
from pyconv.functional._normalization import (
    BatchNormalization,
    GroupNormalization,
    LayerNormalization,
    Normalization,
    channels_are_last,
)


def _check_input(op, input, least):
    check_array(op, "input", input)
    if input.ndim < least:
        raise ValueError(f"{op}: input must have at least {least} dimensions; got shape {input.shape}")


def _check_vectors(op, input, shape, **arrays):
    for name, array in arrays.items():
        if array is not None:
            check_array(op, name, array, dtype=input.dtype)
            if array.shape != shape:
                raise ValueError(f"{op}: {name} must have shape {shape}; got {array.shape}")


def _check_running(op, running_mean, running_var):
    """Raise unless there are both statistics to follow the batch, or neither."""
    if (running_mean is None) != (running_var is None):
        missing = "running_mean" if running_mean is None else "running_var"
        raise ValueError(f"{op}: running_mean and running_var must both be given or both be None; got no {missing}")


def _momentum(op, running_mean, running_var, momentum):
    """`momentum` as a float; raise unless the statistics can be updated."""
    for name, array in (("running_mean", running_mean), ("running_var", running_var)):
        if array is not None and not array.flags.writeable:
            raise ValueError(f"{op}: {name} must be writeable where it is updated; got a read-only array")
    return number(op, "momentum", momentum)


def _update(running, value, momentum):
    if running is not None:
        running *= 1 - momentum
        running += momentum * value


# ---- Batch norm --------------------------------------------------------------------------------------


def _start_batch_norm(
    op, input, running_mean, running_var, weight, bias, training, eps, relu=False, unless="when training is False"
):
    """Check the arguments; (what normalises the input, eps)."""
    _check_input(op, input, 2)
    flag(op, "training", training)
    channels = (input.shape[1],)
    _check_vectors(op, input, channels, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    if not training and (running_mean is None or running_var is None):
        raise ValueError(f"{op}: running_mean and running_var must be given {unless}; got None")
    _check_running(op, running_mean, running_var)
    eps = number(op, "eps", eps)
    if not (eps > 0 if training else eps >= 0):
        least = "above 0 in training" if training else "at least 0"
        raise ValueError(f"{op}: eps must be {least}; got {eps}")
    if training and input.size == channels[0] > 0:
        raise ValueError(f"{op}: input must have more than 1 value per channel in training; got shape {input.shape}")
    x = dense(input)
    if training and input.size and channels_are_last(x):
        return BatchNormalization(x, relu), eps
    job = Normalization(x, relu)
    if training and input.size:
        job.measure()
    elif training:
        job.use(np.zeros(channels), np.ones(channels))
    else:
        job.use(running_mean, running_var)
    return job, eps


def _batch_norm(
    input,
    running_mean,
    running_var,
    weight,
    bias,
    training,
    momentum,
    eps,
    relu=False,
    residual=None,
    ceiling=math.nan,
):
    """(output, what the backward needs) of relu(batch_norm(input) + residual), of which each part is optional.

    The ReLU is cut off at `ceiling`, where that is a number.

    The second is a Normalization or BatchNormalization, whose `backward` gives all gradients; the layers keep it.
    """
    op = "batch_norm"
    job, eps = _start_batch_norm(op, input, running_mean, running_var, weight, bias, training, eps, relu)
    if training:
        momentum = _momentum(op, running_mean, running_var, momentum)
    job.norm.ceiling = ceiling
    if residual is not None:
        check_array(op, "residual", residual, dtype=input.dtype)
        if residual.shape != input.shape:
            raise ValueError(f"{op}: residual must have the shape of input, {input.shape}; got {residual.shape}")
        residual = like(residual, job.x)
    output = job.forward(weight, bias, eps, residual)
    if job.measured:
        mean, var = job.statistics()
        with np.errstate(all="ignore"):
            _update(running_mean, mean, momentum)
            _update(running_var, var * (job.count / (job.count - 1)), momentum)
    return output, job


def batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """Batch normalisation, over all but the channel dimension.

    Parameters
    ----------
    input : ndarray (N, C) or (N, C, ...)
        float32 or float64.
    running_mean, running_var : ndarray (C,) or None
        What to normalise by when not training. In training both are updated in place, the variance without
        bias: ``running = (1 - momentum) * running + momentum * batch``.
    weight, bias : ndarray (C,) or None
        Scale and shift after the normalisation.
    training : bool
        Whether to normalise by the batch's own mean and (biased) variance.
    momentum : float
    eps : float
        Added to the variance.

    Returns
    -------
    ndarray
        A new array of the input's shape, dtype and memory format.

    Raises
    ------
    ValueError
        If a shape does not fit, or training has a single value per channel.

    References
    ----------
    Ioffe, Szegedy: Batch normalization: Accelerating deep network training by reducing internal covariate
    shift, ICML 2015.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.batch_norm(np.array([[1.0], [3.0]]), None, None, training=True, eps=1e-12)
    array([[-1.],
           [ 1.]])
    """
    return _batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)[0]


def batch_norm_backward(
    grad_output,
    input,
    running_mean,
    running_var,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    *,
    needs=(True, True, True),
):
    """Gradients of `batch_norm`: (grad_input, grad_weight, grad_bias), None where `needs` is False.

    The running statistics are read when not training, and never written to.
    """
    op = "batch_norm_backward"
    job, eps = _start_batch_norm(op, input, running_mean, running_var, weight, bias, training, eps)
    return _gradients(op, job, grad_output, weight, eps, needs)


def _gradients(op, job, grad_output, weight, eps, needs):
    """What job.forward would have left for the backward, and the gradients of input, weight and bias."""
    check_gradient(op, grad_output, job.x)
    needs = needed(op, needs)
    job.prepare(weight, eps)
    return job.backward(grad_output, needs)[:3]


# ---- Group and instance norm -------------------------------------------------------------------------


def _start_group_norm(op, input, num_groups, weight, bias, eps):
    """(GroupNormalization, eps), checked."""
    _check_input(op, input, 2)
    batch, channels = input.shape[:2]
    num_groups = integer(op, "num_groups", num_groups)
    if num_groups <= 0 or channels % num_groups:
        raise ValueError(f"{op}: num_groups must divide the channels; got {channels} channels, num_groups={num_groups}")
    _check_vectors(op, input, (channels,), weight=weight, bias=bias)
    if input.size == batch * num_groups == num_groups:
        raise ValueError(f"{op}: input must have more than 1 value per group; got shape {input.shape}")
    return GroupNormalization(dense(input), num_groups), number(op, "eps", eps)


def _group_norm(input, num_groups, weight, bias, eps):
    """(output, GroupNormalization), as `_batch_norm`."""
    job, eps = _start_group_norm("group_norm", input, num_groups, weight, bias, eps)
    return job.forward(weight, bias, eps), job


def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5):
    """Group normalisation: each image by the mean and variance of each group of its channels.

    Parameters
    ----------
    input : ndarray (N, C, ...)
        float32 or float64.
    num_groups : int
        Divides C.
    weight, bias : ndarray (C,) or None
        Scale and shift after the normalisation.
    eps : float
        Added to the variance.

    Returns
    -------
    ndarray
        A new array of the input's shape, dtype and memory format.

    References
    ----------
    Wu, He: Group normalization, ECCV 2018.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.group_norm(np.array([[1.0, 3.0, 10.0, 30.0]]), 2, eps=0.0)
    array([[-1.,  1., -1.,  1.]])
    """
    return _group_norm(input, num_groups, weight, bias, eps)[0]


def group_norm_backward(grad_output, input, num_groups, weight=None, bias=None, eps=1e-5, *, needs=(True, True, True)):
    """Gradients of `group_norm`: (grad_input, grad_weight, grad_bias), None where `needs` is False."""
    op = "group_norm_backward"
    job, eps = _start_group_norm(op, input, num_groups, weight, bias, eps)
    return _gradients(op, job, grad_output, weight, eps, needs)


def _start_instance_norm(op, input, running_mean, running_var, weight, bias, use_input_stats, eps):
    """(what normalises, eps), checked; by running statistics that is batch norm."""
    if not flag(op, "use_input_stats", use_input_stats):
        unless = "without use_input_stats"
        return _start_batch_norm(op, input, running_mean, running_var, weight, bias, False, eps, unless=unless)
    _check_input(op, input, 2)
    eps = number(op, "eps", eps)
    _check_running(op, running_mean, running_var)
    channels = input.shape[1]
    _check_vectors(op, input, (channels,), running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    if math.prod(input.shape[2:]) == 1:
        raise ValueError(f"{op}: input must have more than 1 value per channel; got shape {input.shape}")
    return GroupNormalization(dense(input), channels), eps


def _instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps):
    """(output, what the backward needs), as `_batch_norm`."""
    op = "instance_norm"
    job, eps = _start_instance_norm(op, input, running_mean, running_var, weight, bias, use_input_stats, eps)
    if use_input_stats:
        momentum = _momentum(op, running_mean, running_var, momentum)
    output = job.forward(weight, bias, eps)
    if use_input_stats and input.size:
        _update(running_mean, job.mean.mean(0), momentum)
        _update(running_var, job.var.mean(0) * (job.count / (job.count - 1)), momentum)
    return output, job


def instance_norm(
    input,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
):
    """Instance normalisation: each channel of each image by its own mean and variance.

    Parameters
    ----------
    input : ndarray (N, C, ...)
        float32 or float64.
    running_mean, running_var : ndarray (C,) or None
        Updated in place by the averages over the batch, or without `use_input_stats` what to normalise by.
    weight, bias : ndarray (C,) or None
        Scale and shift after the normalisation.
    use_input_stats : bool
    momentum : float
        Of the running statistics, as in `batch_norm`.
    eps : float
        Added to the variance.

    Returns
    -------
    ndarray
        A new array of the input's shape, dtype and memory format.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky: Instance normalization: The missing ingredient for fast stylization, 2016.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.instance_norm(np.array([[[1.0, 3.0], [10.0, 30.0]]]), eps=0.0)
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """
    return _instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)[0]


def instance_norm_backward(
    grad_output,
    input,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
    *,
    needs=(True, True, True),
):
    """Gradients of `instance_norm`: (grad_input, grad_weight, grad_bias), None where `needs` is False."""
    op = "instance_norm_backward"
    job, eps = _start_instance_norm(op, input, running_mean, running_var, weight, bias, use_input_stats, eps)
    return _gradients(op, job, grad_output, weight, eps, needs)


# ---- Layer norm --------------------------------------------------------------------------------------


def _start_layer_norm(op, input, normalized_shape, weight, bias, eps):
    """(LayerNormalization, eps), checked."""
    check_array(op, "input", input)
    eps = number(op, "eps", eps)
    shape = (normalized_shape,) if is_int(normalized_shape) else normalized_shape
    shape = ints(op, "normalized_shape", shape)
    if not shape or input.shape[max(input.ndim - len(shape), 0) :] != shape:
        raise ValueError(
            f"{op}: normalized_shape must be the last dimensions of input; got {shape} for shape {input.shape}"
        )
    _check_vectors(op, input, shape, weight=weight, bias=bias)
    return LayerNormalization(input, shape, weight, bias), eps


def _layer_norm(input, normalized_shape, weight, bias, eps):
    """(output, LayerNormalization), as `_batch_norm`."""
    job, eps = _start_layer_norm("layer_norm", input, normalized_shape, weight, bias, eps)
    return job.forward(eps), job


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Layer normalisation: by the mean and variance over the last dimensions.

    Parameters
    ----------
    input : ndarray (..., *normalized_shape)
        float32 or float64.
    normalized_shape : int or tuple of int
        The last dimensions of the input, which share a mean and a variance.
    weight, bias : ndarray of shape normalized_shape, or None
        Scale and shift after the normalisation.
    eps : float
        Added to the variance.

    Returns
    -------
    ndarray
        A new array of the input's shape, dtype and memory format.

    References
    ----------
    Ba, Kiros, Hinton: Layer normalization, 2016.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.layer_norm(np.array([[1.0, 3.0], [10.0, 30.0]]), 2, eps=0.0)
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    return _layer_norm(input, normalized_shape, weight, bias, eps)[0]


def layer_norm_backward(
    grad_output, input, normalized_shape, weight=None, bias=None, eps=1e-5, *, needs=(True, True, True)
):
    """Gradients of `layer_norm`: (grad_input, grad_weight, grad_bias), None where `needs` is False."""
    op = "layer_norm_backward"
    job, eps = _start_layer_norm(op, input, normalized_shape, weight, bias, eps)
    needs = needed(op, needs)
    check_gradient(op, grad_output, input)
    job.prepare(eps)
    return job.backward(grad_output, needs)


# ---- Local response norm -----------------------------------------------------------------------------


def _response_options(op, input, size, **numbers):
    """(size, alpha, beta, k), checked."""
    _check_input(op, input, 3)
    numbers = [number(op, name, value) for name, value in numbers.items()]
    return count(op, "size", size, 1), *numbers


def _local_response_norm(grad_output, input, size, alpha, beta, k):
    """The output, or where grad_output is not None the gradient of the input."""
    x = dense(input)
    g = None if grad_output is None else like(grad_output, x)
    batch, channels = x.shape[:2]
    channels_last = x.ndim == 4 and wants_channels_last(x)
    window = (min(size // 2, channels), min((size - 1) // 2, channels))
    result = empty_like(x)
    sizes = (batch, math.prod(x.shape[2:]), channels)
    _kernels.local_response_norm(sizes, not channels_last, window, alpha / size, beta, k, g, x, result)
    return result


def local_response_norm(input, size, alpha=1e-4, beta=0.75, k=1.0):
    """Local response normalisation: x / (k + alpha * mean of x^2 over `size` channels around) ** beta.

    Parameters
    ----------
    input : ndarray (N, C, ...)
        float32 or float64, of at least 3 dimensions.
    size : int
        The channels of a window, those beyond the ends counted as zeros.
    alpha, beta, k : float

    Returns
    -------
    ndarray
        A new array of the input's shape, dtype and memory format.

    References
    ----------
    Krizhevsky, Sutskever, Hinton: ImageNet classification with deep convolutional neural networks, 2012.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.local_response_norm(np.full((1, 1, 1), 2.0), 1, alpha=2.0, beta=0.5)
    array([[[0.66666667]]])
    """
    options = _response_options("local_response_norm", input, size, alpha=alpha, beta=beta, k=k)
    return _local_response_norm(None, input, *options)


def local_response_norm_backward(grad_output, input, size, alpha=1e-4, beta=0.75, k=1.0):
    """Gradient of `local_response_norm` with respect to its input."""
    op = "local_response_norm_backward"
    options = _response_options(op, input, size, alpha=alpha, beta=beta, k=k)
    check_gradient(op, grad_output, input)
    return _local_response_norm(grad_output, input, *options)
