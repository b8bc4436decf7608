"""Normalisation layers."""

import math

import numpy as np

from pyconv import functional as F
from pyconv.functional._arguments import count, ints, is_int, layer_flag
from pyconv.functional.norm import _batch_norm, _group_norm, _instance_norm, _layer_norm
from pyconv.nn.module import Module
from pyconv.nn.parameter import Parameter


class _Affine(Module):
    """What all but LocalResponseNorm share: a weight of ones and a bias of zeros, or None; and the backward.

    Forward saves a normalisation of `functional`, whose `backward` gives the gradients.
    """

    def _set_parameters(self, shape, affine, bias, dtype):
        bias, dtype = layer_flag(type(self).__name__, "bias", bias), np.dtype(dtype or np.float32)
        self.register_parameter("weight", Parameter(np.ones(shape, dtype)) if affine else None)
        self.register_parameter("bias", Parameter(np.zeros(shape, dtype)) if affine and bias else None)

    def reset_parameters(self):
        """Set the weight to ones and the bias to zeros."""
        for parameter, value in ((self.weight, 1), (self.bias, 0)):
            if parameter is not None:
                parameter.data.fill(value)

    def _affine_arrays(self):
        return tuple(None if parameter is None else parameter.data for parameter in (self.weight, self.bias))

    def backward(self, grad_output):
        (job,) = self._take()
        return self._gradients(job, grad_output)[0]

    def _gradients(self, job, grad_output):
        """What the job's backward gives, but for the gradients of the parameters, which are added to theirs."""
        needs = self._needs(self.weight, self.bias)
        grad_input, grad_weight, grad_bias, *more = job.backward(grad_output, needs)
        self._accumulate(self.weight, grad_weight)
        self._accumulate(self.bias, grad_bias)
        return grad_input, *more


class _RunningNorm(_Affine):
    """What batch and instance norm share: running statistics."""

    _dimensions = ()
    _spare = ("num_batches_tracked",)

    def _setup(self, num_features, eps, momentum, affine, track_running_stats, dtype, bias):
        op = type(self).__name__
        self.num_features = count(op, "num_features", num_features, 0)
        self.eps = eps
        self.momentum = momentum
        self.affine = layer_flag(op, "affine", affine)
        self.track_running_stats = track = layer_flag(op, "track_running_stats", track_running_stats)
        self._set_parameters(self.num_features, affine, bias, dtype)
        dtype = np.dtype(dtype or np.float32)
        self.register_buffer("running_mean", np.zeros(self.num_features, dtype) if track else None)
        self.register_buffer("running_var", np.ones(self.num_features, dtype) if track else None)
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64) if track else None)

    def reset_running_stats(self):
        """Forget the running statistics: mean 0, variance 1."""
        if self.running_mean is not None:
            self.running_mean.fill(0)
            self.running_var.fill(1)
            self.num_batches_tracked.fill(0)

    def reset_parameters(self):
        """Set the weight to ones, the bias to zeros, and forget the running statistics."""
        self.reset_running_stats()
        super().reset_parameters()

    def _check_input(self, input):
        op = type(self).__name__
        if not isinstance(input, np.ndarray):
            raise TypeError(f"{op}: input must be a numpy.ndarray; got {type(input).__name__}")
        if input.ndim not in self._dimensions:
            wanted = " or ".join(map(str, self._dimensions))
            raise ValueError(f"{op}: input must have {wanted} dimensions; got shape {input.shape}")

    def extra_repr(self):
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_RunningNorm):
    def __init__(
        self,
        num_features,
        eps=1e-5,
        momentum=0.1,
        affine=True,
        track_running_stats=True,
        dtype=None,
        *,
        bias=True,
    ):
        super().__init__()
        self._setup(num_features, eps, momentum, affine, track_running_stats, dtype, bias)

    def forward(self, input, relu=False, residual=None, ceiling=math.nan):
        """The normalised input; `relu` and `residual` give relu(output + residual) in the same pass, and a
        `ceiling` that is a number is the most that the ReLU lets through."""
        self._check_input(input)
        momentum = 0.0 if self.momentum is None else self.momentum
        mean, var = self.running_mean, self.running_var
        if self.training:
            if not self.track_running_stats:
                mean = var = None
            elif self.num_batches_tracked is not None:
                self.num_batches_tracked[...] += 1
                if self.momentum is None:  # the average of all batches
                    momentum = 1.0 / float(self.num_batches_tracked)
        training = self.training or (mean is None and var is None)
        output, job = _batch_norm(
            input, mean, var, *self._affine_arrays(), training, momentum, self.eps, relu, residual, ceiling
        )
        self._save(job)
        return output

    def remake(self):
        """A function that returns the latest forward's output once more, or None where nothing was kept."""
        return self._saved[-1][0].remake if self._saved else None

    def backward(self, grad_output):
        """The gradient of the input, and with a residual (grad_input, grad_residual)."""
        (job,) = self._take()
        gradients = self._gradients(job, grad_output)
        return gradients if job.has_residual else gradients[0]


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L), as ``torch.nn.BatchNorm1d``.

    In training by the mean and variance of each channel of the batch, which the running statistics follow;
    in evaluation by the running statistics. See `functional.batch_norm`.

    Parameters
    ----------
    num_features : int
        C.
    eps : float
        Added to the variance.
    momentum : float or None
        The share of the new batch in the running statistics; None averages over all batches.
    affine : bool
        Whether there are a weight and a bias.
    track_running_stats : bool
        Without, evaluation too goes by the batch.
    dtype : float32 or float64, optional
    bias : bool
        Whether an affine layer has a bias.

    Attributes
    ----------
    weight, bias : Parameter (C,) or None
    running_mean, running_var : ndarray (C,) or None
    num_batches_tracked : ndarray () of int64, or None

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.BatchNorm1d(1, eps=1e-12)(np.array([[1.0], [3.0]], np.float32))
    array([[-1.],
           [ 1.]], dtype=float32)
    """

    _dimensions = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of images (N, C, H, W), as ``torch.nn.BatchNorm2d``.

    Parameters, attributes and meaning are those of `BatchNorm1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> layer = nn.BatchNorm2d(3)
    >>> layer(np.ones((2, 3, 4, 4), np.float32)).shape
    (2, 3, 4, 4)
    >>> layer.running_mean
    array([0.1, 0.1, 0.1], dtype=float32)
    """

    _dimensions = (4,)


class InstanceNorm2d(_RunningNorm):
    """Instance normalisation of (N, C, H, W) or (C, H, W), as ``torch.nn.InstanceNorm2d``.

    Each channel of each image by its own mean and variance. See `functional.instance_norm`.

    Parameters
    ----------
    num_features : int
        C.
    eps : float
        Added to the variance.
    momentum : float
        The share of the new batch in the running statistics.
    affine : bool
        Whether there are a weight and a bias.
    track_running_stats : bool
        Whether to keep running statistics, and to normalise by them in evaluation.
    dtype : float32 or float64, optional
    bias : bool
        Whether an affine layer has a bias.

    Attributes
    ----------
    weight, bias : Parameter (C,) or None
    running_mean, running_var : ndarray (C,) or None
    num_batches_tracked : ndarray () of int64, or None

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> bool(nn.InstanceNorm2d(3)(np.ones((2, 3, 4, 4), np.float32)).any())
    False
    """

    _dimensions = (3, 4)

    def __init__(
        self,
        num_features,
        eps=1e-5,
        momentum=0.1,
        affine=False,
        track_running_stats=False,
        dtype=None,
        *,
        bias=True,
    ):
        super().__init__()
        self._setup(num_features, eps, momentum, affine, track_running_stats, dtype, bias)

    def forward(self, input):
        self._check_input(input)
        momentum = 0.0 if self.momentum is None else self.momentum
        batched = input if input.ndim == 4 else input[np.newaxis]
        own = self.training or not self.track_running_stats
        output, job = _instance_norm(
            batched, self.running_mean, self.running_var, *self._affine_arrays(), own, momentum, self.eps
        )
        self._save(job)
        return output if input.ndim == 4 else output[0]

    def backward(self, grad_output):
        (job,) = self._take()
        batched = grad_output if grad_output.ndim == 4 else grad_output[np.newaxis]
        grad_input = self._gradients(job, batched)[0]
        return grad_input if grad_input is None or grad_output.ndim == 4 else grad_input[0]


class GroupNorm(_Affine):
    """Group normalisation of (N, C, ...), as ``torch.nn.GroupNorm``. See `functional.group_norm`.

    Parameters
    ----------
    num_groups, num_channels : int
        The first divides the second.
    eps : float
        Added to the variance.
    affine : bool
        Whether there are a weight and a bias.
    dtype : float32 or float64, optional
    bias : bool
        Whether an affine layer has a bias.

    Attributes
    ----------
    weight, bias : Parameter (num_channels,) or None

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> bool(nn.GroupNorm(2, 6)(np.ones((2, 6, 4, 4), np.float32)).any())
    False
    """

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True, dtype=None, *, bias=True):
        super().__init__()
        self.num_groups = count("GroupNorm", "num_groups", num_groups, 0)
        self.num_channels = count("GroupNorm", "num_channels", num_channels, 0)
        if self.num_groups == 0 or self.num_channels % self.num_groups:
            raise ValueError(
                "GroupNorm: num_groups must divide num_channels; "
                f"got num_groups={num_groups}, num_channels={num_channels}"
            )
        self.eps = eps
        self.affine = layer_flag("GroupNorm", "affine", affine)
        self._set_parameters(self.num_channels, affine, bias, dtype)

    def forward(self, input):
        output, job = _group_norm(input, self.num_groups, *self._affine_arrays(), self.eps)
        self._save(job)
        return output

    def extra_repr(self):
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class LayerNorm(_Affine):
    """Layer normalisation over the last dimensions, as ``torch.nn.LayerNorm``. See `functional.layer_norm`.

    Parameters
    ----------
    normalized_shape : int or tuple of int
        The last dimensions of the input.
    eps : float
        Added to the variance.
    elementwise_affine : bool
        Whether there are a weight and a bias.
    bias : bool
        Whether an affine layer has a bias.
    dtype : float32 or float64, optional

    Attributes
    ----------
    weight, bias : Parameter of shape normalized_shape, or None

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> bool(nn.LayerNorm([4, 4])(np.ones((2, 6, 4, 4), np.float32)).any())
    False
    """

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True, dtype=None):
        super().__init__()
        shape = (normalized_shape,) if is_int(normalized_shape) else normalized_shape
        self.normalized_shape = ints("LayerNorm", "normalized_shape", shape)
        self.eps = eps
        self.elementwise_affine = layer_flag("LayerNorm", "elementwise_affine", elementwise_affine)
        self._set_parameters(self.normalized_shape, elementwise_affine, bias, dtype)

    def forward(self, input):
        output, job = _layer_norm(input, self.normalized_shape, *self._affine_arrays(), self.eps)
        self._save(job)
        return output

    def extra_repr(self):
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class LocalResponseNorm(Module):
    """Local response normalisation, as ``torch.nn.LocalResponseNorm``. See `functional.local_response_norm`.

    Parameters
    ----------
    size : int
        The channels of a window.
    alpha, beta, k : float

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.LocalResponseNorm(5)(np.ones((2, 6, 4, 4), np.float32)).shape
    (2, 6, 4, 4)
    """

    def __init__(self, size, alpha=1e-4, beta=0.75, k=1.0):
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input):
        output = F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)
        self._save(input)
        return output

    def backward(self, grad_output):
        (input,) = self._take()
        if not self.needs_input_grad:
            return None
        return F.local_response_norm_backward(grad_output, input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self):
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
