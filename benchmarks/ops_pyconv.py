"""pyconv's side of the race of operators: the calls of each case's forward and backward. Never imports torch."""

import numpy as np

import pyconv.functional as F
from benchmarks import data
from pyconv import nn


def channels_last(array):
    """A copy whose strides say so even with one channel, where both formats hold the same elements in order."""
    n, c, h, w = array.shape
    result = np.empty((n, h, w, c), array.dtype).transpose(0, 3, 1, 2)
    result[...] = array
    return result


def calls(case, memory_format=channels_last):
    """(forward, backward) of any operator; the backward gives all the gradients there are."""

    def formatted(array):
        return memory_format(array) if array.ndim == 4 else array

    def gradient(output, seed=2):
        """What a backward starts from, in the format of the output."""
        return formatted(data.normal(*output.shape, seed=seed)) if np.ndim(output) else np.float32(1)

    name = case["op"]
    x = formatted(data.normal(*case["shape"]))
    build = next((build for build, names in BUILDERS.items() if name in names), unary)
    return build(name, x, case["options"], gradient)


def functions(name):
    return getattr(F, name), getattr(F, f"{name}_backward")


def unary(name, x, options, gradient):
    """Those whose backward needs the input."""
    forward, backward = functions(name)
    grad = gradient(forward(x, **options))
    return lambda: forward(x, **options), lambda: backward(grad, x, **options)


def of_output(name, x, options, gradient):
    """Those whose backward needs the output alone, as their layers keep it."""
    forward, backward = functions(name)
    output = forward(x, **options)
    grad = gradient(output)
    return lambda: forward(x, **options), lambda: backward(grad, output=output, **options)


def of_shape(name, x, options, gradient):
    """Those whose backward needs the input's shape alone."""
    forward, backward = functions(name)
    grad = gradient(forward(x, **options))
    more = {} if name.startswith("adaptive") else options
    return lambda: forward(x, **options), lambda: backward(grad, x.shape, **more)


def shuffle(name, x, options, gradient):
    """Those whose backward needs nothing but its options."""
    forward, backward = functions(name)
    grad = gradient(forward(x, **options))
    return lambda: forward(x, **options), lambda: backward(grad, **options)


def max_pool(name, x, options, gradient):
    forward, backward = functions(name)
    output, indices = forward(x, **options, return_indices=True)
    grad = gradient(output)
    return lambda: forward(x, **options, return_indices=True)[0], lambda: backward(grad, indices, x.shape)


def max_unpool(name, x, options, gradient):
    pooled, indices = F.max_pool2d(x, **options, return_indices=True)
    grad = gradient(x)
    return lambda: F.max_unpool2d(pooled, indices, **options), lambda: F.max_unpool2d_backward(grad, indices)


def prelu(name, x, options, gradient):
    weight, grad = np.full(x.shape[1], 0.25, np.float32), gradient(x)
    return lambda: F.prelu(x, weight), lambda: F.prelu_backward(grad, x, weight)[0]


def dropout(name, x, options, gradient):
    grad, p = gradient(x), options["p"]
    mask = F.dropout(x, p, return_mask=True)[1]
    return lambda: F.dropout(x, p, return_mask=True)[0], lambda: F.dropout_backward(grad, mask, p)


def join(name, x, options, gradient):
    """Forward only: in PyTorch the gradients are views of the output's."""
    other = gradient(x, 1)
    return (lambda: F.add(x, x)) if name == "add" else (lambda: F.cat([x, other], 1)), None


def linear(name, x, options, gradient):
    weight = data.normal(options["out_features"], x.shape[1], seed=1)
    bias = np.zeros(len(weight), np.float32)
    grad = gradient(F.linear(x, weight, bias))
    return lambda: F.linear(x, weight, bias), lambda: F.linear_backward(grad, x, weight)[0]


def softmax(name, x, options, gradient):
    forward, backward = functions(name)
    output = forward(x, **options)
    grad = gradient(output)
    return lambda: forward(x, **options), lambda: backward(grad, None, **options, output=output)


def loss(name, x, options, gradient):
    forward, backward = functions(name)
    if name in ("cross_entropy", "nll_loss"):
        target = data.labels(x.size // x.shape[1], x.shape[1]).reshape(x.shape[:1] + x.shape[2:])
    else:
        target = gradient(x)
    return lambda: forward(x, target), lambda: backward(np.float32(1), x, target)


def normalisation(name, x, options, gradient):
    """The layers' forward keeps the statistics for the backward, as PyTorch does."""
    channels = x.shape[1]
    layer = {"batch_norm": lambda: nn.BatchNorm2d(channels),
             "instance_norm": lambda: nn.InstanceNorm2d(channels, affine=True),
             "group_norm": lambda: nn.GroupNorm(options["num_groups"], channels),
             "layer_norm": lambda: nn.LayerNorm(x.shape[1:])}[name]()  # fmt: skip
    grad = gradient(x)
    layer(x)
    (saved,) = layer._take()

    def backward():
        layer._save(saved)
        return layer.backward(grad)

    return lambda: layer(x), backward


BUILDERS = {
    of_output: ("sigmoid", "tanh"),
    of_shape: ("avg_pool2d", "adaptive_avg_pool2d", "interpolate", "pad"),
    shuffle: ("pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    max_pool: ("max_pool2d", "adaptive_max_pool2d"),
    max_unpool: ("max_unpool2d",),
    prelu: ("prelu",),
    dropout: ("dropout",),
    join: ("add", "cat"),
    linear: ("linear",),
    softmax: ("softmax", "log_softmax"),
    loss: ("cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss",
           "binary_cross_entropy_with_logits"),
    normalisation: ("batch_norm", "instance_norm", "group_norm", "layer_norm"),
}  # fmt: skip
