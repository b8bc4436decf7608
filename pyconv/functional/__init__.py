"""Every operator, on NumPy arrays, with the names and meanings of ``torch.nn.functional``.

Each operator ``op`` has an ``op_backward(grad_output, ...)`` that returns the gradients.
"""

from pyconv.functional.activation import relu, relu_backward

__all__ = ["relu", "relu_backward"]
