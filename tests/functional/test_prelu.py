"""PReLU and the gradients of its input and weight beside PyTorch's."""

import numpy as np
import pytest
import torch

import pyconv.functional as F
from oracle import assert_close, to_torch


def check(x, weight, g):
    tensor, torch_weight = to_torch(x, True), to_torch(weight, True)
    output = torch.nn.functional.prelu(tensor, torch_weight)
    output.backward(to_torch(g))
    ours = F.prelu(x, weight)
    assert_close(ours, output)
    grad_input, grad_weight = F.prelu_backward(g, x, weight)
    assert_close(grad_input, tensor.grad)
    assert_close(grad_weight, torch_weight.grad, {4: 2e-5, 8: 1e-12}[x.itemsize] * 10)
    return ours


@pytest.mark.parametrize("channels", [False, True])
def test_every_layout(channels, layout, isa, dtype, rng):
    x, g = rng.standard_normal((2, 3, 19, 5, 7)).astype(dtype)
    x[0, 0, 0] = 0
    x = layout(x)
    ours = check(x, rng.standard_normal(19 if channels else 1).astype(dtype), layout(g))
    assert np.argmin(ours.strides) == (1 if x.strides[1] == x.itemsize else 3)


@pytest.mark.parametrize("shape", [(7,), (5, 3), (4, 3, 6), (2, 3, 2, 2, 3), (0, 3), (2, 3, 0, 4), (3, 1, 150, 150)])
def test_shapes(shape, isa, dtype, rng):
    x, g = rng.standard_normal((2, *shape)).astype(dtype)
    check(x, np.array([0.3], dtype), g)
    check(x, rng.standard_normal(shape[1] if len(shape) > 1 else 1).astype(dtype), g)


def test_bits_at_any_number_of_threads(threads, rng):
    for x in (rng.standard_normal((8, 16, 40, 40)), rng.standard_normal((8, 40, 40, 16)).transpose(0, 3, 1, 2)):
        weight = rng.standard_normal(16)
        threads(1)
        one = F.prelu_backward(x, x, weight)
        threads(3)
        for a, b in zip(one, F.prelu_backward(x, x, weight)):
            np.testing.assert_array_equal(a, b)


def test_needs(rng):
    x, weight = rng.standard_normal((4, 3)), np.ones(3)
    grad_input, grad_weight = F.prelu_backward(x, x, weight)
    np.testing.assert_array_equal(F.prelu_backward(x, x, weight, needs=(True, False))[0], grad_input)
    np.testing.assert_array_equal(F.prelu_backward(x, x, weight, needs=(False, True))[1], grad_weight)
    assert F.prelu_backward(x, x, weight, needs=(False, False)) == (None, None)


def test_errors(rng):
    with pytest.raises(ValueError, match="prelu: weight must have 1 or 3 elements for input of shape"):
        F.prelu(np.ones((2, 3)), np.ones(2))
    with pytest.raises(TypeError, match="prelu: weight must have the dtype of input"):
        F.prelu(np.ones((2, 3)), np.ones(3, np.float32))
