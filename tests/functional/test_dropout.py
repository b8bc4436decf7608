"""Dropout: what it keeps, how it scales, and that its draws follow the generator alone."""

import numpy as np
import pytest
import torch

import pyconv
import pyconv.functional as F
from oracle import assert_close, to_torch
from pyconv import _kernels

both = pytest.mark.parametrize("name", ["dropout", "dropout2d"])


def draw(name, x, p, seed=0):
    return getattr(F, name)(x, p, generator=np.random.default_rng(seed), return_mask=True)


@both
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_forward_and_backward(name, p, layout, isa, dtype, rng):
    x, g = rng.standard_normal((2, 4, 3, 5, 7)).astype(dtype)
    x, g = layout(x), layout(g)
    before = x.copy()
    output, mask = draw(name, x, p)
    whole = mask if name == "dropout" else mask[:, :, None, None]
    assert mask.dtype == bool and whole.any() and not whole.all()
    assert_close(output, x * whole * dtype.type(1 / (1 - p)))
    assert_close(getattr(F, name + "_backward")(g, mask, p), g * whole * dtype.type(1 / (1 - p)))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("size", [1, 7, 8, 63, 8192, 8193, 100_000])
def test_draws_depend_on_the_seed_alone(size, threads):
    """The same mask at every instruction set, dtype and number of threads."""
    masks = []
    before = _kernels.get_isa()
    for isa in _kernels.isa_names():
        _kernels.set_isa(isa)
        for dtype in (np.float32, np.float64):
            for count in (1, 3):
                threads(count)
                masks.append(draw("dropout", np.ones(size, dtype), 0.5)[1])
    _kernels.set_isa(before)
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])
    if size > 60:
        assert (draw("dropout", np.ones(size), 0.5, seed=1)[1] != masks[0]).any()


@pytest.mark.parametrize("p", [1e-3, 0.2, 0.5, 0.97])
def test_share_and_independence(p):
    n = 1_000_000
    dropped = ~draw("dropout", np.ones(n, np.float32), p)[1]
    deviation = np.sqrt(p * (1 - p) / n)
    assert abs(dropped.mean() - p) < 5 * deviation
    for lag in (1, 2, 3, 8, 16, 64, 8192):  # neighbours, lanes, tasks
        together = (dropped[lag:] & dropped[:-lag]).mean()
        assert abs(together - p * p) < 5 * p * np.sqrt((1 - p * p) / n) + 5 / n


@both
def test_default_generator(name):
    x = np.ones((8, 8, 4, 4), np.float32)
    function = getattr(F, name)
    pyconv.manual_seed(5)
    first, second = function(x), function(x)
    pyconv.manual_seed(5)
    np.testing.assert_array_equal(function(x), first)
    np.testing.assert_array_equal(function(x), second)
    assert (first != second).any()


@both
def test_identity(name, dtype):
    x = np.ones((2, 3, 4, 4), dtype)
    for options in ({"training": False}, {"p": 0}):
        output, mask = getattr(F, name)(x, **options, return_mask=True)
        assert output is x and mask is None
    assert getattr(F, name + "_backward")(x, None) is x


@both
def test_drop_everything(name, dtype):
    x = np.ones((2, 3, 4, 4), dtype)
    output, mask = draw(name, x, 1.0)
    assert not output.any() and not mask.any() and output.dtype == dtype
    assert not getattr(F, name + "_backward")(x, mask, 1.0).any()


@both
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 0)])
def test_zero_size(name, shape):
    output, mask = draw(name, np.ones(shape, np.float32), 0.5)
    assert output.shape == shape
    assert getattr(F, name + "_backward")(output, mask, 0.5).shape == shape


def test_nan_survives_as_in_pytorch():
    """Dropping multiplies by 0, which leaves NaN."""
    assert np.isnan(draw("dropout", np.full(100, np.nan), 0.5)[0]).all()


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 50), (3, 4, 2, 3, 2)])
def test_channels_of_any_shape(shape, rng):
    x, g = rng.standard_normal((2, *shape)).astype(np.float32)
    output, mask = draw("dropout2d", x, 0.5)
    factor = 2 * mask.reshape(3, 4, *(1,) * (len(shape) - 2))
    np.testing.assert_array_equal(output, x * factor)
    np.testing.assert_array_equal(F.dropout2d_backward(g, mask), g * factor)


@pytest.mark.filterwarnings("ignore:dropout2d")
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("p, training", [(0.5, True), (0.0, True), (0.5, False)])
def test_dropout2d_takes_the_shapes_that_pytorch_takes(shape, p, training):
    x = np.ones(shape, np.float32)
    try:
        torch.nn.functional.dropout2d(to_torch(x), p, training)
    except RuntimeError:
        with pytest.raises(ValueError, match="dropout2d: input must have at least 2 dimensions"):
            F.dropout2d(x, p, training)
    else:
        assert F.dropout2d(x, p, training).shape == shape


X = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: F.dropout(X, 1.5), ValueError, "dropout: p must be between 0 and 1; got 1.5"),
        (lambda: F.dropout(X, -0.1), ValueError, "dropout: p must be between 0 and 1; got -0.1"),
        (lambda: F.dropout(X, float("nan")), ValueError, "dropout: p must be between 0 and 1; got nan"),
        (lambda: F.dropout(X.astype(int)), TypeError, "dropout: input must have dtype float32 or float64"),
        (lambda: F.dropout(X, generator=3), TypeError, "dropout: generator must be a numpy.random.Generator"),
        (lambda: F.dropout2d(X[0]), ValueError, "dropout2d: input must have at least 2 dimensions; got shape (3,)"),
        (
            lambda: F.dropout2d_backward(X[0], X[0] > 0),
            ValueError,
            "dropout2d_backward: grad_output must have at least 2 dimensions; got shape (3,)",
        ),
        (lambda: F.dropout_backward(X, X), TypeError, "dropout_backward: mask must be a bool array or None"),
        (lambda: F.dropout_backward(X, X[:1] > 0), ValueError, "dropout_backward: mask must have shape (2, 3)"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value).startswith(message)
