"""Layers that change the size of images without parameters, or the order of their channels."""

from pyconv import functional as F
from pyconv.functional._arguments import is_sequence, number
from pyconv.nn.module import Module


class Upsample(Module):
    """Resample images to another size, as ``torch.nn.Upsample``.

    Parameters
    ----------
    size : int or sequence of int, optional
        The output's spatial size; either this or `scale_factor`.
    scale_factor : float or sequence of float, optional
    mode : str
        As in `pyconv.functional.interpolate`.
    align_corners, recompute_scale_factor : bool, optional

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.Upsample(scale_factor=2, mode="bilinear")(np.zeros((1, 3, 8, 8), np.float32)).shape
    (1, 3, 16, 16)
    """

    def __init__(self, size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None):
        super().__init__()
        self.size = size
        if is_sequence(scale_factor):
            self.scale_factor = tuple(number("Upsample", "scale_factor", scale) for scale in scale_factor)
        else:
            self.scale_factor = number("Upsample", "scale_factor", scale_factor) if scale_factor else None
        self.mode, self.align_corners = mode, align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def _options(self):
        return self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor

    def forward(self, input):
        self._save(input.shape)
        return F.interpolate(input, *self._options())

    def backward(self, grad_output):
        (input_shape,) = self._take()
        return F.interpolate_backward(grad_output, input_shape, *self._options()) if self.needs_input_grad else None

    def extra_repr(self):
        size = f"size={self.size!r}" if self.scale_factor is None else f"scale_factor={self.scale_factor!r}"
        return f"{size}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """Resample images to the nearest pixel, as ``torch.nn.UpsamplingNearest2d``."""

    def __init__(self, size=None, scale_factor=None):
        super().__init__(size, scale_factor)


class UpsamplingBilinear2d(Upsample):
    """Resample images bilinearly with aligned corners, as ``torch.nn.UpsamplingBilinear2d``."""

    def __init__(self, size=None, scale_factor=None):
        super().__init__(size, scale_factor, "bilinear", True)


class PixelShuffle(Module):
    """(..., C r^2, H, W) to (..., C, H r, W r), as ``torch.nn.PixelShuffle``.

    Parameters
    ----------
    upscale_factor : int
        r.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.PixelShuffle(2)(np.zeros((1, 12, 8, 8), np.float32)).shape
    (1, 3, 16, 16)
    """

    def __init__(self, upscale_factor):
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input):
        return F.pixel_shuffle(input, self.upscale_factor)

    def backward(self, grad_output):
        return F.pixel_shuffle_backward(grad_output, self.upscale_factor) if self.needs_input_grad else None

    def extra_repr(self):
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """(..., C, H r, W r) to (..., C r^2, H, W), as ``torch.nn.PixelUnshuffle``.

    Parameters
    ----------
    downscale_factor : int
        r.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.PixelUnshuffle(2)(np.zeros((1, 3, 16, 16), np.float32)).shape
    (1, 12, 8, 8)
    """

    def __init__(self, downscale_factor):
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input):
        return F.pixel_unshuffle(input, self.downscale_factor)

    def backward(self, grad_output):
        return F.pixel_unshuffle_backward(grad_output, self.downscale_factor) if self.needs_input_grad else None

    def extra_repr(self):
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """One channel of each group in turn, as ``torch.nn.ChannelShuffle`` and ShuffleNet.

    Parameters
    ----------
    groups : int
        Divides the channels.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.ChannelShuffle(2)(np.arange(4.0).reshape(1, 4, 1, 1)).ravel()
    array([0., 2., 1., 3.])
    """

    def __init__(self, groups):
        super().__init__()
        self.groups = groups

    def forward(self, input):
        return F.channel_shuffle(input, self.groups)

    def backward(self, grad_output):
        return F.channel_shuffle_backward(grad_output, self.groups) if self.needs_input_grad else None

    def extra_repr(self):
        return f"groups={self.groups}"
