"""Elementwise activations and their gradients beside PyTorch's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import pyconv.functional as F
from oracle import assert_close, to_torch

# (name, options); torch.nn.functional has the same name
TABLE = [
    ("relu", {}),
    ("relu6", {}),
    ("leaky_relu", {}),
    ("leaky_relu", {"negative_slope": 0.3}),
    ("elu", {}),
    ("elu", {"alpha": 0.7}),
    ("selu", {}),
    ("celu", {}),
    ("celu", {"alpha": 2.5}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("silu", {}),
    ("mish", {}),
    ("hardswish", {}),
    ("hardsigmoid", {}),
    ("hardtanh", {}),
    ("hardtanh", {"min_val": -0.3, "max_val": 2.0}),
    ("softplus", {}),
    ("softplus", {"beta": 0.5, "threshold": 2.0}),
    ("softsign", {}),
    ("sigmoid", {}),
    ("tanh", {}),
]
IDS = [name + "".join(f"-{key}={value}" for key, value in options.items()) for name, options in TABLE]
every_activation = pytest.mark.parametrize("name, options", TABLE, ids=IDS)


def expected(name, options, x, g):
    """PyTorch's output and gradient."""
    tensor = to_torch(x, requires_grad=True)
    function = getattr(torch, name) if name in ("sigmoid", "tanh") else getattr(torch.nn.functional, name)
    output = function(tensor, **options)
    output.backward(to_torch(g))
    return output, tensor.grad


def check(name, options, x, g):
    before = x.copy(), g.copy()
    output, grad_input = expected(name, options, x, g)
    ours = getattr(F, name)(x, **options)
    assert_close(ours, output, err_msg=name)
    # PyTorch takes a float32 1/6 for hardsigmoid's slope
    rtol = 1e-7 if name == "hardsigmoid" and x.dtype == np.float64 else None
    assert_close(getattr(F, name + "_backward")(g, x, **options), grad_input, rtol, err_msg=name)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(g, before[1])
    return ours


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_backward_of_the_output(name, layout, dtype, rng):
    x, g = (4 * rng.standard_normal((2, 2, 3, 5, 7))).astype(dtype)
    x[0, 0, 0, :4] = 0, 30, -30, np.nan
    tensor = torch.sigmoid(to_torch(x)) if name == "sigmoid" else torch.tanh(to_torch(x))
    grad_input = getattr(torch.ops.aten, f"{name}_backward")(to_torch(g), tensor)
    ours = getattr(F, f"{name}_backward")(layout(g), output=layout(tensor.numpy()))
    assert_close(ours, grad_input, err_msg=name)
    with pytest.raises(ValueError, match=f"{name}_backward: .*output"):
        getattr(F, f"{name}_backward")(g[:1], output=x)
    with pytest.raises(TypeError, match=f"{name}_backward: input"):
        getattr(F, f"{name}_backward")(g)


@every_activation
def test_every_layout(name, options, layout, dtype, rng):
    x, g = (4 * rng.standard_normal((2, 2, 3, 5, 7))).astype(dtype)
    ours = check(name, options, layout(x), layout(g))
    assert ours.flags.writeable


@every_activation
def test_values(name, options, isa, dtype, rng):
    """Every scale, the corners of the piecewise functions, and both tails."""
    x = np.concatenate(
        [
            rng.uniform(-10, 10, 999),
            rng.uniform(-0.01, 0.01, 99),
            rng.uniform(-800, 800, 333),
            10.0 ** rng.uniform(-40, 3, 99) * rng.choice([-1, 1], 99),
            np.array([0.0, -0.0, -3, 3, 6, 1, -1, -0.3, 2, 20, 1e-45, 3e38, -3e38]),
        ]
    ).astype(dtype)
    if name in ("gelu", "mish"):
        x = x[np.abs(x) < 1e19]  # PyTorch's own formulas overflow there
    check(name, options, x, rng.standard_normal(x.shape).astype(dtype))


@every_activation
def test_nan_and_infinity(name, options, isa, dtype):
    x = np.array([np.nan, np.inf, -np.inf, 1.0] * 32, dtype)  # PyTorch's scalar tails differ
    output, grad_input = (t.detach().numpy() for t in expected(name, options, x, np.ones_like(x)))
    kept = np.ones(x.shape, bool)
    if name == "gelu":
        kept = x != np.inf  # NaN in PyTorch's float32
    np.testing.assert_allclose(getattr(F, name)(x, **options)[kept], output[kept], rtol=1e-6)
    ours = getattr(F, name + "_backward")(np.ones_like(x), x, **options)
    if name in ("softsign", "mish", "gelu", "silu"):
        kept = ~np.isinf(x)  # PyTorch gives NaN for some slopes whose limit is 0 or 1
    np.testing.assert_allclose(ours[kept], grad_input[kept], rtol=1e-6)


@every_activation
@given(shape=array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6), seed=st.integers(0, 99))
def test_any_shape(name, options, shape, seed):
    x, g = np.random.default_rng(seed).standard_normal((2, *shape)).astype(np.float32)
    check(name, options, np.asarray(x), np.asarray(g))


@every_activation
def test_finite_differences(name, options, rng):
    x = rng.uniform(-4, 4, 500)
    step = 1e-6
    function = getattr(F, name)
    slope = (function(x + step, **options) - function(x - step, **options)) / (2 * step)
    ours = getattr(F, name + "_backward")(np.ones_like(x), x, **options)
    smooth = np.abs(slope - ours) < 1e-7
    assert smooth.mean() > 0.99, "only the corners of the function may differ"


@pytest.mark.parametrize("name", ["sigmoid", "gelu", "softplus"])
def test_bits_at_any_number_of_threads(name, threads, rng):
    x = rng.standard_normal(100_003).astype(np.float32)
    threads(1)
    one = getattr(F, name)(x), getattr(F, name + "_backward")(x, x)
    threads(3)
    three = getattr(F, name)(x), getattr(F, name + "_backward")(x, x)
    np.testing.assert_array_equal(one, three)


def test_tails_are_accurate(isa):
    """Values that 1 - f would have cancelled are right to the last digits."""
    x = np.array([-12.0, -8.0, -5.0], np.float32)
    np.testing.assert_allclose(F.sigmoid(x), 1 / (1 + np.exp(-x.astype(float))), 3e-7)
    np.testing.assert_allclose(F.softplus(x), np.log1p(np.exp(x.astype(float))), 3e-7)
    tail = torch.special.erfc(-torch.tensor(x, dtype=torch.float64) / 2**0.5) / 2
    np.testing.assert_allclose(F.gelu(x), x * tail.numpy(), 5e-7)


@every_activation
def test_memory_format(name, options, rng):
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    assert getattr(F, name)(x, **options).flags.c_contiguous
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    output = getattr(F, name)(channels_last, **options)
    assert output.strides == channels_last.strides
    assert getattr(F, name + "_backward")(x, channels_last, **options).strides == channels_last.strides


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x: F.relu([1.0]), TypeError, "relu: input must be a numpy.ndarray; got list"),
        (lambda x: F.tanh(x.astype(int)), TypeError, "tanh: input must have dtype float32 or float64; got"),
        (lambda x: F.relu(x.astype(">f4")), TypeError, "relu: input must have dtype"),
        (lambda x: F.relu_backward(x[:1], x), ValueError, "relu_backward: grad_output must have the shape"),
        (lambda x: F.silu_backward(x.astype(float), x), TypeError, "silu_backward: grad_output must have"),
        (lambda x: F.leaky_relu(x, "a"), TypeError, "leaky_relu: negative_slope must be a number; got str"),
        (lambda x: F.celu(x, 0), ValueError, "celu: alpha must not be 0"),
        (lambda x: F.hardtanh(x, 2, 1), ValueError, "hardtanh: min_val must be at most max_val; got 2"),
        (lambda x: F.gelu(x, "erf"), ValueError, "gelu: approximate must be 'none' or 'tanh'; got 'erf'"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error) as raised:
        call(np.ones(3, np.float32))
    assert str(raised.value).startswith(message)
