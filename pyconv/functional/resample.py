"""interpolate: images made larger or smaller.

Every mode is separable. Along each axis an output is a weighted sum of one input ("nearest"), two
("bilinear") or four ("bicubic"), and the gradient is the same sums transposed.
"""

from functools import lru_cache

import numpy as np

from pyconv.functional._arguments import LIMIT, check_limit, flag, ints, is_int, is_one_of, is_sequence, number, shown
from pyconv.functional._arrays import check_array
from pyconv.functional._taps import Axis, apply
from pyconv.functional.pooling import adaptive_avg_pool2d, adaptive_avg_pool2d_backward

SMOOTH = {"linear": 3, "bilinear": 4, "trilinear": 5, "bicubic": 4}  # mode -> dimensions of the input
MODES = ("nearest", "nearest-exact", "area", *SMOOTH)
FEW_ROWS_AND_COLUMNS = 128  # of an output, together, for which PyTorch has a kernel of its own


def _check_mode(op, shape, mode, align_corners):
    if not is_one_of(mode, MODES):
        raise ValueError(f"{op}: mode must be one of {', '.join(MODES)}; got {shown(mode)}")
    if len(shape) not in (3, 4, 5) or SMOOTH.get(mode, len(shape)) != len(shape):
        raise ValueError(f"{op}: input must have the dimensions that mode {mode} takes; got shape {shape}")
    if align_corners is not None:
        flag(op, "align_corners", align_corners)
        if mode not in SMOOTH:
            raise ValueError(f"{op}: align_corners must be left out in mode {mode}; got {align_corners}")


def _per_axis(op, name, value, axes):
    """`value`, one for all axes or one for each, as a tuple of as many."""
    values = tuple(value) if is_sequence(value) else (value,) * axes
    if len(values) != axes:
        raise ValueError(f"{op}: {name} must have an entry for each of {axes} axes; got {len(values)}")
    return values


def _scales(op, extents, scale_factor):
    """The scale of each axis, which makes it a size that there can be."""
    scales = _per_axis(op, "scale_factor", scale_factor, len(extents))
    scales = tuple(number(op, "scale_factor", scale) for scale in scales)
    for extent, scale in zip(extents, scales):
        if not scale > 0:
            raise ValueError(f"{op}: scale_factor must be positive; got {scale_factor!r}")
        if max(extent, 1) * scale >= LIMIT:
            raise ValueError(
                f"{op}: the size times scale_factor must be below 2**31; got {scale_factor!r} for size {extents}"
            )
    return scales


def _sizes(op, shape, size, scale_factor, mode, align_corners, recompute_scale_factor):
    """The output's spatial size, and the scale of each axis or None for the ratio of the sizes."""
    _check_mode(op, shape, mode, align_corners)
    if (size is None) == (scale_factor is None):
        raise ValueError(f"{op}: either size or scale_factor must be given; got {size} and {scale_factor}")
    recompute = recompute_scale_factor is not None and flag(op, "recompute_scale_factor", recompute_scale_factor)
    if recompute and size is not None:
        raise ValueError(f"{op}: recompute_scale_factor must be left out with a size; got {recompute_scale_factor}")
    extents = shape[2:]
    scales = (None,) * len(extents)
    if size is not None:
        sizes = _per_axis(op, "size", size, len(extents))
        if not all(map(is_int, sizes)):
            raise TypeError(f"{op}: size must be an int or ints; got {shown(size)}")
        sizes = tuple(map(int, sizes))
        check_limit(op, "size", sizes, size)
    else:
        factors = _scales(op, extents, scale_factor)
        sizes = tuple(int(extent * factor) for extent, factor in zip(extents, factors))
        scales = scales if recompute or mode == "area" else factors
    if 0 in shape[1:] or min(sizes) < 1:
        raise ValueError(
            f"{op}: input and output must have at least one pixel and channel; got shape {shape}, size {sizes}"
        )
    return sizes, scales


def _multiply_subtract(ratio, factor, minus):
    """ratio * factor - minus, rounded once, as the fused instruction that PyTorch is compiled to does.

    Where the product is rounded to `minus`, a neighbour would have a weight of 0 instead of 1e-8, and an infinite one
    would make the pixel NaN. factor: an array of multiples of 1/2 below 2^28, so both products are exact.
    """
    high = np.float64(np.float32(ratio))
    factor = factor.astype(np.float64)
    return ((high * factor - minus) + (ratio - high) * factor).astype(ratio.dtype)


def _ratio(extent, size, scale, real):
    """How many inputs there are to an output."""
    return real(1 / scale) if scale is not None else real(extent) / real(size)


def _nearest(extent, size, scale, exact, real, small):
    """The input that each output is, the one that PyTorch 2.13 takes of contiguous tensors.

    small: whether they are images for which it has a kernel of its own, that computes places in float32, and in
    mode "nearest" knows one and two outputs to an input by the sizes, whatever the scale says.
    """
    place = np.arange(size)
    if small and not exact and size in (extent, 2 * extent):
        return place // (size // extent)
    real = np.float32 if small else real
    ratio = _ratio(extent, size, scale, real)
    if not exact:
        position = place.astype(real) * ratio
    elif small:
        position = (place.astype(real) + real(0.5)) * ratio
    else:
        position = np.maximum(_multiply_subtract(ratio, place + 0.5, 0.5), 0) + real(0.5)
    return np.minimum(np.floor(position.astype(np.float32)).astype(np.intp), extent - 1)  # of a float32 in any case


@lru_cache(maxsize=256)
def _axis(extent, size, scale, mode, align_corners, dtype, small):
    """The Axis of `size` outputs that an axis of `extent` inputs becomes; `small` is for `_nearest`.

    Places are computed in dtype, as PyTorch does.
    """
    last = extent - 1
    place = np.arange(size)
    if mode == "area":
        begin, end = place * extent // size, -(-(place + 1) * extent // size)
        taps = range((end - begin).max())
        places = [np.where(begin + tap < end, begin + tap, -1) for tap in taps]
        return Axis(extent, places, [(1 / (end - begin)).astype(dtype) for _ in taps])
    if mode.startswith("nearest"):
        return Axis(extent, [_nearest(extent, size, scale, mode == "nearest-exact", dtype.type, small)])
    real = dtype.type
    place = place.astype(real)
    if align_corners:
        position = place * (real(last) / real(size - 1) if size > 1 else real(0))
    else:
        ratio = _ratio(extent, size, scale, real)
        position = _multiply_subtract(ratio, place + real(0.5), real(0.5))
    if mode != "bicubic":
        position = np.maximum(position, 0)
    below = np.minimum(np.floor(position.astype(np.float32)).astype(np.intp), last)  # of a float32, in PyTorch
    t = np.clip(position - below.astype(real), 0, 1)
    if mode == "bicubic":
        a = real(-0.75)

        def near(x):
            return ((a + 2) * x - (a + 3)) * x * x + 1

        def far(x):
            return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

        weights = [weight.astype(dtype) for weight in (far(t + 1), near(t), near(1 - t), far(2 - t))]
        return Axis(extent, [np.clip(below + k - 1, 0, last) for k in range(4)], weights)
    if size == extent:
        # whatever the scale says; PyTorch adds to the pixel 0 times itself
        return Axis(extent, [place.astype(np.intp)] * 2, [np.ones(size, dtype), np.zeros(size, dtype)])
    return Axis(extent, [below, np.minimum(below + 1, last)], [1 - t, t])


def _resample(array, extents, sizes, scales, mode, align_corners, backward):
    """The sums along every axis, in the memory format of the array."""
    small = len(sizes) == 2 and sum(sizes) <= FEW_ROWS_AND_COLUMNS
    axes = {2 + i: _axis(extent, size, scale, mode, bool(align_corners), array.dtype, small)
            for i, (extent, size, scale) in enumerate(zip(extents, sizes, scales))}  # fmt: skip
    return apply(array, axes, backward)


def interpolate(
    input,
    size=None,
    scale_factor=None,
    mode="nearest",
    align_corners=None,
    recompute_scale_factor=None,
):
    """Resample images to another size.

    Parameters
    ----------
    input : ndarray, (N, C, H, W); also (N, C, L) and (N, C, D, H, W)
        float32 or float64, any strides.
    size : int or sequence of int, optional
        The output's spatial size; either this or `scale_factor`.
    scale_factor : float or sequence of float, optional
        The output's size is floor(size scale_factor).
    mode : "nearest", "nearest-exact", "area", "linear", "bilinear", "trilinear" or "bicubic"
        linear takes 3-D, bilinear and bicubic 4-D, trilinear 5-D input.
    align_corners : bool, optional
        Whether the centres of the corner pixels of input and output coincide, rather than their corners;
        for the smooth modes only.
    recompute_scale_factor : bool, optional
        Whether the ratio of the sizes is the scale, rather than `scale_factor`.

    Returns
    -------
    ndarray
        (N, C, ...) of the size asked for, in the memory format of the input.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> x = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> F.interpolate(x, scale_factor=2)[0, 0]
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.],
           [3., 3., 4., 4.],
           [3., 3., 4., 4.]])
    >>> F.interpolate(x, size=(1, 3), mode="bilinear", align_corners=True)[0, 0]
    array([[1. , 1.5, 2. ]])
    """
    op = "interpolate"
    check_array(op, "input", input)
    sizes, scales = _sizes(op, input.shape, size, scale_factor, mode, align_corners, recompute_scale_factor)
    if mode == "area" and input.ndim == 4:
        return adaptive_avg_pool2d(input, sizes)
    return _resample(input, input.shape[2:], sizes, scales, mode, align_corners, False)


def interpolate_backward(
    grad_output,
    input_shape,
    size=None,
    scale_factor=None,
    mode="nearest",
    align_corners=None,
    recompute_scale_factor=None,
):
    """Gradient of `interpolate`.

    Parameters
    ----------
    grad_output : ndarray
    input_shape : tuple of int
    size, scale_factor, mode, align_corners, recompute_scale_factor
        As the forward pass had them.

    Returns
    -------
    ndarray
        grad_input, of shape `input_shape`, in the memory format of grad_output.
    """
    op = "interpolate_backward"
    check_array(op, "grad_output", grad_output)
    input_shape = ints(op, "input_shape", input_shape)
    sizes, scales = _sizes(op, input_shape, size, scale_factor, mode, align_corners, recompute_scale_factor)
    if grad_output.shape != (*input_shape[:2], *sizes):
        raise ValueError(
            f"{op}: grad_output must have the shape of the output, {(*input_shape[:2], *sizes)}; "
            f"got {grad_output.shape}"
        )
    if mode == "area" and grad_output.ndim == 4:
        return adaptive_avg_pool2d_backward(grad_output, input_shape)
    return _resample(grad_output, input_shape[2:], sizes, scales, mode, align_corners, True)
