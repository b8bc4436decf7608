"""Pooling beside torch: values, indices and gradients, in every layout and at every ISA level."""

import numpy as np
import pytest
import torch
import torch.nn.functional as T
from hypothesis import assume, given
from hypothesis import strategies as st

import pyconv.functional as F
from oracle import LAYOUTS, Guarded, assert_close, to_torch
from pyconv import _kernels
from pyconv.functional import _windows, pooling

# (input shape, kernel_size, stride, padding, dilation, ceil_mode)
MAX_POOLS = [
    ((2, 3, 8, 8), 2, None, 0, 1, False),
    ((2, 16, 9, 7), 3, 2, 1, 1, False),
    ((1, 70, 9, 8), (3, 2), (2, 3), (1, 0), 1, True),
    ((2, 5, 11, 40), 3, 1, 1, 1, False),
    ((1, 4, 13, 37), (2, 3), 2, (0, 1), (3, 2), False),
    ((3, 2, 7, 9), 2, 5, 0, 1, True),
    ((0, 3, 6, 6), 2, 2, 0, 1, False),
    ((6, 10, 9), 3, 2, 1, 1, True),
    ((1, 2, 5, 80), (5, 70), (1, 2), (2, 35), 1, False),
]
# (input shape, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
AVG_POOLS = [
    ((2, 3, 8, 8), 2, None, 0, False, True, None),
    ((2, 16, 9, 7), 3, 2, 1, False, True, None),
    ((2, 16, 9, 7), 3, 2, 1, True, False, None),
    ((1, 70, 9, 8), (3, 2), (2, 3), (1, 0), True, True, None),
    ((2, 5, 11, 40), 3, 1, 1, False, False, None),
    ((3, 2, 7, 9), 2, 5, 0, True, True, 7),
    ((0, 3, 6, 6), 2, 2, 0, False, True, None),
    ((6, 10, 9), 3, 2, 1, True, True, -2),
    ((1, 2, 5, 80), (5, 70), (1, 2), (2, 35), False, False, None),
    ((1, 3, 40, 41), 4, 3, 2, True, False, None),
]
ADAPTIVE = [
    ((2, 3, 8, 8), 1),
    ((2, 19, 7, 10), (3, 4)),
    ((2, 3, 5, 4), (7, 9)),
    ((3, 8, 6), (None, 4)),
    ((0, 3, 8, 8), 2),
    ((1, 40, 9, 9), (9, None)),
    ((1, 3, 4, 130), 1),
    ((1, 16, 64, 65), 1),
    ((1, 16, 128, 96), (2, 3)),
    ((2, 3, 30, 101), (4, 3)),
    ((9, 8, 7), (3, 4)),
]
FORMATS = ["contiguous", "channels_last"]


def values(shape, dtype, rng):
    """Small integers: many equal maxima, and sums that are exact."""
    return rng.integers(-4, 5, shape).astype(dtype)


def gradient(shape, dtype, rng):
    return rng.standard_normal(tuple(shape)).astype(dtype)


# ---- Beside torch ----------------------------------------------------------------------------------


def check_max_pool(x, options, memory_format, rng):
    x = LAYOUTS[memory_format](x)
    tx = to_torch(x, requires_grad=True)
    expected, places = T.max_pool2d(tx, *options, return_indices=True)
    output, indices = F.max_pool2d(x, *options, return_indices=True)
    assert_close(output, expected, rtol=0)
    assert_close(indices, places)
    assert_close(F.max_pool2d(x, *options), expected, rtol=0)
    grad = gradient(output.shape, x.dtype, rng)
    expected.backward(to_torch(grad))
    assert_close(F.max_pool2d_backward(LAYOUTS[memory_format](grad), indices, x.shape), tx.grad)
    saving, saved = pooling.max_pool2d_saving(x, *options)
    assert_close(saving, expected, rtol=0)
    assert_close(pooling.max_pool2d_restoring(grad, saved), tx.grad)


def check_avg_pool(x, options, memory_format, rng):
    x = LAYOUTS[memory_format](x)
    tx = to_torch(x, requires_grad=True)
    expected = T.avg_pool2d(tx, *options)
    assert_close(F.avg_pool2d(x, *options), expected)
    grad = gradient(expected.shape, x.dtype, rng)
    expected.backward(to_torch(grad))
    assert_close(F.avg_pool2d_backward(LAYOUTS[memory_format](grad), x.shape, *options), tx.grad)


@pytest.mark.parametrize("case", MAX_POOLS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_max_pool_beside_torch(case, memory_format, dtype, isa, rng):
    shape, *options = case
    check_max_pool(values(shape, dtype, rng), options, memory_format, rng)


@pytest.mark.parametrize("case", AVG_POOLS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_avg_pool_beside_torch(case, memory_format, dtype, isa, rng):
    shape, *options = case
    check_avg_pool(gradient(shape, dtype, rng), options, memory_format, rng)


@pytest.mark.parametrize("shape, output_size", ADAPTIVE, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_adaptive_pools_beside_torch(shape, output_size, memory_format, dtype, isa, rng):
    x = LAYOUTS[memory_format](values(shape, dtype, rng))
    tx = to_torch(x, requires_grad=True)
    expected = T.adaptive_avg_pool2d(tx, output_size)
    assert_close(F.adaptive_avg_pool2d(x, output_size), expected)
    grad = gradient(expected.shape, dtype, rng)
    expected.backward(to_torch(grad))
    grad = LAYOUTS[memory_format](grad)
    assert_close(F.adaptive_avg_pool2d_backward(grad, shape), tx.grad)

    tx = to_torch(x, requires_grad=True)
    expected, places = T.adaptive_max_pool2d(tx, output_size, return_indices=True)
    output, indices = F.adaptive_max_pool2d(x, output_size, return_indices=True)
    assert_close(output, expected, rtol=0)
    assert_close(indices, places)
    assert_close(F.adaptive_max_pool2d(x, output_size), expected, rtol=0)
    expected.backward(to_torch(grad))
    assert_close(F.adaptive_max_pool2d_backward(grad, indices, shape), tx.grad)


@st.composite
def pools(draw):
    def size(low, high):
        return st.integers(low, high)

    shape = (draw(size(0, 2)), draw(st.sampled_from([1, 2, 3, 7, 16, 33])), draw(size(1, 20)), draw(size(1, 40)))
    kernel = (draw(size(1, 5)), draw(size(1, 6)))
    padding = tuple(draw(size(0, k // 2)) for k in kernel)
    stride = (draw(size(1, 6)), draw(size(1, 6)))
    dilation = (draw(size(1, 3)), draw(size(1, 3)))
    return shape, kernel, stride, padding, dilation, draw(st.booleans())


@given(
    pool=pools(),
    memory_format=st.sampled_from(FORMATS),
    level=st.sampled_from(_kernels.isa_names()),
    count_include_pad=st.booleans(),
    divisor_override=st.sampled_from([None, None, 3, -4]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_any_pool_beside_torch(pool, memory_format, level, count_include_pad, divisor_override, dtype):
    shape, kernel, stride, padding, dilation, ceil_mode = pool
    rng = np.random.default_rng(0)
    before = _kernels.get_isa()
    _kernels.set_isa(level)
    try:
        x = values(shape, dtype, rng)
        try:
            expected, places = T.max_pool2d(to_torch(x), *pool[1:], return_indices=True)
        except RuntimeError:
            with pytest.raises(ValueError, match="output must have at least one pixel"):
                F.max_pool2d(x, *pool[1:])
        else:
            if bool(expected.isneginf().any()):  # torch lets windows be empty; we say so
                with pytest.raises(ValueError, match="every window must hold a pixel"):
                    F.max_pool2d(x, *pool[1:])
            else:
                check_max_pool(x, pool[1:], memory_format, rng)
        options = (kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
        try:
            T.avg_pool2d(to_torch(x), *options)
        except RuntimeError:
            assume(False)
        check_avg_pool(gradient(shape, dtype, rng), options, memory_format, rng)
    finally:
        _kernels.set_isa(before)


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_the_average_of_a_large_plane(memory_format, isa, rng):
    x = rng.random((1, 2, 3000, 1000), np.float32) + 1
    actual = F.adaptive_avg_pool2d(LAYOUTS[memory_format](x), 1)[..., 0, 0]
    assert_close(actual, x.mean((2, 3), float).astype(np.float32), rtol=2e-7)


def test_integers_average_exactly(dtype, isa, rng):
    x = values((2, 9, 12, 40), dtype, rng)
    for layout in map(LAYOUTS.get, FORMATS):
        for kernel, stride in ((2, 2), (3, 2), (3, 1)):
            assert_close(F.avg_pool2d(layout(x), kernel, stride), T.avg_pool2d(to_torch(x), kernel, stride), rtol=0)


# ---- Arrays of any kind ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_any_layout(layout, dtype, rng):
    x = values((2, 5, 9, 12), dtype, rng)
    expected, places = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    given_x = layout(x)
    before = given_x.copy()
    output, indices = F.max_pool2d(given_x, 3, 2, 1, return_indices=True)
    assert_close(output, expected, rtol=0)
    assert_close(indices, places)
    assert_close(F.avg_pool2d(given_x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1))
    np.testing.assert_array_equal(given_x, before)
    grad = gradient(output.shape, dtype, rng)
    wanted = F.max_pool2d_backward(grad, places, x.shape)
    assert_close(F.max_pool2d_backward(layout(grad), layout(places), x.shape), wanted)
    assert_close(F.max_pool2d_backward(grad, layout(places), x.shape), wanted)
    assert_close(F.max_pool2d_backward(layout(grad), places, x.shape), wanted)
    unpooled = F.max_unpool2d(output, indices, 3, 2, 1, (9, 12))
    assert_close(F.max_unpool2d(layout(output), layout(indices), 3, 2, 1, (9, 12)), unpooled)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_results_have_the_format_of_the_input(memory_format, rng):
    x = LAYOUTS[memory_format](gradient((2, 3, 8, 8), np.float32, rng))
    torch_format = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
    output, indices = F.max_pool2d(x, 2, return_indices=True)
    results = [output, indices, F.avg_pool2d(x, 2), F.adaptive_avg_pool2d(x, 3)]
    results += [F.max_pool2d_backward(output, indices, x.shape), F.avg_pool2d_backward(output, x.shape, 2)]
    for result in results:
        assert torch.from_numpy(result).is_contiguous(memory_format=torch_format)


def test_batched_equals_unbatched(dtype, rng):
    x = gradient((3, 4, 9, 8), dtype, rng)
    for operator in (
        lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.adaptive_avg_pool2d(x, 3),
    ):
        np.testing.assert_array_equal(operator(x), np.stack([operator(image) for image in x]))


@pytest.mark.parametrize("memory_format", FORMATS)
def test_nan_and_infinity(memory_format, dtype, isa, rng):
    x = gradient((2, 5, 12, 34), dtype, rng)
    for value in (np.nan, np.inf, -np.inf):
        x.flat[rng.integers(0, x.size, x.size // 5)] = value
    x[0, 0] = -np.inf
    x[1, 1] = np.nan
    x = LAYOUTS[memory_format](x)
    for options in ((2,), (3, 2, 1), (3, 1, 1), (2, 3)):
        output, indices = F.max_pool2d(x, *options, return_indices=True)
        expected, places = T.max_pool2d(to_torch(x), *options, return_indices=True)
        assert_close(output, expected, rtol=0)
        assert_close(indices, places)
        with np.errstate(invalid="ignore"):
            assert_close(F.avg_pool2d(x, *options), T.avg_pool2d(to_torch(x), *options))


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_global_maximum_beside_torch(special, dtype, isa, rng):
    """Rows of several vectors: where the first of equal maxima is, and the last NaN."""
    x = values((3, 2, 5, 77), dtype, rng)
    x[0] = special
    x[1, 0, 1::2, 3::29] = special
    x[2, 1, -1, -1] = special
    output, indices = F.adaptive_max_pool2d(x, 1, return_indices=True)
    expected, places = T.adaptive_max_pool2d(to_torch(x), 1, return_indices=True)
    assert_close(output, expected, rtol=0)
    np.testing.assert_array_equal(indices, places)


def test_bits_do_not_depend_on_threads(threads, rng):
    x = gradient((3, 32, 60, 60), np.float32, rng)
    for layout in map(LAYOUTS.get, FORMATS):
        results = []
        for count in (1, 2, 5):
            threads(count)
            output, indices = F.max_pool2d(layout(x), 3, 1, 1, return_indices=True)
            back = F.max_pool2d_backward(output, indices, x.shape)
            results.append([output, indices, back, F.avg_pool2d_backward(output, x.shape, 3, 1, 1)])
        for other in results[1:]:
            for first, second in zip(results[0], other):
                np.testing.assert_array_equal(first, second)


def test_large_planes_are_scattered_in_bands(threads, dtype, isa, rng):
    """Indices anywhere in the plane, many of them equal, in few large images."""
    for shape in ((1, 3, 500, 300), (2, 40, 120, 90)):
        count = (*shape[:2], 37, 41)
        indices = rng.integers(0, shape[2] * shape[3], count)
        indices[:, :, :20, :20] = 7
        grad = values(count, dtype, rng)
        expected = np.zeros((*shape[:2], shape[2] * shape[3]), dtype)
        for n in range(shape[0]):
            for c in range(shape[1]):
                np.add.at(expected[n, c], indices[n, c].ravel(), grad[n, c].ravel())
        for layout in map(LAYOUTS.get, FORMATS):
            assert_close(F.max_pool2d_backward(layout(grad), indices, shape), expected.reshape(shape), rtol=0)


# ---- max_unpool2d ----------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("size", [None, (9, 11), (2, 3, 9, 11)])
def test_max_unpool_beside_torch(memory_format, size, dtype, isa, rng):
    x = LAYOUTS[memory_format](gradient((2, 3, 9, 11), dtype, rng))
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    if size is None:
        indices = indices % (8 * 10)
    t = to_torch(pooled, requires_grad=True)
    expected = T.max_unpool2d(t, to_torch(indices), 2, output_size=size)
    assert_close(F.max_unpool2d(pooled, indices, 2, output_size=size), expected)
    grad = gradient(expected.shape, dtype, rng)
    expected.backward(to_torch(grad))
    assert_close(F.max_unpool2d_backward(LAYOUTS[memory_format](grad), indices), t.grad)
    assert_close(
        F.max_unpool2d(pooled[0], indices[0], 2, output_size=size and size[-2:]),
        T.max_unpool2d(t[0], to_torch(indices[0]), 2, output_size=size and size[-2:]),
    )


# ---- Errors ----------------------------------------------------------------------------------------

X = np.zeros((1, 2, 6, 6), np.float32)
ERRORS = [
    (lambda: F.max_pool2d(X.tolist(), 2), TypeError, "max_pool2d: input must be a numpy.ndarray; got list"),
    (
        lambda: F.max_pool2d(X.astype(int), 2),
        TypeError,
        "max_pool2d: input must have dtype float32 or float64; got int64",
    ),
    (lambda: F.max_pool2d(X[0, 0], 2), ValueError, "max_pool2d: input must have 3 or 4 dimensions; got shape"),
    (lambda: F.max_pool2d(X[:, :0], 2), ValueError, "max_pool2d: input must have no empty dimension except the batch"),
    (lambda: F.max_pool2d(X, 0), ValueError, "max_pool2d: kernel_size must be positive; got 0"),
    (lambda: F.max_pool2d(X, 2.0), TypeError, "max_pool2d: kernel_size must be an int or a pair of ints; got 2.0"),
    (lambda: F.max_pool2d(X, (2, 2, 2)), TypeError, "max_pool2d: kernel_size must be an int or a pair of ints"),
    (lambda: F.max_pool2d(X, 2, 0), ValueError, "max_pool2d: stride must be positive; got 0"),
    (lambda: F.max_pool2d(X, 2, 1, -1), ValueError, "max_pool2d: padding must be non-negative; got -1"),
    (lambda: F.max_pool2d(X, 3, 1, 2), ValueError, "max_pool2d: padding must be at most half of kernel_size; got"),
    (lambda: F.max_pool2d(X, 2, dilation=0), ValueError, "max_pool2d: dilation must be positive; got 0"),
    (lambda: F.max_pool2d(X, 7), ValueError, "max_pool2d: the output must have at least one pixel; got"),
    (lambda: F.avg_pool2d(X, 2, 1, 2), ValueError, "avg_pool2d: padding must be at most half of kernel_size"),
    (
        lambda: F.avg_pool2d(X, 2, divisor_override=0),
        ValueError,
        "avg_pool2d: divisor_override must not be zero; got 0",
    ),
    (lambda: F.avg_pool2d(X, (7, 1)), ValueError, "avg_pool2d: the output must have at least one pixel"),
    (lambda: F.adaptive_avg_pool2d(X, -1), ValueError, "adaptive_avg_pool2d: output_size must be non-negative; got -1"),
    (lambda: F.adaptive_avg_pool2d(X, (2,)), TypeError, r"output_size must be an int, None or a pair .* got \(2,\)"),
    (lambda: F.adaptive_max_pool2d(X, [1]), TypeError, r"output_size must be an int, None or a pair .* got \[1\]"),
    (lambda: F.adaptive_max_pool2d(X, 1.5), TypeError, "adaptive_max_pool2d: output_size must be an int, None"),
    (
        lambda: F.max_pool2d_backward(X, np.full(X.shape, 36), X.shape),
        ValueError,
        r"max_pool2d_backward: indices must be places in the plane, 0 to 6 \* 6 - 1; got 36",
    ),
    (
        lambda: F.max_pool2d_backward(X, np.full(X.shape, -1), X.shape),
        ValueError,
        "max_pool2d_backward: indices must be places in the plane, .* got -1",
    ),
    (
        lambda: F.max_pool2d_backward(X, np.zeros((1, 2, 6, 5), np.int64), X.shape),
        ValueError,
        "max_pool2d_backward: indices must have the shape of grad_output",
    ),
    (lambda: F.max_pool2d_backward(X, X, X.shape), TypeError, "indices must have dtype int64; got float32"),
    (
        lambda: F.max_pool2d_backward(X, np.zeros(X.shape, np.int64), (1, 3, 6, 6)),
        ValueError,
        "max_pool2d_backward: input_shape must have the batch and channels of grad_output",
    ),
    (
        lambda: F.avg_pool2d_backward(X, (1, 2, 6, 6), 2),
        ValueError,
        r"avg_pool2d_backward: grad_output must have the shape of the output, \(1, 2, 3, 3\); got \(1, 2, 6, 6\)",
    ),
    (
        lambda: F.max_unpool2d(X, np.full(X.shape, 999), 2),
        ValueError,
        "max_unpool2d: indices must be places in the plane",
    ),
    (
        lambda: F.max_unpool2d(X, np.zeros(X.shape, np.int64), 2, output_size=(20, 20)),
        ValueError,
        "max_unpool2d: output_size must differ by less than stride",
    ),
    (
        lambda: F.max_unpool2d_backward(X, np.full(X.shape, 36)),
        ValueError,
        "max_unpool2d_backward: indices must be places in the plane",
    ),
]


@pytest.mark.parametrize("call, error, message", ERRORS, ids=[message for *_, message in ERRORS])
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("option", ["kernel_size", "stride", "padding", "dilation"])
def test_options_that_equal_ints_are_refused_after_these_were_used(option):
    ints = {"kernel_size": 2, option: (1, 1)}
    F.max_pool2d(X, **ints)
    with pytest.raises(TypeError, match=rf"max_pool2d: {option} must be .* ints; got \(1.0, 1.0\)"):
        F.max_pool2d(X, **ints | {option: (1.0, 1.0)})


# ---- Nothing is written beyond an array --------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 16, 19, 64])
@pytest.mark.parametrize("kernel, stride, padding", [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1), (4, 4, 0)])
def test_kernels_stay_inside(channels, kernel, stride, padding, dtype, isa, rng):
    for height, width in ((4, 4), (5, 7), (6, 33), (8, 64)):
        batch = _windows.Batch("", "", (2, channels, height, width), True)
        windows = _windows.ordinary_windows("", batch, kernel, stride, padding, 1, False, (False, 0))
        output_shape = (2, channels, *windows["output"])
        # the input too lies between guards, of NaN, which would show in the output
        x = Guarded((2, channels, height, width), dtype, True)
        x.memory.view(dtype)[:] = np.nan
        x.array[...] = gradient(x.array.shape, dtype, rng)
        for index_dtype in (None, np.int64, np.uint8):
            output = Guarded(output_shape, dtype, True)
            indices = Guarded(output_shape, index_dtype, True) if index_dtype else None
            _kernels.max_pool(windows, x.array, output.array, indices and indices.array)
            assert not np.isnan(output.array).any()
            output.check()
            if indices:
                indices.check()
        grad_input = Guarded(x.array.shape, dtype, True)
        _kernels.max_pool_backward(windows, output.array, indices.array, grad_input.array)
        grad_input.check()
        _kernels.avg_pool(windows, x.array, output.array)
        assert not np.isnan(output.array).any()
        output.check()
        _kernels.avg_pool_backward(windows, output.array, grad_input.array)
        grad_input.check()
