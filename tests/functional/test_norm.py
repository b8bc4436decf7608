"""Normalisation beside PyTorch: outputs, gradients, running statistics, layouts, fusions, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pyconv.functional as F
from oracle import assert_close, to_torch
from pyconv.functional.norm import _batch_norm

SHAPES = [
    (4, 3, 5, 6),
    (2, 1, 9, 9),
    (16, 16, 7, 7),
    (2, 70, 3, 3),
    (3, 257, 4, 5),
    (2, 8, 70, 80),
    (8, 1030, 2, 2),
    (2, 4100, 2, 1),
    (70, 4100),
    (5, 4),
    (3, 5, 7),
    (2, 6, 1, 1),
    (2, 4, 3, 2, 3),
]


def make(rng, shape, dtype, layout=np.copy):
    """input, grad_output, weight, bias, running mean and variance."""
    channels = shape[1]
    x = layout((rng.standard_normal(shape) * 2 + 3).astype(dtype))
    g = layout(rng.standard_normal(shape).astype(dtype))
    vectors = [rng.standard_normal(channels).astype(dtype) for _ in range(3)]
    return x, g, *vectors, (rng.random(channels) + 0.5).astype(dtype)


def torch_gradients(function, g, *arrays):
    """Output of function(*tensors) and the gradient of each array, None for None."""
    tensors = [None if array is None else to_torch(array, requires_grad=True) for array in arrays]
    output = function(*tensors)
    output.backward(to_torch(g))
    return output, [None if tensor is None else tensor.grad for tensor in tensors]


def check(ours, output, gradients, backward, rtol=None):
    assert_close(ours, output, rtol)
    for gradient, expected, name in zip(backward, gradients, ("input", "weight", "bias")):
        if expected is not None:
            assert_close(gradient, expected, rtol, err_msg=f"gradient of {name}")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm(shape, affine, training, dtype, isa, rng):
    for layout in (np.copy, channels_last):
        x, g, w, b, mean, var = make(rng, shape, dtype, layout)
        w, b = (w, b) if affine else (None, None)
        statistics = to_torch(mean), to_torch(var)
        output, gradients = torch_gradients(
            lambda x, w, b, mean=statistics[0], var=statistics[1]: torch.nn.functional.batch_norm(
                x, mean, var, w, b, training, 0.3, 1e-3
            ),
            g,
            x,
            w,
            b,
        )
        backward = F.batch_norm_backward(g, x, mean, var, w, b, training, 0.3, 1e-3)
        ours = F.batch_norm(x, mean, var, w, b, training, 0.3, 1e-3)
        check(ours, output, gradients, backward)
        assert_close(mean, statistics[0])
        assert_close(var, statistics[1])
        assert [s > 0 for s in np.argsort(ours.strides)] == [s > 0 for s in np.argsort(x.strides)]


def channels_last(array):
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)).transpose(0, -1, *range(1, array.ndim - 1))


def test_batch_norm_of_any_layout(layout, dtype, rng):
    x, g, w, b, mean, var = make(rng, (4, 6, 5, 3), dtype)
    expected = F.batch_norm(x, None, None, w, b, True)
    gradients = F.batch_norm_backward(g, x, None, None, w, b, True)
    before = layout(x)
    ours = F.batch_norm(before, None, None, layout(w), layout(b), True)
    assert_close(ours, expected)
    np.testing.assert_array_equal(before, x)
    for gradient, other in zip(gradients, F.batch_norm_backward(layout(g), layout(x), None, None, layout(w), b, True)):
        assert_close(gradient, other)
    running = layout(mean)
    if running.flags.writeable:
        F.batch_norm(x, running, var, training=True)
        assert_close(running, 0.9 * mean + 0.1 * x.mean((0, 2, 3)))


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (8, 16, 7, 7), (2, 70, 3, 3), (2, 8, 70, 80)], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_fused_relu_and_residual(shape, with_residual, training, dtype, isa, rng):
    for layout in (np.copy, channels_last):
        x, g, w, b, mean, var = make(rng, shape, dtype, layout)
        residual = layout(rng.standard_normal(shape).astype(dtype)) if with_residual else None
        statistics = to_torch(mean), to_torch(var)

        def fused(x, w, b, residual, statistics=statistics):
            y = torch.nn.functional.batch_norm(x, *statistics, w, b, training)
            return torch.relu(y if residual is None else y + residual)

        output, gradients = torch_gradients(fused, g, x, w, b, residual)
        ours, job = _batch_norm(x, mean, var, w, b, training, 0.1, 1e-5, relu=True, residual=residual)
        backward = job.backward(g)
        check(ours, output, gradients[:3], backward)
        if with_residual:
            assert_close(backward[3], gradients[3])


def test_batch_norm_is_robust(dtype, isa, rng):
    """A mean far from zero, and an outlier in front, leave the variance exact."""
    x = (rng.standard_normal((4, 5, 30, 30)) + 4096).astype(dtype)
    x[0, 1] = 1e4
    x[:, 2] = 7
    x[0, 2, 0, 0] = 7e5
    exact = x.astype(np.float64)
    for array in (x, channels_last(x)):
        mean, var = np.zeros(5, dtype), np.zeros(5, dtype)
        F.batch_norm(array, mean, var, training=True, momentum=1.0)
        np.testing.assert_allclose(mean, exact.mean((0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(var, exact.var((0, 2, 3), ddof=1), rtol=2e-5 if dtype == np.float32 else 1e-10)


HARD = {
    "far": lambda rng, shape: rng.standard_normal(shape) + 1000,
    "rectified": lambda rng, shape: np.maximum(rng.standard_normal(shape), 0),
    "half": lambda rng, shape: rng.standard_normal(shape) * (np.arange(shape[2])[:, None] > shape[2] // 2) + 3,
    "spikes": lambda rng, shape: np.where(rng.random(shape) < 1e-3, 1e4, rng.standard_normal(shape)),
    "heavy": lambda rng, shape: rng.standard_cauchy(shape),
    "constant": lambda rng, shape: np.full(shape, 3.3),
    "tiny": lambda rng, shape: rng.standard_normal(shape) * 1e-15,
}


@pytest.mark.parametrize("shape", [(8, 16, 70, 40), (64, 10, 14, 14), (3, 2100, 5, 5)], ids=str)
@pytest.mark.parametrize("kind", HARD)
def test_batch_norm_statistics_of_hard_data(kind, shape, dtype, isa, rng):
    """Moments are taken around a guess at the mean: where it is a bad one, nothing may cancel."""
    x = HARD[kind](rng, shape).astype(dtype)
    exact = x.astype(np.float64)
    mean64, var64 = exact.mean((0, 2, 3)), exact.var((0, 2, 3))
    unbiased = var64 * x[:, 0].size / (x[:, 0].size - 1)
    eps = 1e-7 if dtype == np.float32 else 1e-14
    for array in (x, channels_last(x)):
        mean, var = np.zeros(shape[1], dtype), np.zeros(shape[1], dtype)
        F.batch_norm(array, mean, var, training=True, momentum=1.0)
        assert np.all(abs(mean - mean64) <= 4 * eps * (abs(mean64) + np.sqrt(var64)))
        assert np.all(abs(var - unbiased) <= 16 * eps * unbiased + (eps * mean64) ** 2)


def test_batch_norm_of_nan_and_infinity(dtype, isa, rng):
    x, g, w, b, mean, var = make(rng, (2, 5, 4, 4), dtype)
    weight, bias = to_torch(w), to_torch(b)
    for bad in (np.nan, np.inf):
        x[1, 2, 3, 1] = bad
        for array in (x, channels_last(x)):
            with np.errstate(all="raise"):
                ours = F.batch_norm(array, None, None, w, b, True)
                gradient = F.batch_norm_backward(g, array, None, None, w, b, True)[0]
                F.group_norm(np.zeros_like(x), 1, eps=0.0)
            output, gradients = torch_gradients(
                lambda x: torch.nn.functional.batch_norm(x, None, None, weight, bias, True), g, x
            )
            check(ours, output, gradients, [gradient])
            assert_close(
                F.batch_norm(array, mean, var, w, b),
                torch.nn.functional.batch_norm(*map(to_torch, (x, mean, var, w, b))),
            )


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize(
    "shape", [(4, 6, 5, 3), (2, 12, 17, 20), (3, 6), (2, 6, 9), (2, 66, 2, 2), (9, 12, 7, 6)], ids=str
)
def test_group_norm(shape, groups, dtype, isa, rng):
    for layout in (np.copy, channels_last):
        x, g, w, b, _, _ = make(rng, shape, dtype, layout)
        if shape == (3, 6) and groups > 2:
            continue  # one or two values a group, a gradient of little but rounding
        output, gradients = torch_gradients(
            lambda *t: torch.nn.functional.group_norm(t[0], groups, *t[1:], 1e-3), g, x, w, b
        )
        backward = F.group_norm_backward(g, x, groups, w, b, 1e-3)
        check(F.group_norm(x, groups, w, b, 1e-3), output, gradients, backward)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("shape", [(4, 6, 5, 3), (2, 17, 20, 20), (9, 6, 9), (2, 66, 2, 2), (5, 6)], ids=str)
def test_instance_norm(shape, own, dtype, isa, rng):
    if own and len(shape) == 2:
        return
    for layout in (np.copy, channels_last):
        x, g, w, b, mean, var = make(rng, shape, dtype, layout)
        statistics = to_torch(mean), to_torch(var)
        output, gradients = torch_gradients(
            lambda x, w, b, mean=statistics[0], var=statistics[1]: torch.nn.functional.instance_norm(
                x, mean, var, w, b, own, 0.3, 1e-3
            ),
            g,
            x,
            w,
            b,
        )
        backward = F.instance_norm_backward(g, x, mean, var, w, b, own, 0.3, 1e-3)
        check(F.instance_norm(x, mean, var, w, b, own, 0.3, 1e-3), output, gradients, backward)
        assert_close(mean, statistics[0])
        assert_close(var, statistics[1])


@pytest.mark.parametrize(
    ("shape", "normalized"),
    [
        ((4, 6, 5, 3), (5, 3)),
        ((4, 6, 5, 3), (6, 5, 3)),
        ((50, 33), 33),
        ((2, 3, 40), [40]),
        ((7,), 7),
        ((300, 4), 4),
        ((140, 2101), 2101),
        ((1, 6, 5, 3), (6, 5, 3)),
    ],
    ids=str,
)
def test_layer_norm(shape, normalized, dtype, isa, rng):
    size = (normalized,) if isinstance(normalized, int) else tuple(normalized)
    layouts = [np.copy, np.copy, np.copy, channels_last] if len(shape) == 4 else [np.copy] * 3
    for layout, (w, b) in zip(layouts, [(True, True), (True, False), (False, False), (True, True)]):
        x, g = (layout(rng.standard_normal(shape).astype(dtype)) for _ in range(2))
        w, b = (rng.standard_normal(size).astype(dtype) if there else None for there in (w, b))
        output, gradients = torch_gradients(
            lambda *t: torch.nn.functional.layer_norm(t[0], size, *t[1:], 1e-3), g, x, w, b
        )
        backward = F.layer_norm_backward(g, x, normalized, w, b, 1e-3)
        check(F.layer_norm(x, normalized, w, b, 1e-3), output, gradients, backward)


@pytest.mark.parametrize("options", [(5,), (2, 0.3, 0.5, 2.0), (1, 1.0, 1.0), (9, 1e-2, 0.75), (4, 0.5, 0.75)], ids=str)
@pytest.mark.parametrize("shape", [(4, 6, 5, 3), (3, 20, 6), (2, 1, 2, 2), (2, 33, 5, 7)], ids=str)
def test_local_response_norm(shape, options, dtype, isa, rng):
    if len(shape) == 3:
        pytest.importorskip("torch")
    for layout in (np.copy, channels_last):
        x, g = (layout((rng.standard_normal(shape) * 3).astype(dtype)) for _ in range(2))
        output, gradients = torch_gradients(lambda t: torch.nn.functional.local_response_norm(t, *options), g, x)
        check(F.local_response_norm(x, *options), output, gradients, [F.local_response_norm_backward(g, x, *options)])


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12)),
    last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_batch_norm_of_any_shape(shape, last, seed):
    if shape[0] * shape[2] * shape[3] == 1:
        return
    x, g, w, b, mean, var = make(np.random.default_rng(seed), shape, np.float64, channels_last if last else np.copy)
    output, gradients = torch_gradients(
        lambda *t: torch.nn.functional.batch_norm(t[0], None, None, *t[1:], True), g, x, w, b
    )
    backward = F.batch_norm_backward(g, x, None, None, w, b, True)
    check(F.batch_norm(x, None, None, w, b, True), output, gradients, backward, rtol=1e-9)


def test_needs(rng):
    x, g, w, b, mean, var = make(rng, (2, 3, 4, 4), np.float32)
    for training in (True, False):
        everything = F.batch_norm_backward(g, x, mean, var, w, b, training)
        for i in range(3):
            needs = tuple(j == i for j in range(3))
            some = F.batch_norm_backward(g, x, mean, var, w, b, training, needs=needs)
            assert [gradient is not None for gradient in some] == list(needs)
            np.testing.assert_array_equal(some[i], everything[i])


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (0, 3)], ids=str)
def test_zero_size(shape, dtype):
    x = np.zeros(shape, dtype)
    w, mean, var = np.ones(3, dtype), np.zeros(3, dtype), np.ones(3, dtype)
    for training in (True, False):
        assert F.batch_norm(x, mean, var, w, mean.copy(), training).shape == shape
        grads = F.batch_norm_backward(x, x, mean, var, w, None, training)
        assert grads[0].shape == shape and not grads[1].any() and not grads[2].any()
    assert (mean == 0).all() and (var == 1).all()
    assert F.group_norm(x, 3, w).shape == shape
    assert F.group_norm_backward(x, x, 3, w)[0].shape == shape
    assert F.layer_norm(x, shape[-1]).shape == shape
    assert F.layer_norm_backward(x, x, shape[-1])[0].shape == shape
    if len(shape) == 4:
        assert F.instance_norm(x).shape == shape
        assert F.local_response_norm(x, 3).shape == shape
        assert F.local_response_norm_backward(x, x, 3).shape == shape


def test_threads_do_not_change_a_bit(threads, dtype, rng):
    for layout in (np.copy, channels_last):
        x, g, w, b, _, _ = make(rng, (8, 24, 40, 40), dtype, layout)
        results = []
        for count in (1, 2):
            threads(count)
            arrays = [
                F.batch_norm(x, None, None, w, b, True),
                *F.batch_norm_backward(g, x, None, None, w, b, True),
                F.group_norm(x, 4, w, b),
                *F.group_norm_backward(g, x, 4, w, b),
                *F.group_norm_backward(g[:2], x[:2], 4, w, b),
                F.layer_norm(x, x.shape[1:]),
                *F.layer_norm_backward(g, x, 40),
                *F.layer_norm_backward(g, x, x.shape[1:]),
            ]
            results.append([array.tobytes() for array in arrays])
        assert results[0] == results[1]


X = np.ones((2, 6, 3, 3), np.float32)
V = np.ones(6, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.batch_norm([1.0], V, V), TypeError, "batch_norm: input must be a numpy.ndarray; got list"),
        (lambda: F.batch_norm(X.astype(int), V, V), TypeError, "input must have dtype float32 or float64; got int64"),
        (lambda: F.batch_norm(V, V, V), ValueError, r"at least 2 dimensions; got shape \(6,\)"),
        (lambda: F.batch_norm(X, V[:5], V), ValueError, r"running_mean must have shape \(6,\); got \(5,\)"),
        (lambda: F.batch_norm(X, V, V, V.astype(float)), TypeError, "weight must have the dtype of input"),
        (lambda: F.batch_norm(X, None, V), ValueError, "must be given when training is False; got None"),
        (
            lambda: F.batch_norm(X, None, V, training=True),
            ValueError,
            "batch_norm: .* or both be None; got no running_me",
        ),
        (
            lambda: F.batch_norm(X, V, None, training=True),
            ValueError,
            "batch_norm: .* or both be None; got no running_v",
        ),
        (lambda: F.instance_norm(X, None, V), ValueError, "instance_norm: .* both be None; got no running_mean"),
        (lambda: F.instance_norm(X, V, None), ValueError, "instance_norm: .* both be None; got no running_var"),
        (lambda: F.batch_norm(X, V, V, eps=-1.0), ValueError, "eps must be at least 0; got -1.0"),
        (lambda: F.batch_norm(X, V, V, training=True, eps=0.0), ValueError, "eps must be above 0 in training"),
        (lambda: F.batch_norm(X[:1, :, :1, :1], None, None, training=True), ValueError, "more than 1 value per"),
        (lambda: F.batch_norm_backward(X[:1], X, V, V), ValueError, "grad_output must have the shape of input"),
        (lambda: F.group_norm(X, 4), ValueError, "num_groups must divide the channels; got 6 channels, num_groups=4"),
        (lambda: F.group_norm(X, 0), ValueError, "num_groups=0"),
        (lambda: F.group_norm(X[:1, :, :1, :1], 6), ValueError, "more than 1 value per group"),
        (lambda: F.instance_norm(X[0, 0, 0]), ValueError, "at least 2 dimensions"),
        (lambda: F.instance_norm(X[0, 0]), ValueError, "more than 1 value per channel"),
        (lambda: F.instance_norm(X[:, :, :1, :1]), ValueError, "more than 1 value per channel"),
        (lambda: F.instance_norm(X, use_input_stats=False), ValueError, "must be given without use_input_stats"),
        (lambda: F.layer_norm(X, (6, 3)), ValueError, r"got \(6, 3\) for shape \(2, 6, 3, 3\)"),
        (lambda: F.layer_norm(X, ()), ValueError, "must be the last dimensions of input"),
        (lambda: F.layer_norm(X, 3, V), ValueError, r"weight must have shape \(3,\); got \(6,\)"),
        (lambda: F.local_response_norm(X, 0), ValueError, "size must be at least 1; got 0"),
        (lambda: F.local_response_norm(X[0, 0], 2), ValueError, "at least 3 dimensions"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_read_only_running_mean_is_an_error():
    mean = V.copy()
    mean.flags.writeable = False
    with pytest.raises(ValueError, match="running_mean must be writeable"):
        F.batch_norm(X, mean, V.copy(), training=True)
    F.batch_norm(X, mean, V)


def test_local_response_norm_of_zero_and_negative_divisors(isa, dtype):
    x = np.array([0.0, 1.0, -2.0, np.nan, np.inf], dtype).reshape(1, 5, 1)
    for options in [(1, 1.0, 0.75, 0.0), (1, -3.0, 0.5, 1.0), (3, 1.0, 0.0, 0.0), (1, 1.0, -1.0, 0.0)]:
        expected = torch.nn.functional.local_response_norm(to_torch(x)[:, None], *options)[:, 0]
        ours = F.local_response_norm(x.reshape(1, 1, 5, 1), *options)
        assert_close(ours[:, 0], expected)
