"""Activation, softmax and dropout layers beside torch.nn's."""

import numpy as np
import pytest
import torch

import pyconv
from oracle import assert_close, to_torch
from pyconv import nn

# (class, positional arguments, keyword arguments), the same in both libraries
TABLE = [
    ("ReLU", (), {}),
    ("ReLU", (True,), {}),
    ("ReLU6", (), {"inplace": True}),
    ("LeakyReLU", (0.2,), {}),
    ("ELU", (0.5, True), {}),
    ("SELU", (), {}),
    ("CELU", (1.5,), {}),
    ("GELU", (), {}),
    ("GELU", ("tanh",), {}),
    ("SiLU", (), {}),
    ("Mish", (), {}),
    ("Hardswish", (), {}),
    ("Hardsigmoid", (), {}),
    ("Hardtanh", (-0.5, 0.7), {}),
    ("Softplus", (2.0, 1.0), {}),
    ("Softsign", (), {}),
    ("Sigmoid", (), {}),
    ("Tanh", (), {}),
    ("PReLU", (), {}),
    ("PReLU", (3,), {"init": 0.1}),
    ("Softmax", (1,), {}),
    ("LogSoftmax", (), {"dim": -1}),
    ("Dropout", (0.0,), {}),
]


@pytest.mark.parametrize("name, arguments, options", TABLE)
def test_beside_torch(name, arguments, options, dtype, rng):
    x, g = rng.standard_normal((2, 4, 3, 5, 6)).astype(dtype)
    theirs = getattr(torch.nn, name)(*arguments, **options)
    if dtype == np.float64:
        theirs = theirs.double()
    ours = getattr(nn, name)(*arguments, **options).to(dtype)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    tensor = to_torch(x, True)
    output = theirs(tensor.clone())
    output.backward(to_torch(g))
    assert_close(ours(x), output)
    rtol = 1e-7 if name == "Hardsigmoid" else None  # PyTorch's slope is a float32 1/6
    assert_close(ours.backward(g), tensor.grad, rtol if dtype == np.float64 else None)
    for parameter, their_parameter in zip(ours.parameters(), theirs.parameters()):
        assert_close(parameter.grad, their_parameter.grad)


@pytest.mark.parametrize("name, arguments, options", TABLE)
def test_modes(name, arguments, options, rng):
    x = rng.standard_normal((4, 3, 2, 2)).astype(np.float32)
    layer = getattr(nn, name)(*arguments, **options)
    assert name in repr(layer)
    output = layer(x)
    layer.needs_input_grad = False
    assert layer.backward(output) is None
    with pyconv.no_grad():
        layer(x)
    with pytest.raises(RuntimeError):
        layer.backward(output)


@pytest.mark.parametrize("ends", [(1.0, 1.0), (2.0, 1.0)])
def test_hardtanh_of_no_width(ends):
    with pytest.raises(AssertionError):
        torch.nn.Hardtanh(*ends)
    with pytest.raises(ValueError, match="Hardtanh: max_val must be above min_val; got 1.0 and"):
        nn.Hardtanh(*ends)


def test_frozen_prelu(rng):
    layer = nn.PReLU()
    layer.weight.requires_grad = False
    x = rng.standard_normal((4, 3)).astype(np.float32)
    assert_close(layer.backward(layer(x)), np.where(x > 0, x, 0.0625 * x))
    assert layer.weight.grad is None


@pytest.mark.parametrize("name, shape", [("Dropout", (50, 20)), ("Dropout2d", (50, 20, 3, 3))])
def test_dropout(name, shape):
    x = np.ones(shape, np.float32)
    pyconv.manual_seed(3)
    layer = getattr(nn, name)(0.25)
    output = layer(x)
    assert set(np.unique(output)) == {0, np.float32(1 / 0.75)}
    np.testing.assert_array_equal(layer.backward(x), output)
    pyconv.manual_seed(3)
    np.testing.assert_array_equal(layer(x), output)
    layer.eval()
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(layer.backward(x), x)
    first = getattr(nn, name)(0.25, generator=np.random.default_rng(9))(x)
    np.testing.assert_array_equal(getattr(nn, name)(0.25, generator=np.random.default_rng(9))(x), first)
    with pytest.raises(ValueError, match=f"{name}: p must be between 0 and 1; got 2"):
        getattr(nn, name)(2)
