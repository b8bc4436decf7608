"""Padding layers."""

from pyconv import functional as F
from pyconv.functional._arguments import is_sequence
from pyconv.nn.module import Module


class _Pad2d(Module):
    """An int pads all four sides, (left, right, top, bottom) each its own."""

    mode = "constant"
    value = 0.0

    def __init__(self, padding):
        super().__init__()
        self.padding = tuple(padding) if is_sequence(padding) else (padding,) * 4

    def forward(self, input):
        self._save(input.shape)
        return F.pad(input, self.padding, self.mode, self.value if self.mode == "constant" else None)

    def backward(self, grad_output):
        (input_shape,) = self._take()
        if not self.needs_input_grad:
            return None
        return F.pad_backward(grad_output, input_shape, self.padding, self.mode)

    def extra_repr(self):
        return f"{self.padding}"


class ZeroPad2d(_Pad2d):
    """Add zeros around images, as ``torch.nn.ZeroPad2d``.

    Parameters
    ----------
    padding : int or (left, right, top, bottom)
        Negative ones cut.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.ZeroPad2d((1, 0, 0, 0))(np.ones((1, 1, 1, 2), np.float32))
    array([[[[0., 1., 1.]]]], dtype=float32)
    """


class ConstantPad2d(_Pad2d):
    """Add a constant around images, as ``torch.nn.ConstantPad2d``.

    Parameters
    ----------
    padding : int or (left, right, top, bottom)
        Negative ones cut.
    value : float

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.ConstantPad2d((1, 0, 0, 0), 7)(np.ones((1, 1, 1, 2), np.float32))
    array([[[[7., 1., 1.]]]], dtype=float32)
    """

    def __init__(self, padding, value):
        super().__init__(padding)
        self.value = value

    def extra_repr(self):
        return f"padding={self.padding}, value={self.value}"


class ReflectionPad2d(_Pad2d):
    """Mirror images at their edges, which are not repeated, as ``torch.nn.ReflectionPad2d``.

    Parameters
    ----------
    padding : int or (left, right, top, bottom)
        Less than the image's size.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.ReflectionPad2d((2, 0, 0, 0))(np.array([[[[1.0, 2.0, 3.0]]]]))
    array([[[[3., 2., 1., 2., 3.]]]])
    """

    mode = "reflect"


class ReplicationPad2d(_Pad2d):
    """Repeat the edges of images, as ``torch.nn.ReplicationPad2d``.

    Parameters
    ----------
    padding : int or (left, right, top, bottom)

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.ReplicationPad2d((2, 0, 0, 0))(np.array([[[[1.0, 2.0, 3.0]]]]))
    array([[[[1., 1., 1., 2., 3.]]]])
    """

    mode = "replicate"


class CircularPad2d(_Pad2d):
    """Continue images with their opposite sides, as ``torch.nn.CircularPad2d``.

    Parameters
    ----------
    padding : int or (left, right, top, bottom)
        At most the image's size.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.CircularPad2d((2, 0, 0, 0))(np.array([[[[1.0, 2.0, 3.0]]]]))
    array([[[[2., 3., 1., 2., 3.]]]])
    """

    mode = "circular"
