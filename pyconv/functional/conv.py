"""2-D convolution, its gradients, and its transpose."""

import math
from typing import NamedTuple

import numpy as np

from pyconv import _kernels
from pyconv.config import current_options
from pyconv.functional._arguments import as_key, ints, needed, pair, positive, remembered, shown
from pyconv.functional._arrays import FLOAT_DTYPES, channels_last, check_array, contiguous, wants_channels_last
from pyconv.functional.padding import pad as _pad

# ---- Arguments -------------------------------------------------------------------------------------


def _padding(op, padding, stride, dilation, kernel):
    """Zeros before and after, per direction: ((top, bottom), (left, right))."""
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"{op}: padding must be an int, a pair of ints, 'same' or 'valid'; got {padding!r}")
        if padding == "valid":
            return (0, 0), (0, 0)
        if stride != (1, 1):
            raise ValueError(f"{op}: padding='same' requires stride 1; got stride={stride}")
        totals = [d * (k - 1) for d, k in zip(dilation, kernel)]
        return tuple((total // 2, total - total // 2) for total in totals)
    top, left = pair(op, "padding", padding, 0)
    return (top, top), (left, left)


# Sizes stay far from overflowing: kernels copy some rows of the padded image, and count all elements.
MOST_PADDED, MOST_ELEMENTS = 2**40, 2**48


# Validation of a shape is done once: afterwards the same shapes find their geometry here.
@remembered
def _geometry(op, input_shape, weight_shape, stride, padding, dilation, groups, planes):
    """Check the shapes and options of a convolution; return its kernel geometry and output shape.

    planes: the images are C-contiguous, and otherwise channels-last.
    """
    stride = pair(op, "stride", stride, 1)
    dilation = pair(op, "dilation", dilation, 1)
    groups = positive(op, "groups", groups)
    n, c, h, w = input_shape
    k, channels, r, s = weight_shape
    if r < 1 or s < 1:
        raise ValueError(f"{op}: weight must have a kernel of at least 1 x 1; got shape {weight_shape}")
    if c % groups:
        raise ValueError(f"{op}: groups must divide in_channels; got in_channels={c}, groups={groups}")
    if k % groups:
        raise ValueError(f"{op}: groups must divide out_channels; got out_channels={k}, groups={groups}")
    if channels != c // groups:
        raise ValueError(
            f"{op}: weight must have in_channels / groups = {c // groups} channels (dimension 1) "
            f"for an input of shape {input_shape} and groups={groups}; got weight of shape {weight_shape}"
        )
    pads = _padding(op, padding, stride, dilation, (r, s))
    size = []
    for name, extent, kernel, step, spread, (before, after) in zip(
        ("height", "width"), (h, w), (r, s), stride, dilation, pads
    ):
        reach = spread * (kernel - 1) + 1
        if extent + before + after < reach:
            raise ValueError(
                f"{op}: the kernel must not be larger than the padded input; got kernel {name} {kernel} with "
                f"dilation {spread} (spanning {reach}) over input {name} {extent} + padding {before + after}"
            )
        size.append((extent + before + after - reach) // step + 1)
    padded = max(c, 1) * (h + sum(pads[0])) * (w + sum(pads[1]))
    if padded > MOST_PADDED:
        raise MemoryError(f"{op}: the padded input has {padded} elements an image; at most {MOST_PADDED} are possible")
    output_shape = (n, k, *size)
    for shape in (input_shape, weight_shape, output_shape):
        if math.prod(shape) > MOST_ELEMENTS:
            raise MemoryError(f"{op}: an array of shape {shape} is larger than the address space")
    before = tuple(pad[0] for pad in pads)
    kernel_geometry = _kernels.Conv2d(input_shape, weight_shape, output_shape, stride, before, dilation, groups, planes)
    return kernel_geometry, output_shape


def _plan(op, input_shape, weight_shape, stride, padding, dilation, groups, planes=False):
    options = as_key(stride), as_key(padding), as_key(dilation), groups
    return _geometry(op, input_shape, weight_shape, *options, planes)


def _images(array, planes):
    """The 4-D array, dense as a geometry of such images reads it."""
    return contiguous(array) if planes else channels_last(array)


def _bias(op, bias, output_shape, dtype):
    """`bias`, dense, or None; of the convolution's output_shape."""
    if bias is None:
        return None
    check_array(op, "bias", bias, 1, dtype)
    if bias.shape != output_shape[1:2]:
        raise ValueError(f"{op}: bias must have shape ({output_shape[1]},), one entry a filter; got {bias.shape}")
    return contiguous(bias)


def _algorithm():
    return _kernels.CONV_ALGORITHMS[current_options().conv_algorithm]


# ---- conv2d ----------------------------------------------------------------------------------------


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """2-D convolution of images with filters, as deep learning means it: cross-correlation.

    .. math:: y_{nkpq} = b_k + \\sum_{crs} w_{kcrs}\\, x_{n,\\,c,\\,pS + rD - P,\\,qS + sD - P}

    with stride S, padding P and dilation D. The filter is *not* flipped. The convolution of signal
    processing flips it in both directions; to have that, flip the filter first:
    ``conv2d(x, w[:, :, ::-1, ::-1])``.

    Parameters
    ----------
    input : ndarray, (N, C, H, W) or (C, H, W)
        float32 or float64, any strides. Channels-last memory is used as it is; other memory is
        converted first.
    weight : ndarray, (K, C / groups, R, S)
        Of the dtype of `input`.
    bias : ndarray, (K,), optional
    stride, dilation : int or pair of int
        At least 1; a pair is (vertical, horizontal).
    padding : int, pair of int, 'same' or 'valid'
        Zeros around the image. 'same' keeps its size and needs stride 1.
    groups : int
        Divides C and K; each group of filters sees its own C / groups channels.

    Returns
    -------
    ndarray, (N, K, P, Q) or (K, P, Q)
        P = (H + 2 padding - dilation (R - 1) - 1) // stride + 1, and Q likewise; in the memory
        format of `input`.

    Raises
    ------
    TypeError
        An argument is no float32 or float64 array, or the dtypes differ.
    ValueError
        The shapes don't fit; the message names the argument, the rule and the value.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> w = np.array([[[[1.0, 0.0], [0.0, -1.0]]]])
    >>> F.conv2d(x, w)[0, 0]
    array([[-4., -4.],
           [-4., -4.]])
    >>> F.conv2d(x, w[:, :, ::-1, ::-1])[0, 0]  # the convolution of signal processing
    array([[4., 4.],
           [4., 4.]])
    """
    return _convolve("conv2d", input, weight, bias, stride, padding, dilation, groups)


class PreparedWeight:
    """A weight that will not change, with what the kernels make of it, made once and kept.

    Packing and transforming weights takes a fifth of ResNet-18's time on one image. How it is laid out
    depends on the algorithm and its tiles, and so on the image's size: each layout is made when the first image
    needs it.
    """

    def __init__(self, data):
        self.data = contiguous(data)
        self._layouts = {}

    def __getstate__(self):
        return {"data": self.data, "_layouts": {}}  # a copy, perhaps on another machine, makes its own

    def prepared(self, geometry, algorithm):
        """The array for `_kernels.Conv2d.forward`; None where nothing is gained by keeping one."""
        layout, size = geometry.layout(self.data.dtype, algorithm)
        if not size:
            return None
        found = self._layouts.get(layout)
        if found is None:
            found = _kernels.empty((size,), self.data.dtype)
            geometry.prepare(self.data, algorithm, found)
            self._layouts[layout] = found
        return found


def _convolve(op, input, weight, bias, stride, padding, dilation, groups, residual=None, relu=False):
    """relu(conv2d(...) + residual); the layers use the epilogue, and `weight` may be a `PreparedWeight`."""
    kept, weight = (weight, weight.data) if type(weight) is PreparedWeight else (None, weight)
    check_array(op, "input", input, (3, 4))
    if input.ndim == 3:
        images = input[None], weight if kept is None else kept
        return _convolve(op, *images, bias, stride, padding, dilation, groups, residual, relu)[0]
    check_array(op, "weight", weight, 4, input.dtype)
    planes = not wants_channels_last(input)
    geometry, shape = _plan(op, input.shape, weight.shape, stride, padding, dilation, groups, planes)
    bias = _bias(op, bias, shape, input.dtype)
    output = _kernels.empty(shape, input.dtype, not planes)
    x = _images(input, planes)
    residual = None if residual is None else _images(residual, planes)
    algorithm = _algorithm()
    prepared = None if kept is None else kept.prepared(geometry, algorithm)
    geometry.forward(x, contiguous(weight), prepared, bias, residual, relu, algorithm, output)
    return output


def conv2d_backward(grad_output, input, weight, stride=1, padding=0, dilation=1, groups=1, *, needs=(True, True, True)):
    """Gradients of `conv2d` with respect to its input, weight and bias.

    .. math::
        \\partial x_{ncij} &= \\sum_{krs} w_{kcrs}\\, g_{n,\\,k,\\,(i + P - rD)/S,\\,(j + P - sD)/S} \\\\
        \\partial w_{kcrs} &= \\sum_{npq} g_{nkpq}\\, x_{n,\\,c,\\,pS + rD - P,\\,qS + sD - P} \\\\
        \\partial b_k &= \\sum_{npq} g_{nkpq}

    Parameters
    ----------
    grad_output : ndarray, (N, K, P, Q) or (K, P, Q)
        Gradient of the loss with respect to `conv2d`'s result.
    input, weight, stride, padding, dilation, groups
        As given to `conv2d`.
    needs : three bool
        Which of the gradients to compute.

    Returns
    -------
    grad_input, grad_weight, grad_bias : ndarray or None
        None for each that is not needed. Bit-for-bit the same at any number of threads.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> x, w = np.ones((1, 1, 3, 3)), np.full((1, 1, 2, 2), 2.0)
    >>> grad_input, grad_weight, grad_bias = F.conv2d_backward(np.ones((1, 1, 2, 2)), x, w)
    >>> grad_input[0, 0]
    array([[2., 4., 2.],
           [4., 8., 4.],
           [2., 4., 2.]])
    >>> grad_bias
    array([4.])
    """
    return _convolve_backward(grad_output, input, weight, stride, padding, dilation, groups, needs)


def _convolve_backward(grad_output, input, weight, stride, padding, dilation, groups, needs, residual=None):
    """conv2d_backward(...), with `residual`, of the input's shape, added to the gradient of the input."""
    op = "conv2d_backward"
    check_array(op, "input", input, (3, 4))
    check_array(op, "weight", weight, 4, input.dtype)
    check_array(op, "grad_output", grad_output, input.ndim, input.dtype)
    needs = needed(op, needs)
    if residual is not None:
        check_array(op, "residual", residual, input.ndim, input.dtype)
        if residual.shape != input.shape:
            raise ValueError(f"{op}: residual must have input's shape, {input.shape}; got {residual.shape}")
    if input.ndim == 3:
        residual = None if residual is None else residual[None]
        grad_input, grad_weight, grad_bias = _convolve_backward(
            grad_output[None], input[None], weight, stride, padding, dilation, groups, needs, residual
        )
        return None if grad_input is None else grad_input[0], grad_weight, grad_bias
    planes = not wants_channels_last(input)
    geometry, shape = _plan(op, input.shape, weight.shape, stride, padding, dilation, groups, planes)
    if grad_output.shape != shape:
        raise ValueError(f"{op}: grad_output must have conv2d's output shape, {shape}; got {grad_output.shape}")
    g = _images(grad_output, planes)
    grad_input = grad_weight = grad_bias = None
    if needs[0]:
        grad_input = _kernels.empty(input.shape, input.dtype, not planes)
        added = None if residual is None else _images(residual, planes)
        geometry.grad_input(g, contiguous(weight), added, _algorithm(), grad_input)
    if needs[1] or needs[2]:
        grad_weight = _kernels.empty(weight.shape, weight.dtype) if needs[1] else None
        grad_bias = _kernels.empty(shape[1:2], weight.dtype) if needs[2] else None
        x = _images(input, planes) if needs[1] else input
        geometry.grad_weight(g, x, _algorithm(), grad_weight, grad_bias)
    return grad_input, grad_weight, grad_bias


# ---- What a call would take ------------------------------------------------------------------------


class Conv2dPlan(NamedTuple):
    """How one pass of a convolution would be computed: see `explain_conv2d`."""

    conv_pass: str
    algorithm: str
    multiply_adds: int
    predicted_cycles: float
    lanes: int
    workspace: int
    workspace_per_thread: int

    def __str__(self):
        speed = 2 * self.multiply_adds / self.predicted_cycles if self.predicted_cycles else 0.0
        return (
            f"{self.conv_pass:11} {self.algorithm:9} {self.multiply_adds / 1e6:10.1f} M multiply-adds, "
            f"{self.predicted_cycles / 1e6:8.2f} M cycles of one core ({speed:.0f} operations a cycle, of "
            f"{4 * self.lanes} that it can do), workspace {self.workspace / 2**20:.2f} MiB + "
            f"{self.workspace_per_thread / 2**20:.2f} MiB a thread"
        )


def explain_conv2d(
    input_shape, weight_shape, stride=1, padding=0, dilation=1, groups=1, dtype=np.float32, channels_last=True
):
    """Which algorithm each pass of a convolution would take on this machine, and what it costs.

    Parameters
    ----------
    input_shape, weight_shape : tuple of int
        (N, C, H, W) and (K, C / groups, R, S).
    stride, padding, dilation, groups
        As for `conv2d`. The options in force (`pyconv.options`) count.
    dtype : float32 or float64
    channels_last : bool
        The images' memory format. Contiguous ones are computed as they lie ('planes') or copied to channels-last
        memory and back, in workspace; whichever the model finds sooner.

    Returns
    -------
    dict of str to Conv2dPlan
        For 'forward', 'grad_input' and 'grad_weight': the algorithm; the multiply-adds of the convolution's
        definition; the cycles that one core needs by the cost model of ``csrc/kernels/conv_choice.c``, were
        arithmetic all (a core does two vectors of `lanes` multiply-adds a cycle, so an algorithm with less
        arithmetic than the definition may do more operations a cycle than the core can); and the bytes of
        workspace, for the call and for each thread.

    Examples
    --------
    >>> import pyconv
    >>> plans = pyconv.explain_conv2d((8, 64, 56, 56), (64, 64, 3, 3), padding=1)
    >>> plans["forward"].algorithm
    'winograd'
    >>> for plan in plans.values():
    ...     print(plan)  # doctest: +SKIP
    """
    op = "explain_conv2d"
    if isinstance(dtype, np.ndarray) or dtype not in FLOAT_DTYPES:
        raise TypeError(f"{op}: dtype must be float32 or float64; got {shown(dtype)}")
    shapes = ints(op, "input_shape", input_shape), ints(op, "weight_shape", weight_shape)
    if any(len(shape) != 4 for shape in shapes):
        raise ValueError(f"{op}: input_shape and weight_shape must be four sizes each; got {shapes[0]}, {shapes[1]}")
    geometry, (n, k, p, q) = _plan(op, *shapes, stride, padding, dilation, groups, not channels_last)
    multiply_adds = n * k * p * q * shapes[1][1] * shapes[1][2] * shapes[1][3]
    plans = {}
    for conv_pass in _kernels.CONV_PASSES:
        name, cycles, lanes, shared, scratch = geometry.explain(conv_pass, np.dtype(dtype), _algorithm())
        plans[conv_pass] = Conv2dPlan(conv_pass, name, multiply_adds, cycles, lanes, shared, scratch)
    return plans


# ---- conv_transpose2d ------------------------------------------------------------------------------


def _transposed(op, input_shape, weight_shape, stride, padding, output_padding, groups, dilation):
    """Check `conv_transpose2d`'s options; return the shape of the output, and (rows, columns) of zeros for the input.

    Each whole stride of output_padding is as good as one more row (column) of zeros in the input.
    """
    stride = pair(op, "stride", stride, 1)
    padding = pair(op, "padding", padding, 0)
    dilation = pair(op, "dilation", dilation, 1)
    extra = pair(op, "output_padding", output_padding, 0)
    groups = positive(op, "groups", groups)
    n, c, h, w = input_shape
    if weight_shape[0] != c:
        raise ValueError(
            f"{op}: weight must have in_channels = {c} filters (dimension 0) for an input of shape "
            f"{input_shape}; got weight of shape {weight_shape}"
        )
    if c % groups:
        raise ValueError(f"{op}: groups must divide in_channels; got in_channels={c}, groups={groups}")
    size = []
    for name, extent, kernel, step, pad, more, spread in zip(
        ("height", "width"), (h, w), weight_shape[2:], stride, padding, extra, dilation
    ):
        if more >= step and more >= spread:
            raise ValueError(
                f"{op}: output_padding must be smaller than stride or dilation; got output_padding={more}, "
                f"stride={step}, dilation={spread}"
            )
        size.append((extent - 1) * step - 2 * pad + spread * (kernel - 1) + more + 1)
        if size[-1] < 1:
            raise ValueError(f"{op}: the output {name} must be positive; got {size[-1]} from input {name} {extent}")
    return (n, weight_shape[1] * groups, *size), tuple(more // step for more, step in zip(extra, stride))


def _with_zeros(input, zeros):
    rows, columns = zeros
    return _pad(input, (0, columns, 0, rows)) if rows or columns else input


def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed 2-D convolution: the gradient of `conv2d` with respect to its input, as an operator.

    Parameters
    ----------
    input : ndarray, (N, C, H, W) or (C, H, W)
        float32 or float64.
    weight : ndarray, (C, K / groups, R, S)
    bias : ndarray, (K,), optional
    stride, padding, output_padding, groups, dilation
        As in ``torch.nn.functional.conv_transpose2d``; `output_padding` is added to one side of the
        output's size and is smaller than stride or dilation.

    Returns
    -------
    ndarray, (N, K, P, Q) or (K, P, Q)
        P = (H - 1) stride - 2 padding + dilation (R - 1) + output_padding + 1, and Q likewise.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> F.conv_transpose2d(np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2)), stride=2)[0, 0]
    array([[1., 1., 1., 1.],
           [1., 1., 1., 1.],
           [1., 1., 1., 1.],
           [1., 1., 1., 1.]])
    """
    op = "conv_transpose2d"
    check_array(op, "input", input, (3, 4))
    check_array(op, "weight", weight, 4, input.dtype)
    if input.ndim == 3:
        return conv_transpose2d(input[None], weight, bias, stride, padding, output_padding, groups, dilation)[0]
    shape, zeros = _transposed(op, input.shape, weight.shape, stride, padding, output_padding, groups, dilation)
    planes = not wants_channels_last(input)
    geometry, _ = _plan(op, shape, weight.shape, stride, padding, dilation, groups, planes)
    bias = _bias(op, bias, shape, input.dtype)
    output = _kernels.empty(shape, input.dtype, not planes)
    x = _images(_with_zeros(input, zeros), planes)
    geometry.grad_input(x, contiguous(weight), None, _algorithm(), output)
    if bias is not None:
        output += bias.reshape(1, -1, 1, 1)
    return output


def conv_transpose2d_backward(
    grad_output,
    input,
    weight,
    stride=1,
    padding=0,
    output_padding=0,
    groups=1,
    dilation=1,
    *,
    needs=(True, True, True),
):
    """Gradients of `conv_transpose2d` with respect to its input, weight and bias.

    Parameters
    ----------
    grad_output : ndarray, (N, K, P, Q) or (K, P, Q)
    input, weight, stride, padding, output_padding, groups, dilation
        As given to `conv_transpose2d`.
    needs : three bool
        Which of the gradients to compute.

    Returns
    -------
    grad_input, grad_weight, grad_bias : ndarray or None
    """
    op = "conv_transpose2d_backward"
    check_array(op, "input", input, (3, 4))
    check_array(op, "weight", weight, 4, input.dtype)
    check_array(op, "grad_output", grad_output, input.ndim, input.dtype)
    needs = needed(op, needs)
    if input.ndim == 3:
        grad_input, grad_weight, grad_bias = conv_transpose2d_backward(
            grad_output[None], input[None], weight, stride, padding, output_padding, groups, dilation, needs=needs
        )
        return None if grad_input is None else grad_input[0], grad_weight, grad_bias
    shape, zeros = _transposed(op, input.shape, weight.shape, stride, padding, output_padding, groups, dilation)
    if grad_output.shape != shape:
        raise ValueError(
            f"{op}: grad_output must have conv_transpose2d's output shape, {shape}; got {grad_output.shape}"
        )
    planes = not wants_channels_last(input)
    geometry, _ = _plan(op, shape, weight.shape, stride, padding, dilation, groups, planes)
    x, g = _with_zeros(input, zeros), _images(grad_output, planes)
    grad_input = grad_weight = None
    if needs[0]:
        result = _kernels.empty(x.shape, input.dtype, not planes)
        geometry.forward(g, contiguous(weight), None, None, None, False, _algorithm(), result)
        grad_input = _images(result[:, :, : input.shape[2], : input.shape[3]], planes)
    if needs[1]:
        grad_weight = _kernels.empty(weight.shape, weight.dtype)
        geometry.grad_weight(_images(x, planes), g, _algorithm(), grad_weight, None)
    grad_bias = np.ascontiguousarray(g.sum(axis=(0, 2, 3))) if needs[2] else None
    return grad_input, grad_weight, grad_bias
