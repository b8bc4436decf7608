"""flatten and the shuffles beside torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as T

import pyconv.functional as F
from oracle import LAYOUTS, assert_close, to_torch

# (our operator, torch's, input shape, option)
SHUFFLES = [
    (F.pixel_shuffle, T.pixel_shuffle, (2, 12, 3, 5), 2),
    (F.pixel_shuffle, T.pixel_shuffle, (9, 3, 5), 3),
    (F.pixel_shuffle, T.pixel_shuffle, (2, 3, 4, 3, 5), 2),
    (F.pixel_shuffle, T.pixel_shuffle, (0, 4, 3, 5), 2),
    (F.pixel_unshuffle, T.pixel_unshuffle, (2, 3, 6, 4), 2),
    (F.pixel_unshuffle, T.pixel_unshuffle, (3, 6, 9), 3),
    (F.channel_shuffle, torch.channel_shuffle, (2, 12, 3, 5), 3),
    (F.channel_shuffle, torch.channel_shuffle, (2, 12, 3, 5), 4),
    (F.channel_shuffle, torch.channel_shuffle, (2, 6, 7), 2),
    (F.channel_shuffle, torch.channel_shuffle, (0, 6, 3, 5), 2),
]


@pytest.mark.parametrize("ours, theirs, shape, option", SHUFFLES)
def test_shuffles_beside_torch(ours, theirs, shape, option, layout, dtype, rng):
    x = layout(rng.standard_normal(shape).astype(dtype))
    before = x.copy()
    tx = to_torch(x, requires_grad=True)
    expected = theirs(tx, option)
    output = ours(x, option)
    assert_close(output, expected, rtol=0)
    assert not np.shares_memory(output, x)
    grad = rng.standard_normal(output.shape).astype(dtype)
    wanted = x  # torch fails to find the gradient of an empty one
    if x.size:
        expected.backward(to_torch(grad))
        wanted = tx.grad
    assert_close(getattr(F, f"{ours.__name__}_backward")(layout(grad), option), wanted, rtol=0)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("width", [4, 7, 8, 9, 15, 16, 17, 31, 32, 33])
def test_pixel_shuffles_of_rows_around_vectors(width, isa, dtype, rng):
    x = rng.standard_normal((1, 8, 3, width)).astype(dtype)
    larger = F.pixel_shuffle(x, 2)
    assert_close(larger, T.pixel_shuffle(to_torch(x), 2), rtol=0)
    np.testing.assert_array_equal(F.pixel_unshuffle(larger, 2), x)


@pytest.mark.parametrize("name", ["contiguous", "channels_last"])
def test_memory_format_is_kept(name, rng):
    x = LAYOUTS[name](rng.standard_normal((2, 12, 4, 6)))
    for output in (F.pixel_shuffle(x, 2), F.pixel_unshuffle(x, 2), F.channel_shuffle(x, 3)):
        assert output.strides == LAYOUTS[name](np.array(output)).strides


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (0, 3, 4, 5), (2, 3, 0, 5), (4,), ()], ids=str)
@pytest.mark.parametrize("dims", [(0, -1), (1, -1), (1, 2), (-2, -1), (2, 2)], ids=str)
def test_flatten_beside_torch(shape, dims, layout, dtype, rng):
    x = layout(rng.standard_normal(shape).astype(dtype)) if shape else np.array(2.0, dtype)
    try:
        expected = torch.flatten(to_torch(x), *dims)
    except (RuntimeError, IndexError):
        with pytest.raises(ValueError, match="_dim must"):
            F.flatten(x, *dims)
        return
    output = F.flatten(x, *dims)
    assert_close(output, expected, rtol=0)
    assert_close(F.flatten_backward(output, x.shape, *dims), x, rtol=0)


X = np.zeros((1, 2, 4, 4), np.float32)
ERRORS = [
    (lambda: F.flatten(X, 4), ValueError, r"flatten: start_dim must be in \[-4, 3\]; got 4"),
    (lambda: F.flatten(X, 2, 1), ValueError, "flatten: start_dim must not come after end_dim; got 2 and 1"),
    (lambda: F.flatten([1.0]), TypeError, "flatten: input must be a numpy.ndarray; got list"),
    (
        lambda: F.flatten_backward(X, X.shape),
        ValueError,
        r"flatten_backward: grad_output must have the shape of the output",
    ),
    (lambda: F.pixel_shuffle(X, 2), ValueError, r"pixel_shuffle: input must have a multiple of 2\^2 channels"),
    (lambda: F.pixel_shuffle(X, 0), ValueError, "pixel_shuffle: upscale_factor must be positive; got 0"),
    (lambda: F.pixel_unshuffle(X, 3), ValueError, "pixel_unshuffle: input must have a height and width divisible by 3"),
    (lambda: F.channel_shuffle(X, 3), ValueError, "channel_shuffle: groups must divide the channels; got .* groups=3"),
    (lambda: F.channel_shuffle(X[0, 0], 1), ValueError, "channel_shuffle: input must have at least 3 dimensions"),
]


@pytest.mark.parametrize("call, error, message", ERRORS, ids=[message for *_, message in ERRORS])
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
