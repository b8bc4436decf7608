"""pad: more pixels around an image, of a constant or of the image's own."""

from functools import lru_cache

import numpy as np

from pyconv import _kernels
from pyconv.functional._arguments import check_limit, ints, is_int, is_one_of, is_sequence, number, shown
from pyconv.functional._arrays import check_array, wants_channels_last
from pyconv.functional._taps import Axis, apply

MODES = ("constant", "reflect", "replicate", "circular")


def _margins(op, shape, pad, mode):
    """(axis, before, after) of each padded dimension, the last dimension first."""
    if not is_sequence(pad) or not all(map(is_int, pad)):
        raise TypeError(f"{op}: pad must be a sequence of ints; got {shown(pad)}")
    check_limit(op, "pad", pad, pad)
    if not is_one_of(mode, MODES):
        raise ValueError(f"{op}: mode must be one of {', '.join(MODES)}; got {shown(mode)}")
    count = len(pad) // 2
    if len(pad) % 2 or count > len(shape):
        raise ValueError(
            f"{op}: pad must have two entries for each of at most {len(shape)} dimensions; got {len(pad)} entries"
        )
    if mode != "constant" and not (1 <= count <= 3 and len(shape) in (count + 1, count + 2)):
        raise ValueError(
            f"{op}: pad must have an entry for both ends of each of the last 1 to 3 dimensions but the first or "
            f"the first two, in mode {mode}; got {len(pad)} entries for an input of shape {shape}"
        )
    margins = []
    for i in range(count):
        before, after, axis = int(pad[2 * i]), int(pad[2 * i + 1]), len(shape) - 1 - i
        extent = shape[axis]
        if extent + before + after < 0:
            raise ValueError(f"{op}: pad must not cut off more than there is; got {pad!r} for shape {shape}")
        if mode == "reflect" and max(before, after) >= max(extent, 1):
            raise ValueError(f"{op}: pad must be less than the dimension in mode {mode}; got {pad!r} for shape {shape}")
        if mode == "circular" and max(before, after) > extent + min(before, 0) + min(after, 0):
            raise ValueError(f"{op}: pad must be at most what there is in mode {mode}; got {pad!r} for shape {shape}")
        if mode == "replicate" and extent == 0 and max(before, after) > 0:
            raise ValueError(f"{op}: there must be something to replicate; got shape {shape}")
        if (before, after) != (0, 0):
            margins.append((axis, before, after))
    return margins


@lru_cache(maxsize=256)
def _axis(extent, before, after, mode):
    """The Axis that an axis of `extent` elements becomes."""
    place = np.arange(-before, extent + after)
    if mode == "constant":
        place[(place < 0) | (place >= extent)] = -1
    elif mode == "replicate":
        place = place.clip(0, extent - 1)
    elif mode == "circular":
        first = max(-before, 0)  # of what is left after cutting
        place = first + (place - first) % max(extent + min(before, 0) + min(after, 0), 1)
    else:
        place = abs(place)
        place = np.where(place < extent, place, 2 * (extent - 1) - place)
    return Axis(extent, [place])


def _pad(array, shape, margins, mode, value, backward):
    """The array or its gradient in a fresh array of the same memory format; `shape` is the input's."""
    if not margins:
        copy = _kernels.empty(array.shape, array.dtype, array.ndim == 4 and wants_channels_last(array))
        copy[...] = array
        return copy
    axes = {axis: _axis(shape[axis], before, after, mode) for axis, before, after in margins}
    return apply(array, axes, backward, value)


def pad(input, pad, mode="constant", value=None):
    """Add to the ends of dimensions, or cut from them.

    Parameters
    ----------
    input : ndarray
        Any shape, float32 or float64, any strides.
    pad : sequence of int
        (left, right, top, bottom, ...): two for each dimension, the last dimension first. Negative ones cut.
    mode : "constant", "reflect", "replicate" or "circular"
        What is added: `value`; the image mirrored at its edge, which is not repeated; its edge; or its
        opposite side. All but "constant" take the last 1 to 3 dimensions of an input with one or two more.
    value : float, optional
        0 when None.

    Returns
    -------
    ndarray
        A new array in the memory format of the input.

    Raises
    ------
    ValueError
        If the mode is unknown or `pad` does not fit the shape, in "reflect" by as much as the dimension.

    Examples
    --------
    >>> import numpy as np, pyconv.functional as F
    >>> x = np.array([[1.0, 2.0, 3.0]])
    >>> F.pad(x, (1, 2), value=9)
    array([[9., 1., 2., 3., 9., 9.]])
    >>> F.pad(x, (1, 2), mode="reflect")
    array([[2., 1., 2., 3., 2., 1.]])
    """
    check_array("pad", "input", input)
    margins = _margins("pad", input.shape, pad, mode)
    value = 0.0 if value is None else number("pad", "value", value)
    if mode != "constant" and value != 0:
        raise ValueError(f"pad: value must be left out in mode {mode}; got {value!r}")
    return _pad(input, input.shape, margins, mode, value, False)


def pad_backward(grad_output, input_shape, pad, mode="constant", value=None):
    """Gradient of `pad`: each added element gives its gradient to the one that it copied.

    Parameters
    ----------
    grad_output : ndarray
    input_shape : tuple of int
    pad, mode, value
        As the forward pass had them.

    Returns
    -------
    ndarray
        grad_input, of shape `input_shape`, in the memory format of grad_output.
    """
    op = "pad_backward"
    check_array(op, "grad_output", grad_output)
    input_shape = ints(op, "input_shape", input_shape)
    margins = _margins(op, input_shape, pad, mode)
    wanted = list(input_shape)
    for axis, before, after in margins:
        wanted[axis] += before + after
    if grad_output.shape != tuple(wanted):
        raise ValueError(
            f"{op}: grad_output must have the shape of the output, {tuple(wanted)}; got {grad_output.shape}"
        )
    return _pad(grad_output, input_shape, margins, mode, 0.0, True)
