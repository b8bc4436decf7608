"""Every operator, on NumPy arrays, with the names and meanings of ``torch.nn.functional``.

Each operator ``op`` has an ``op_backward(grad_output, ...)`` that returns the gradients.
"""

from pyconv.functional.activation import relu, relu_backward
from pyconv.functional.conv import conv2d, conv2d_backward, conv_transpose2d, conv_transpose2d_backward
from pyconv.functional.join import add, cat, cat_backward
from pyconv.functional.linear import linear, linear_backward

__all__ = [
    "add",
    "cat",
    "cat_backward",
    "conv2d",
    "conv2d_backward",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "linear",
    "linear_backward",
    "relu",
    "relu_backward",
]
