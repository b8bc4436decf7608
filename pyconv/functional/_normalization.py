"""What normalises an array and knows how back: the state between a norm's forward and its backward.

`Normalization` has one mean and variance for each channel of the whole batch, `GroupNormalization` one for each
group of channels of each batch entry: instance norm has groups of one channel, `LayerNormalization` takes an entry
for a single channel, and `BatchNormalization` takes a channels-last batch for one entry. The C kernels take sums
over an array, and apply to it what is made of these in float64.
"""

import math

import numpy as np

from pyconv import _kernels
from pyconv.functional._arrays import (
    channels_last,
    check_gradient,
    contiguous,
    dense,
    empty_like,
    like,
    wants_channels_last,
)


def channels_are_last(x):
    """Whether a dense (N, C, ...) array holds pixel after pixel: one long run of them, whatever the batch."""
    return math.prod(x.shape[2:]) == 1 or (x.ndim == 4 and wants_channels_last(x))


class Normalization:
    """One array, normalised: y = (x - mean) * rstd * weight + bias, then optionally + residual and ReLU.

    Parameters
    ----------
    x : ndarray
        Two or more dimensions, (N, C, ...), dense.
    relu : bool
        Whether max(y, 0) is taken in the same pass.
    """

    def __init__(self, x, relu=False):
        batch, channels = x.shape[:2]
        rows, last = math.prod(x.shape[2:]), channels_are_last(x)
        if last:
            batch, rows = 1, batch * rows
        self.x = x
        self.norm = _kernels.Norm(batch, rows, channels, not last, relu)
        self.batch, self.rows = batch, rows
        self.count = batch * rows  # elements that share a mean

    def measure(self):
        """Take the mean and the biased variance from the array itself."""
        mean, square = self.norm.moments(self.x)
        with np.errstate(all="ignore"):  # NaN and infinity pass through silently, here and below
            if self.batch > 1:
                center = mean.mean(0, keepdims=True)
                square = (square + self.rows * (mean - center) ** 2).sum(0, keepdims=True)
                mean = center
            self.mean, self.var, self.measured = mean[0], square[0] / self.count, True

    def statistics(self):
        """Mean and biased variance of each channel."""
        return self.mean, self.var

    def use(self, mean, var):
        """Take the mean and variance of each channel from running statistics."""
        self.mean, self.var = mean.astype(np.float64), var.astype(np.float64)
        self.measured = False

    def prepare(self, weight, eps):
        """Set what forward and backward both need."""
        with np.errstate(all="ignore"):
            self.rstd = 1 / np.sqrt(self.var + eps)
        self.weight = None if weight is None else weight.astype(np.float64)
        self.norm.mean = self._spread(self.mean)
        self.has_residual = False
        self.output = None  # forward's, where backward can't compute the ReLU's mask again

    def forward(self, weight, bias, eps, residual=None):
        """The normalised array, in the memory format of x."""
        self.prepare(weight, eps)
        norm = self.norm
        norm.scale = self._spread(self.rstd if weight is None else self.rstd * self.weight)
        norm.bias = self._spread(np.zeros(1) if bias is None else bias.astype(np.float64))
        output = empty_like(self.x)
        norm.normalize(self.x, residual, output)
        self.has_residual = residual is not None
        if self.has_residual and norm.relu:
            self.output = output
        return output

    def remake(self):
        """What forward returned, made once more, to the same bits; for those without residual."""
        output = empty_like(self.x)
        self.norm.normalize(self.x, None, output)
        return output

    def backward(self, grad_output, needs=(True, True, True)):
        """Gradients of x, weight and bias, and of the residual, or None for those not needed."""
        check_gradient("backward", grad_output, self.x)  # layers come here with what their caller gave
        with np.errstate(all="ignore"):
            return self._backward(like(grad_output, self.x), needs)

    def _backward(self, g, needs):
        x, norm = self.x, self.norm
        weight = 1.0 if self.weight is None else self.weight
        if x.size == 0:
            return (*_empty_gradients(x, x.shape[1], needs), g)
        relu = norm.relu
        if self.output is not None or needs[1] or needs[2] or (needs[0] and self.measured):
            masked = None if self.output is None else empty_like(x)
            total, product = (sums.sum(0) for sums in norm.gradient_sums(g, x, self.output, masked))
            if masked is not None:
                g, relu = masked, False
        grads = [None, None, None, g]
        if needs[1]:
            grads[1] = (product * self.rstd).astype(x.dtype)
        if needs[2]:
            grads[2] = total.astype(x.dtype)
        if needs[0]:
            grads[0] = empty_like(x)
            slope, pull = self._spread(weight * self.rstd), np.zeros(1)
            if self.measured:
                pull = -self.rstd / self.count * weight * total
                tilt = -(self.rstd**3) / self.count * weight * product
            if self.measured or relu:
                norm.relu, before = relu, norm.relu
                tilt = self._spread(tilt if self.measured else pull)
                norm.gradient(g, x, None, slope, tilt, self._spread(pull), grads[0])
                norm.relu = before
            else:
                linear = _kernels.Norm(*norm.sizes)
                linear.mean = linear.bias = self._spread(pull)
                linear.scale = slope
                linear.normalize(g, None, grads[0])
        return tuple(grads)

    def _spread(self, values):
        """The statistics as the kernels read them: one for each batch entry and channel."""
        return np.ascontiguousarray(np.broadcast_to(values, (self.batch, self.x.shape[1])))


class GroupNormalization:
    """One array, each batch entry of which is normalised by the statistics of its own groups of channels.

    Parameters
    ----------
    x : ndarray
        Two or more dimensions, (N, C, ...), dense.
    groups : int
        Divides C.

    Attributes
    ----------
    mean : ndarray (N, C)
        The mean of each channel's group, after `forward`.
    var : ndarray (N, groups)
        The biased variance.
    """

    def __init__(self, x, groups):
        self.x, self.groups = x, groups
        rows = math.prod(x.shape[2:])
        channels_last = x.ndim == 4 and wants_channels_last(x)
        self.norm = _kernels.Norm(x.shape[0], rows, x.shape[1], not channels_last)
        self.count = rows * x.shape[1] // max(groups, 1)  # elements that share a mean

    @property
    def mean(self):
        return self.norm.mean

    def prepare(self, weight, eps, bias=None):
        """What `forward` does for `backward`, without an output."""
        self._run(weight, bias, eps, None)

    def forward(self, weight, bias, eps):
        """The normalised array, in the memory format of x."""
        output = empty_like(self.x)
        self._run(weight, bias, eps, output)
        return output

    def _run(self, weight, bias, eps, output):
        self.eps = eps
        if self.x.size:
            self.weight, bias = (None if array is None else array.astype(np.float64) for array in (weight, bias))
            self.var = self.norm.normalize_groups(self.groups, eps, self.weight, bias, self.x, output)

    def backward(self, grad_output, needs=(True, True, True)):
        """Gradients of x, weight and bias, or None for those not needed."""
        check_gradient("backward", grad_output, self.x)
        x, norm = self.x, self.norm
        if x.size == 0:
            return _empty_gradients(x, x.shape[1], needs)
        g = like(grad_output, x)
        grads = [empty_like(x) if needs[0] else None, None, None]
        total = product = None
        if needs[0]:
            total, product = norm.gradient_groups(self.var, self.eps, g, x, grads[0])
        elif needs[1] or needs[2]:
            total, product = norm.gradient_sums(g, x, None, None)
        with np.errstate(all="ignore"):
            self._set_weight_gradients(grads, total, product, needs)
        return tuple(grads)

    def _set_weight_gradients(self, grads, total, product, needs):
        """grads[1] and grads[2], from the sums of each entry and channel."""
        dtype, channels = self.x.dtype, self.x.shape[1]
        if needs[1]:
            rstd = 1 / np.sqrt(self.var + self.eps)
            if self.groups < channels:
                rstd = np.repeat(rstd, channels // self.groups, axis=1)
            grads[1] = _sum_entries(product * rstd).astype(dtype)
        if needs[2]:
            grads[2] = _sum_entries(total).astype(dtype)


class BatchNormalization(GroupNormalization):
    """What `Normalization` is, measured, for a channels-last array that has elements.

    It is one entry, each of whose channels is a group: so what lies between the passes is done in C, and a norm of
    few elements takes half of the time.
    """

    measured = True
    remake = Normalization.remake

    def __init__(self, x, relu=False):
        self.x, self.groups = x, x.shape[1]
        self.count = x.size // self.groups
        self.norm = _kernels.Norm(1, self.count, self.groups, False, relu)
        self.has_residual, self.output = False, None  # output: as Normalization's

    def statistics(self):
        """Mean and biased variance of each channel, after forward."""
        return self.mean[0], self.var[0]

    def forward(self, weight, bias, eps, residual=None):
        """The normalised array, + residual, in the memory format of x."""
        if residual is None:
            return super().forward(weight, bias, eps)
        self.prepare(weight, eps, bias)
        output = empty_like(self.x)
        self.norm.normalize(self.x, residual, output)
        self.has_residual, self.output = True, output if self.norm.relu else None
        return output

    def backward(self, grad_output, needs=(True, True, True)):
        """Gradients of x, weight and bias, and of the residual, or None for those not needed."""
        if self.output is None:
            return (*super().backward(grad_output, needs), grad_output)
        check_gradient("backward", grad_output, self.x)
        x, norm, masked = self.x, self.norm, empty_like(self.x)
        total, product = norm.gradient_sums(like(grad_output, x), x, self.output, masked)
        grads = [empty_like(x) if needs[0] else None, None, None, masked]
        with np.errstate(all="ignore"):
            tilt = -(norm.scale * product) / (self.count * (self.var + self.eps))
            pull = -(norm.scale * total) / self.count
            self._set_weight_gradients(grads, total, product, needs)
        if needs[0]:
            norm.relu = False
            norm.gradient(masked, x, None, norm.scale, tilt, pull, grads[0])
            norm.relu = True
        return tuple(grads)


def _sum_entries(values):
    """The sum over a batch: of one entry, without the time that adding takes NumPy."""
    return values[0] if len(values) == 1 else values.sum(0)


def _empty_gradients(x, shape, needs):
    """The gradients of an x without elements, and of weights that it does not touch."""
    grads = (empty_like(x), np.zeros(shape, x.dtype), np.zeros(shape, x.dtype))
    return tuple(grad if need else None for grad, need in zip(grads, needs))


class LayerNormalization:
    """An input of layer norm as rows of elements to normalise, and the way back; channels-last stays so."""

    def __init__(self, input, shape, weight, bias):
        self.shape = shape
        self.model = dense(input)
        self.last = input.ndim == 4 and len(shape) == 3 and wants_channels_last(self.model)
        elements = math.prod(shape)
        self.sizes = (input.size // elements if elements else 0, elements)
        # Few images: a kernel that reads weight and bias in their own order saves two passes over as many elements.
        self.turned = self.last and self.sizes[0] <= 8 and (weight is not None or bias is not None)
        self.elements = (weight, bias)
        self.job = GroupNormalization(self._rows(self.model), 1)
        if not self.turned:
            self.job.norm.weight, self.job.norm.shift = self._row(weight), self._row(bias)

    def forward(self, eps):
        if not self.turned or self.model.size == 0:
            return self._image(self.job.forward(None, None, eps))
        self.job.prepare(None, eps)
        norm, output = self.job.norm, _kernels.empty(self.job.x.shape, self.model.dtype)
        norm.weight, norm.shift = (None if array is None else contiguous(array) for array in self.elements)
        norm.normalize_turned(self.shape[0], self.job.x, output)
        return self._image(output)

    def prepare(self, eps):
        self.job.prepare(None, eps)

    def backward(self, grad_output, needs):
        """Gradients of the input, weight and bias, or None for those not needed."""
        check_gradient("backward", grad_output, self.model)
        if self.model.size == 0:
            return _empty_gradients(self.model, self.shape, needs)
        g, norm = self._rows(grad_output), self.job.norm
        grads = [None, None, None]
        if (needs[1] or needs[2]) and self.turned:
            grads[1], grads[2] = (_kernels.empty(self.shape, g.dtype) for _ in range(2))
            norm.element_sums_turned(self.shape[0], g, self.job.x, grads[1], grads[2])
            grads = [grad if need else None for grad, need in zip(grads, needs)]
        elif needs[1] or needs[2]:
            product, total = (_kernels.empty(self.sizes[1:], g.dtype) for _ in range(2))
            norm.element_sums(g, self.job.x, product, total)
            grads[1] = self._weight(product) if needs[1] else None
            grads[2] = self._weight(total) if needs[2] else None
        if needs[0] and self.turned and self.elements[0] is not None:
            norm.weight, g = None, self._weighted(g)
        if needs[0]:
            grads[0] = self._image(self.job.backward(g, (True, False, False))[0])
        return tuple(grads)

    def _weighted(self, rows):
        """`rows` times the weight, which lies in its own order."""
        product, norm = _kernels.empty(rows.shape, rows.dtype), _kernels.Norm(*self.job.norm.sizes)
        norm.mean, norm.scale = np.zeros(self.sizes[0]), np.ones(self.sizes[0])
        norm.weight = contiguous(self.elements[0])
        norm.normalize_turned(self.shape[0], rows, product)
        return product

    def _rows(self, array):
        """An array of the input's shape as (rows, 1, elements)."""
        if self.last:
            array = channels_last(array).transpose(0, 2, 3, 1)
        return contiguous(array).reshape(self.sizes[0], 1, self.sizes[1])

    def _image(self, rows):
        """`rows` in the input's shape and memory format."""
        if not self.last:
            return rows.reshape(self.model.shape)
        n, c, h, w = self.model.shape
        return rows.reshape(n, h, w, c).transpose(0, 3, 1, 2)

    def _row(self, array):
        """A weight or bias in the order of a row's elements; None stays None."""
        if array is None:
            return None
        return (channels_last(array[None]).transpose(0, 2, 3, 1) if self.last else contiguous(array)).reshape(-1)

    def _weight(self, row):
        """The reverse of `_row`."""
        if not self.last:
            return row.reshape(self.shape)
        c, h, w = self.shape
        return contiguous(row.reshape(1, h, w, c).transpose(0, 3, 1, 2))[0]
