"""pad beside torch: values and gradients in every mode, layout and number of dimensions."""

import numpy as np
import pytest
import torch.nn.functional as T
from hypothesis import given
from hypothesis import strategies as st

import pyconv.functional as F
from oracle import LAYOUTS, assert_close, to_torch

MODES = ["constant", "reflect", "replicate", "circular"]
CASES = [
    ((2, 3, 5, 6), (1, 2, 3, 4)),
    ((2, 3, 5, 6), (5, 0, 0, 4)),
    ((2, 3, 5, 6), (-1, 2, 1, -2)),
    ((2, 3, 5, 6), (-3, 3, 0, 0)),
    ((2, 3, 5, 6), (0, 0, 0, 0)),
    ((3, 5, 6), (1, 1, 2, 0)),
    ((2, 5), (2, 3)),
    ((2, 3, 4, 5), (1, 2, 2, 1, 1, 0)),
    ((0, 3, 5, 6), (1, 1, 1, 1)),
    ((2, 3, 5, 6), (1, 1)),
    ((4,), (2, 0)),
    ((2, 1, 4, 5), ()),
]


def check(x, pad, mode, value=None):
    tx = to_torch(x, requires_grad=True)
    try:
        expected = T.pad(tx, pad, mode, value)
    except (RuntimeError, NotImplementedError):
        with pytest.raises((ValueError, TypeError)):
            F.pad(x, pad, mode, value)
        return
    output = F.pad(x, pad, mode, value)
    assert_close(output, expected, rtol=0)
    assert not np.shares_memory(output, x)
    grad = np.random.default_rng(1).standard_normal(output.shape).astype(x.dtype)
    expected.backward(to_torch(grad))
    assert_close(F.pad_backward(grad, x.shape, pad, mode), tx.grad)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [7, 8, 9, 15, 16, 17, 31, 32, 33])
def test_rows_around_vectors(width, mode, isa, dtype, rng):
    x = rng.standard_normal((2, 2, 4, width)).astype(dtype)
    for pad in ((1, 1, 1, 1), (0, 6, 2, 0), (-1, 3, 1, -1), (-3, -2, 1, 1)):
        check(x, pad, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape, pad", CASES, ids=str)
def test_pad_beside_torch(shape, pad, mode, dtype, layout, rng):
    x = layout(rng.standard_normal(shape).astype(dtype))
    before = x.copy()
    check(x, pad, mode)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("mode", MODES)
def test_whole_vectors(mode, isa, dtype, rng):
    for shape, pad in (((2, 3, 20, 37), (3, 18, 2, 5)), ((1, 35, 4, 5), (2, 1, 1, 3)), ((1, 2, 3, 70), (-5, 40, 0, 0))):
        x = rng.standard_normal(shape).astype(dtype)
        for name in ("contiguous", "channels_last"):
            check(LAYOUTS[name](x), pad, mode)


@pytest.mark.parametrize("value", [0, 3, -2.5, np.inf, np.nan])
def test_any_value(value, dtype, rng):
    check(rng.standard_normal((2, 3, 4, 5)).astype(dtype), (1, 2, 0, 1), "constant", value)


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    pad=st.tuples(*[st.integers(0, 6)] * 4),
    mode=st.sampled_from(MODES),
    memory_format=st.sampled_from(["contiguous", "channels_last"]),
)
def test_any_pad_beside_torch(shape, pad, mode, memory_format):
    check(LAYOUTS[memory_format](np.random.default_rng(0).standard_normal(shape)), pad, mode)


@pytest.mark.parametrize("mode", MODES)
def test_memory_format_is_kept(mode, rng):
    x = rng.standard_normal((2, 3, 4, 5))
    for name in ("contiguous", "channels_last"):
        output = F.pad(LAYOUTS[name](x), (1, 1, 1, 1), mode)
        assert output.strides == LAYOUTS[name](np.array(output)).strides


X = np.zeros((1, 2, 4, 4), np.float32)
ERRORS = [
    (lambda: F.pad(X, 1), TypeError, "pad: pad must be a sequence of ints; got 1"),
    (lambda: F.pad(X, (1, 1, 1)), ValueError, "pad: pad must have two entries for each of at most 4 dimensions; got 3"),
    (lambda: F.pad(X, (1,) * 10), ValueError, "pad: pad must have two entries for each of at most 4 dimensions"),
    (lambda: F.pad(X, (1, 1, 1, 1), "mirror"), ValueError, "pad: mode must be one of constant, .*; got 'mirror'"),
    (lambda: F.pad(X, (4, 1, 0, 0), "reflect"), ValueError, "pad: pad must be less than the dimension in mode reflect"),
    (lambda: F.pad(X, (5, 1, 0, 0), "circular"), ValueError, "pad: pad must be at most what there is in mode circular"),
    (lambda: F.pad(X, (1, 1), "reflect"), ValueError, "pad: pad must have an entry for both ends"),
    (
        lambda: F.pad(X, (1, 1, 1, 1), "reflect", 3.0),
        ValueError,
        "pad: value must be left out in mode reflect; got 3.0",
    ),
    (lambda: F.pad(X, (-3, -2)), ValueError, "pad: pad must not cut off more than there is"),
    (
        lambda: F.pad_backward(X, X.shape, (1, 1)),
        ValueError,
        "pad_backward: grad_output must have the shape of the output",
    ),
]


@pytest.mark.parametrize("call, error, message", ERRORS, ids=[message for *_, message in ERRORS])
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
