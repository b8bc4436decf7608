"""softmax and log_softmax along every dimension beside PyTorch's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import pyconv.functional as F
from oracle import assert_close, to_torch

both = pytest.mark.parametrize("name", ["softmax", "log_softmax"])


def expected(name, x, g, dim):
    tensor = to_torch(x, requires_grad=True)
    output = getattr(torch.nn.functional, name)(tensor, dim=dim)
    output.backward(to_torch(g))
    return output, tensor.grad


def check(name, x, g, dim):
    before = x.copy(), g.copy()
    output, grad_input = expected(name, x, g, dim)
    ours = getattr(F, name)(x, dim)
    assert_close(ours, output, err_msg=name)
    backward = getattr(F, name + "_backward")
    assert_close(backward(g, x, dim), grad_input, err_msg=name)
    np.testing.assert_array_equal(backward(g, x, dim), backward(g, None, dim, output=ours))
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(g, before[1])
    return ours


@both
@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -3])
def test_every_layout(name, dim, layout, dtype, rng):
    x, g = (4 * rng.standard_normal((2, 3, 20, 5, 7))).astype(dtype)
    x = layout(x)
    ours = check(name, x, layout(g), dim)
    assert np.argmin(ours.strides) == (1 if x.strides[1] == x.itemsize else 3)


@both
@pytest.mark.parametrize("extent", [1, 2, 7, 8, 15, 16, 17, 31, 64, 1000])
def test_every_width(name, extent, isa, dtype, rng):
    """Rows and columns around the vector widths, of logits whose exponentials would overflow."""
    for shape in ((5, extent), (extent, 5), (3, 6, extent), (2, extent, 37)):
        x, g = rng.standard_normal((2, *shape)).astype(dtype)
        x += 1000
        for dim in range(len(shape)):
            check(name, x, g, dim)


@both
@pytest.mark.parametrize("shape", [(30, 2100), (2, 3, 1030), (1, 20000, 3), (20000, 20)])
def test_blocks_of_columns(name, shape, isa, rng):
    """Several of them, the last of which is narrow, and columns too long to be kept in scratch."""
    x, g = rng.standard_normal((2, *shape)).astype(np.float32)
    check(name, x, g, -2)


@both
@given(shape=array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6), data=st.data())
def test_any_shape(name, shape, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    dim = data.draw(st.integers(-max(len(shape), 1), max(len(shape), 1) - 1))
    x, g = rng.standard_normal((2, *shape)).astype(np.float32)
    check(name, np.asarray(x), np.asarray(g), dim)


@both
@pytest.mark.parametrize("dim", [0, 1])
def test_nan_and_infinity(name, dim, isa, dtype):
    x = np.zeros((40, 40), dtype)
    np.fill_diagonal(x, [np.nan, np.inf, -np.inf, 3] * 10)
    x[7] = x[:, 7] = -np.inf
    output, _ = expected(name, x, x, dim)
    np.testing.assert_allclose(getattr(F, name)(x, dim), output.detach(), rtol=1e-5)


@both
def test_finite_differences(name, rng):
    x, g = rng.standard_normal((2, 4, 5))
    function = getattr(F, name)
    grad = getattr(F, name + "_backward")(g, x, 1)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-6
        slope = ((function(x + step, 1) - function(x - step, 1)) * g).sum() / 2e-6
        assert abs(slope - grad[index]) < 1e-8


@both
@pytest.mark.parametrize("shape, dim", [((300, 1000), 1), ((3, 11, 9001), 1)])
def test_bits_at_any_number_of_threads(name, shape, dim, threads, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    threads(1)
    one = getattr(F, name)(x, dim), getattr(F, name + "_backward")(x, x, dim)
    threads(3)
    np.testing.assert_array_equal(one, (getattr(F, name)(x, dim), getattr(F, name + "_backward")(x, x, dim)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_no_dim(ndim, rng):
    x = rng.standard_normal((3,) * ndim)
    assert_close(F.softmax(x), torch.nn.functional.softmax(to_torch(x)))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x: F.softmax(x, 2), ValueError, "softmax: dim must be in [-2, 1]; got 2"),
        (lambda x: F.log_softmax(x, -3), ValueError, "log_softmax: dim must be in [-2, 1]; got -3"),
        (lambda x: F.softmax(x, 0.5), TypeError, "softmax: dim must be an int; got 0.5"),
        (lambda x: F.softmax(x.astype(np.float16), 0), TypeError, "softmax: input must have dtype"),
        (lambda x: F.softmax_backward(x[0], x, 0), ValueError, "softmax_backward: grad_output must have"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error) as raised:
        call(np.ones((2, 3), np.float32))
    assert str(raised.value).startswith(message)
