"""Flatten: from images to vectors."""

from pyconv import functional as F
from pyconv.nn.module import Module


class Flatten(Module):
    """Make one dimension of several, as ``torch.nn.Flatten``: (N, C, H, W) becomes (N, C H W).

    Parameters
    ----------
    start_dim, end_dim : int
        The first and the last dimension of those that become one.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.Flatten()(np.zeros((2, 3, 4, 5), np.float32)).shape
    (2, 60)
    """

    def __init__(self, start_dim=1, end_dim=-1):
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input):
        self._save(input.shape)
        return F.flatten(input, self.start_dim, self.end_dim)

    def backward(self, grad_output):
        (input_shape,) = self._take()
        if not self.needs_input_grad:
            return None
        return F.flatten_backward(grad_output, input_shape, self.start_dim, self.end_dim)

    def extra_repr(self):
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
