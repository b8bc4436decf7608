"""Flatten: from images to vectors."""

import math

from pyconv import functional as F
from pyconv.functional._arguments import integer, is_int, is_sequence
from pyconv.functional._arrays import contiguous
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


class Unflatten(Module):
    """Make several dimensions of one, as ``torch.nn.Unflatten``: from vectors to images.

    Parameters
    ----------
    dim : int
        The dimension to take apart.
    unflattened_size : sequence of int
        What it becomes; one entry may be -1.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> nn.Unflatten(1, (3, 4, 5))(np.zeros((2, 60), np.float32)).shape
    (2, 3, 4, 5)
    """

    def __init__(self, dim, unflattened_size):
        super().__init__()
        if not is_sequence(unflattened_size) or not all(map(is_int, unflattened_size)):
            raise TypeError(f"Unflatten: unflattened_size must be a tuple of ints; got {unflattened_size!r}")
        sizes = tuple(map(int, unflattened_size))
        if not sizes or min(sizes) < -1 or sizes.count(-1) > 1:
            raise ValueError(f"Unflatten: unflattened_size must be sizes, of which one may be -1; got {sizes}")
        self.dim, self.unflattened_size = integer("Unflatten", "dim", dim), sizes

    def _sizes(self, extent):
        """`unflattened_size` for a dimension of `extent`, with the entry of -1 worked out."""
        known = math.prod(size for size in self.unflattened_size if size >= 0)
        if -1 not in self.unflattened_size:
            fits = known == extent
        else:
            fits = known > 0 and extent % known == 0
        if not fits:
            raise ValueError(
                f"Unflatten: unflattened_size must multiply to the dimension; got {self.unflattened_size} for {extent}"
            )
        return tuple(extent // known if size < 0 else size for size in self.unflattened_size)

    def forward(self, input):
        if not -input.ndim <= self.dim < input.ndim:
            raise ValueError(f"Unflatten: dim must be a dimension of the input; got {self.dim} for shape {input.shape}")
        dim = self.dim % input.ndim
        self._save(input.shape)
        return contiguous(input).reshape(*input.shape[:dim], *self._sizes(input.shape[dim]), *input.shape[dim + 1 :])

    def backward(self, grad_output):
        (input_shape,) = self._take()
        return contiguous(grad_output).reshape(input_shape) if self.needs_input_grad else None

    def extra_repr(self):
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
