"""Normalisation layers beside torch.nn's: state, training and evaluation, gradients."""

import numpy as np
import pytest
import torch

import pyconv
from finite_differences import check_module
from oracle import assert_close, to_torch
from pyconv import nn

CASES = [
    ("BatchNorm2d", (6,), {}, (4, 6, 5, 3)),
    ("BatchNorm2d", (6,), {"momentum": None, "eps": 1e-3}, (4, 6, 5, 3)),
    ("BatchNorm2d", (6,), {"affine": False}, (4, 6, 5, 3)),
    ("BatchNorm2d", (6,), {"track_running_stats": False}, (4, 6, 5, 3)),
    ("BatchNorm2d", (6,), {"bias": False}, (4, 6, 5, 3)),
    ("BatchNorm1d", (6,), {}, (4, 6)),
    ("BatchNorm1d", (6,), {}, (4, 6, 5)),
    ("GroupNorm", (3, 6), {}, (4, 6, 5, 3)),
    ("GroupNorm", (2, 6), {"affine": False}, (4, 6, 5)),
    ("LayerNorm", ([5, 3],), {}, (4, 6, 5, 3)),
    ("LayerNorm", (3,), {"elementwise_affine": False}, (4, 6, 5, 3)),
    ("LayerNorm", (3,), {"bias": False}, (4, 3)),
    ("InstanceNorm2d", (6,), {}, (4, 6, 5, 3)),
    ("InstanceNorm2d", (6,), {"affine": True, "track_running_stats": True}, (4, 6, 5, 3)),
    ("InstanceNorm2d", (6,), {"affine": True}, (6, 5, 3)),
    ("LocalResponseNorm", (5,), {"alpha": 0.1}, (4, 6, 5, 3)),
]


@pytest.mark.parametrize(("name", "arguments", "options", "shape"), CASES, ids=str)
def test_three_batches_beside_torch(name, arguments, options, shape, dtype, rng):
    mine = getattr(nn, name)(*arguments, **options).to(dtype)
    other = getattr(torch.nn, name)(*arguments, **options).to(getattr(torch, dtype.name))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.5)
    state = {key: value.numpy() for key, value in other.state_dict().items()}
    mine.load_state_dict(state)
    assert list(mine.state_dict()) == list(state)
    for step in range(4):
        if step == 3:
            mine.eval()
            other.eval()
        x, g = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
        tensor = to_torch(x, requires_grad=True)
        output = other(tensor)
        output.backward(to_torch(g))
        assert_close(mine(x), output)
        assert_close(mine.backward(g), tensor.grad, rtol=3e-5 if dtype == np.float32 else None)
        for parameter, twin in zip(mine.parameters(), other.parameters()):
            assert_close(parameter.grad, twin.grad)
    for key, value in other.state_dict().items():
        assert_close(mine.state_dict()[key], value)
        assert mine.state_dict()[key].dtype == value.numpy().dtype


@pytest.mark.parametrize(("name", "arguments", "options", "shape"), CASES, ids=str)
def test_finite_differences(name, arguments, options, shape, rng):
    layer = getattr(nn, name)(*arguments, **options)
    check_module(layer, rng.standard_normal(shape), rng, tolerance=1e-6)
    check_module(layer.eval(), rng.standard_normal(shape), rng, tolerance=1e-6)


def test_frozen_and_no_input_gradient(rng):
    x, g = (rng.standard_normal((2, 3, 4, 4)).astype(np.float32) for _ in range(2))
    layer = nn.BatchNorm2d(3)
    layer.weight.requires_grad = False
    layer.needs_input_grad = False
    layer(x)
    assert layer.backward(g) is None
    assert layer.weight.grad is None and layer.bias.grad is not None
    with pyconv.no_grad():
        layer(x)
    with pytest.raises(RuntimeError, match="call forward first"):
        layer.backward(g)


def test_no_images():
    x = np.zeros((0, 3, 4, 4), np.float32)
    for layer in (
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3, affine=False),
        nn.GroupNorm(3, 3, affine=False),
        nn.LayerNorm(4),
    ):
        assert layer(x).shape == x.shape
        assert layer.backward(x).shape == x.shape
        layer.needs_input_grad = False
        layer(x)
        assert layer.backward(x) is None


def test_reset_and_repr(rng):
    layer = nn.BatchNorm2d(3)
    layer(rng.standard_normal((2, 3, 4, 4)).astype(np.float32))
    layer.weight.data[...] = 7
    layer.reset_parameters()
    assert (layer.weight.data == 1).all() and (layer.running_mean == 0).all() and layer.num_batches_tracked == 0
    for name, arguments in (
        ("BatchNorm2d", (3,)),
        ("InstanceNorm2d", (3,)),
        ("GroupNorm", (2, 4)),
        ("LayerNorm", (4,)),
    ):
        mine, other = (repr(getattr(module, name)(*arguments)) for module in (nn, torch.nn))
        assert mine == other or "bias" not in other  # older versions leave it out


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.BatchNorm2d(-1), ValueError, "BatchNorm2d: num_features must be at least 0; got -1"),
        (lambda: nn.BatchNorm2d(2.5), TypeError, "num_features must be an int; got 2.5"),
        (lambda: nn.BatchNorm2d(3)(np.ones((2, 3))), ValueError, r"must have 4 dimensions; got shape \(2, 3\)"),
        (lambda: nn.BatchNorm1d(3)(np.ones((2, 3, 1, 1))), ValueError, "must have 2 or 3 dimensions"),
        (lambda: nn.BatchNorm2d(3)([1.0]), TypeError, "BatchNorm2d: input must be a numpy.ndarray; got list"),
        (lambda: nn.BatchNorm2d(3)(np.ones((2, 4, 1, 1), np.float32)), ValueError, r"shape \(4,\); got \(3,\)"),
        (lambda: nn.BatchNorm2d(3, affine="no"), TypeError, "BatchNorm2d: affine must be a bool; got 'no'"),
        (
            lambda: nn.BatchNorm1d(3, track_running_stats=[]),
            TypeError,
            "BatchNorm1d: track_running_stats must be a bool",
        ),
        (lambda: nn.InstanceNorm2d(3, bias="no"), TypeError, "InstanceNorm2d: bias must be a bool; got 'no'"),
        (lambda: nn.GroupNorm(2, 6, affine=()), TypeError, r"GroupNorm: affine must be a bool; got \(\)"),
        (lambda: nn.LayerNorm(6, elementwise_affine=0.5), TypeError, "LayerNorm: elementwise_affine must be a bool"),
        (lambda: nn.LayerNorm("x"), TypeError, "LayerNorm: normalized_shape must be a sequence of ints; got 'x'"),
        (lambda: nn.GroupNorm(4, 6), ValueError, "num_groups must divide num_channels; got num_groups=4"),
        (lambda: nn.InstanceNorm2d(3)(np.ones((3, 3))), ValueError, "must have 3 or 4 dimensions"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
