"""interpolate beside torch: values and gradients in every mode, up and down."""

import numpy as np
import pytest
import torch.nn.functional as T
from hypothesis import given
from hypothesis import strategies as st

import pyconv.functional as F
from oracle import LAYOUTS, assert_close, to_torch

CASES = [
    ((2, 3, 5, 6), {"scale_factor": 2}),
    ((2, 3, 5, 6), {"scale_factor": (3, 2)}),
    ((2, 3, 5, 6), {"scale_factor": 1.7}),
    ((2, 3, 9, 7), {"scale_factor": 0.4}),
    ((2, 3, 5, 6), {"scale_factor": 1.7, "recompute_scale_factor": True}),
    ((2, 3, 5, 6), {"size": (7, 4)}),
    ((2, 3, 5, 6), {"size": (5, 12)}),
    ((1, 2, 8, 8), {"size": 3}),
    ((1, 2, 3, 4), {"size": 1}),
    ((0, 2, 3, 4), {"size": 5}),
]
MODES = [("nearest", None), ("nearest-exact", None), ("area", None)]
MODES += [(mode, corners) for mode in ("bilinear", "bicubic") for corners in (None, True)]


def check(x, options):
    tx = to_torch(x, requires_grad=True)
    expected = T.interpolate(tx, **options)
    output = F.interpolate(x, **options)
    assert_close(output, expected)
    grad = np.random.default_rng(1).standard_normal(output.shape).astype(x.dtype)
    expected.backward(to_torch(grad))
    assert_close(F.interpolate_backward(grad, x.shape, **options), tx.grad)


@pytest.mark.parametrize("mode, align_corners", MODES)
@pytest.mark.parametrize("shape, options", CASES, ids=str)
def test_interpolate_beside_torch(shape, options, mode, align_corners, dtype, rng):
    options = options | {"mode": mode, "align_corners": align_corners}
    x = rng.standard_normal(shape).astype(dtype)
    for name in ("contiguous", "channels_last"):
        check(LAYOUTS[name](x), options)


@pytest.mark.parametrize("width", [4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 34, 65])
@pytest.mark.parametrize(
    "scale, mode",
    [(0.5, "bilinear"), (0.5, "nearest"), (2, "bilinear"), (2, "nearest"), (3, "nearest"), (2, "bicubic")],
)
def test_places_that_grow_regularly(width, scale, mode, isa, dtype, rng):
    for name in ("contiguous", "channels_last"):
        check(LAYOUTS[name](rng.standard_normal((1, 2, 5, width)).astype(dtype)), {"scale_factor": scale, "mode": mode})


OTHERS = [(shape, mode) for shape in ((2, 3, 7), (1, 2, 3, 4, 5)) for mode in ("nearest", "nearest-exact", "area")]


@pytest.mark.parametrize("shape, mode", [*OTHERS, ((2, 3, 7), "linear"), ((1, 2, 3, 4, 5), "trilinear")])
@pytest.mark.parametrize("scale_factor", [1.5, 0.7, 1.9])
def test_other_dimensions(shape, mode, scale_factor, dtype, rng):
    check(rng.standard_normal(shape).astype(dtype), {"scale_factor": scale_factor, "mode": mode})


NEAREST = [((1, 1, 0), ()), ((1, 1, 2, 0), (3,)), ((1, 1, 2, 0), (126,)), ((1, 2, 3, 2, 0), (2, 3))]


def check_nearest(x, options):
    """PyTorch's pixels; and the gradient of these, which PyTorch's own sometimes is not."""
    output = F.interpolate(x, **options)
    assert_close(output, T.interpolate(to_torch(x), **options), rtol=0, err_msg=str(options))
    grad = (np.arange(output.size, dtype=x.dtype) % 7).reshape(output.shape)
    expected = np.zeros_like(x)
    np.add.at(expected.reshape(-1), output.astype(int), grad)  # x is its own places
    np.testing.assert_array_equal(F.interpolate_backward(grad, x.shape, **options), expected)


def places(shape, extent, dtype):
    """An array of `shape`, whose dimensions of 0 are `extent`, of numbers that tell its elements apart."""
    shape = [length or extent for length in shape]
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("shape, sizes", NEAREST)
def test_nearest_takes_the_pixels_that_pytorch_takes(shape, sizes, mode, dtype):
    """Of every size: one at which a rounding decides is as good as any other."""
    for extent in (1, 2, 3, 8, 14, 26, 39, 59):
        for size in range(1, 84):
            check_nearest(places(shape, extent, dtype), {"size": (*sizes, size), "mode": mode})


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("shape", [(1, 1, 0), (1, 1, 3, 0), (1, 1, 11, 0), (1, 1, 2, 3, 0)])
@pytest.mark.parametrize("scale", [2.0625, 2.061, 2.03, 2.0, 1.02, 1.9, 0.7])
def test_nearest_by_a_scale(shape, scale, mode, dtype):
    for extent in range(2, 70):
        check_nearest(places(shape, extent, dtype), {"scale_factor": scale, "mode": mode})


@pytest.mark.parametrize("shape, mode", [((2, 3, 7), "linear"), ((2, 3, 7, 7), "bilinear"), ((2, 3, 7, 7), "nearest"),
                                         ((1, 2, 7, 7, 7), "trilinear")])  # fmt: skip
def test_scale_that_leaves_the_size(shape, mode, dtype, rng):
    x = rng.standard_normal(shape).astype(dtype)
    check(x, {"scale_factor": 1.1, "mode": mode})
    x[0, 0, 2] = np.inf
    assert_close(F.interpolate(x, scale_factor=1.1, mode=mode), T.interpolate(to_torch(x), scale_factor=1.1, mode=mode))


@given(
    extents=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    mode=st.sampled_from(MODES),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_any_size_beside_torch(extents, size, mode, dtype):
    x = np.random.default_rng(0).standard_normal((1, 2, *extents)).astype(dtype)
    check(x, {"size": size, "mode": mode[0], "align_corners": mode[1]})


@pytest.mark.parametrize("mode, align_corners", MODES)
def test_whole_vectors(mode, align_corners, isa, dtype, rng):
    """Rows and channels of several vectors and a rest; up, down, and by so much that a tap is shared by many."""
    for shape, size in (((2, 3, 21, 35), (42, 70)), ((1, 35, 6, 7), (13, 14)), ((2, 2, 40, 75), (9, 37)),
                        ((1, 3, 2, 2), (5, 99))):  # fmt: skip
        x = rng.standard_normal(shape).astype(dtype)
        for name in ("contiguous", "channels_last"):
            check(LAYOUTS[name](x), {"size": size, "mode": mode, "align_corners": align_corners})


def test_bits_at_any_number_of_threads(threads, rng):
    x, g = (rng.standard_normal((8, 16, side, side)).astype(np.float32) for side in (50, 100))
    results = []
    for count in (1, 3):
        threads(count)
        results.append((F.interpolate(x, scale_factor=2, mode="bilinear"),
                        F.interpolate_backward(g, x.shape, scale_factor=2, mode="bilinear")))  # fmt: skip
    for one, three in zip(*results):
        np.testing.assert_array_equal(one, three)


def test_any_layout(layout, dtype, rng):
    x = rng.standard_normal((2, 3, 5, 6)).astype(dtype)
    given_x = layout(x)
    before = given_x.copy()
    for mode in ("nearest", "bilinear"):
        output = F.interpolate(given_x, scale_factor=2, mode=mode)
        assert_close(output, F.interpolate(x, scale_factor=2, mode=mode))
        assert not np.shares_memory(output, given_x)
        assert_close(F.interpolate(given_x, size=(5, 6), mode=mode), x)
        grad = rng.standard_normal(output.shape).astype(dtype)
        assert_close(
            F.interpolate_backward(layout(grad), x.shape, scale_factor=2, mode=mode),
            F.interpolate_backward(grad, x.shape, scale_factor=2, mode=mode),
        )
    np.testing.assert_array_equal(given_x, before)


def test_nan_and_infinity(dtype):
    x = np.array([[[[np.nan, 1, np.inf, 3]]]], dtype)
    expected = T.interpolate(to_torch(x), size=(2, 8))
    assert_close(F.interpolate(x, size=(2, 8)), expected)


@pytest.mark.parametrize("mode", ["linear", "bilinear", "bicubic"])
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("options", [{"scale_factor": 3.0}, {"size": 15}, {"scale_factor": 1.7}, {"size": 5}], ids=str)
def test_an_infinite_pixel_reaches_as_far_as_in_pytorch(options, corners, mode, dtype):
    """A neighbour's weight of 0 or of 1e-8 is a matter of one rounding, and of NaN or infinity."""
    options = {**options, "mode": mode, "align_corners": corners}
    for width in range(1, 9):
        for at in range(width):
            x = np.ones((1, 1, width) if mode == "linear" else (1, 1, 2, width), dtype)
            x[..., at] = np.inf
            assert_close(F.interpolate(x, **options), T.interpolate(to_torch(x), **options))


X = np.zeros((1, 2, 4, 4), np.float32)
ERRORS = [
    (lambda: F.interpolate(X), ValueError, "interpolate: either size or scale_factor must be given"),
    (lambda: F.interpolate(X, 2, 2.0), ValueError, "interpolate: either size or scale_factor must be given"),
    (lambda: F.interpolate(X, 2, mode="cubic"), ValueError, "interpolate: mode must be one of nearest.*; got 'cubic'"),
    (lambda: F.interpolate(X, 2, mode="linear"), ValueError, "interpolate: input must have the dimensions that mode"),
    (
        lambda: F.interpolate(X, 2, align_corners=True),
        ValueError,
        "interpolate: align_corners must be left out in mode",
    ),
    (lambda: F.interpolate(X, 0), ValueError, "interpolate: input and output must have at least one pixel"),
    (lambda: F.interpolate(X, scale_factor=-1), ValueError, "interpolate: scale_factor must be positive; got -1"),
    (
        lambda: F.interpolate(X, scale_factor=0.1),
        ValueError,
        "interpolate: input and output must have at least one pixel",
    ),
    (lambda: F.interpolate(X, (1, 2, 3)), ValueError, "must have an entry for each of 2 axes; got 3"),
    (
        lambda: F.interpolate(X, scale_factor=(2, 2, 2)),
        ValueError,
        "scale_factor must have an entry for each of 2 axes",
    ),
    (
        lambda: F.interpolate(X, scale_factor=[2]),
        ValueError,
        "scale_factor must have an entry for each of 2 axes; got 1",
    ),
    (lambda: F.interpolate(X[0], scale_factor=(2, 2)), ValueError, "must have an entry for each of 1 axes; got 2"),
    (
        lambda: F.interpolate_backward(X, (1, 2, 2, 2), scale_factor=(2, 2, 2)),
        ValueError,
        "interpolate_backward: scale_factor must have an entry for each of 2 axes; got 3",
    ),
    (lambda: F.interpolate(X, scale_factor="x"), TypeError, "interpolate: scale_factor must be a number; got str"),
    (lambda: F.interpolate(X, scale_factor=np.nan), ValueError, "interpolate: scale_factor must be positive; got nan"),
    (lambda: F.interpolate(X, 2.5), TypeError, "interpolate: size must be an int or ints; got 2.5"),
    (lambda: F.interpolate(X.astype(int), 2), TypeError, "interpolate: input must have dtype float32 or float64"),
    (
        lambda: F.interpolate_backward(X, X.shape, 2),
        ValueError,
        "interpolate_backward: grad_output must have the shape",
    ),
]


@pytest.mark.parametrize("call, error, message", ERRORS, ids=[message for *_, message in ERRORS])
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
