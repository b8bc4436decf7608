"""Losses and their gradients beside PyTorch's."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pyconv.functional as F
from oracle import assert_close, to_torch

REDUCTIONS = ["mean", "sum", "none"]
POINTWISE = [
    ("mse_loss", {}),
    ("l1_loss", {}),
    ("smooth_l1_loss", {}),
    ("smooth_l1_loss", {"beta": 0.3}),
    ("smooth_l1_loss", {"beta": 0.0}),
    ("binary_cross_entropy_with_logits", {}),
    ("binary_cross_entropy_with_logits", {"weight": (3, 1, 5)}),
    ("binary_cross_entropy_with_logits", {"pos_weight": (5,)}),
    ("binary_cross_entropy_with_logits", {"weight": (4, 3, 2, 5), "pos_weight": (2, 5)}),
]


def check(name, x, target, reduction="mean", grad_output=None, **options):
    """Compare loss and gradient with PyTorch's, and that nothing was written to."""
    tensor = to_torch(x, requires_grad=True)
    torch_options = {k: to_torch(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    integers = target.dtype.kind != "f"
    torch_target = torch.tensor(target.astype(np.int64)) if integers else to_torch(target)
    loss = getattr(torch.nn.functional, name)(tensor, torch_target, reduction=reduction, **torch_options)
    if grad_output is None:
        grad_output = np.random.default_rng(1).standard_normal(loss.shape).astype(x.dtype)
    loss.backward(to_torch(grad_output))

    arrays = [x, target, *(v for v in options.values() if isinstance(v, np.ndarray))]
    before = [array.copy() for array in arrays]
    ours = getattr(F, name)(x, target, reduction=reduction, **options)
    assert_close(ours, loss, err_msg=name)
    if reduction != "none":
        assert isinstance(ours, x.dtype.type)
    grad = getattr(F, name + "_backward")(grad_output, x, target, reduction=reduction, **options)
    assert_close(grad, tensor.grad, err_msg=name)
    for array, copy in zip(arrays, before):
        np.testing.assert_array_equal(array, copy)
    return grad


def random_target(rng, shape, classes, ignore_index=None):
    target = rng.integers(0, classes, shape)
    if ignore_index is not None:
        target[rng.random(shape) < 0.3] = ignore_index
    return target


# ---- Classes ---------------------------------------------------------------------------------------

SHAPES = [(7,), (1, 10), (64, 10), (45, 21), (5, 33), (3, 1000),
          (4, 3, 6), (2, 5, 9, 13), (1, 21, 30, 31), (2, 300, 16, 8), (2, 3, 2, 3, 2)]  # fmt: skip
VARIANTS = list(itertools.product([False, True], [None, -100, 2], [0.0, 0.1, 1.0]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy(shape, reduction, isa, dtype, rng):
    classes = shape[0] if len(shape) == 1 else shape[1]
    target_shape = () if len(shape) == 1 else shape[:1] + shape[2:]
    for weighted, ignore_index, smoothing in VARIANTS:
        x = (5 * rng.standard_normal(shape)).astype(dtype)
        options = {"label_smoothing": smoothing}
        if weighted:
            options["weight"] = rng.uniform(0.5, 2, classes).astype(dtype)
        if ignore_index is not None and ignore_index < classes:
            options["ignore_index"] = ignore_index
        target = np.asarray(random_target(rng, target_shape, classes))
        if "ignore_index" in options and target.ndim:
            target[1:][rng.random(target[1:].shape) < 0.3] = ignore_index
            target[0] = 0
        check("cross_entropy", x, target, reduction, **options)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_probabilities(shape, reduction, smoothing, dtype, rng):
    classes = shape[0] if len(shape) == 1 else shape[1]
    x, target = rng.standard_normal((2, *shape)).astype(dtype)
    target = np.exp(target)
    check("cross_entropy", x, target, reduction, label_smoothing=smoothing)
    weight = rng.uniform(0.5, 2, classes).astype(dtype)
    check("cross_entropy", x, target, reduction, label_smoothing=smoothing, weight=weight)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss(shape, reduction, dtype, rng):
    classes = shape[0] if len(shape) == 1 else shape[1]
    target_shape = () if len(shape) == 1 else shape[:1] + shape[2:]
    x = rng.standard_normal(shape).astype(dtype)
    target = np.asarray(random_target(rng, target_shape, classes))
    check("nll_loss", x, target, reduction)
    check("nll_loss", x, target, reduction, weight=rng.uniform(0.5, 2, classes).astype(dtype))
    if target.ndim:
        target.flat[1:] = np.where(rng.random(target.size - 1) < 0.5, -7, target.flat[1:])
    check("nll_loss", x, target, reduction, ignore_index=-7)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # NaN around an integer target
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_class_layouts(name, layout, dtype, rng):
    for shape in ((6, 9), (2, 4, 3, 5), (2, 70, 3, 5)):
        x = layout(rng.standard_normal(shape).astype(dtype))
        target = layout(random_target(rng, shape[:1] + shape[2:], shape[1]))
        grad = check(name, x, target)
        if x.ndim == 4:
            channels_last = x.strides[1] == x.itemsize
            assert np.argmin(grad.strides) == (1 if channels_last else 3)


@pytest.mark.parametrize("integer", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_every_integer_dtype(integer, rng):
    x = rng.standard_normal((6, 5)).astype(np.float32)
    check("cross_entropy", x, random_target(rng, 6, 5).astype(integer))
    check("nll_loss", x, random_target(rng, 6, 5).astype(integer))


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_to_learn(name, reduction):
    """No rows, or only ignored ones: the mean is NaN, as in PyTorch."""
    check(name, np.zeros((0, 3), np.float32), np.zeros(0, int), reduction)
    check(name, np.zeros((2, 3, 0, 2), np.float32), np.zeros((2, 0, 2), int), reduction)
    if reduction != "mean":  # PyTorch's gradient is NaN or 0 by version
        check(name, np.ones((2, 3), np.float32), np.full(2, -100), reduction)
    else:
        assert np.isnan(getattr(F, name)(np.ones((2, 3), np.float32), np.full(2, -100)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_weights_of_zero(smoothing, dtype):
    x, weight = np.arange(6, dtype=dtype).reshape(2, 3), np.array([1, 0, 2], dtype)
    loss = F.cross_entropy(x, np.array([1, 1]), weight, label_smoothing=smoothing)
    assert np.isnan(loss), "0 / 0, as in PyTorch"


@given(
    n=st.integers(0, 40),
    classes=st.integers(1, 70),
    scale=st.sampled_from([1e-3, 1, 1e3]),
    seed=st.integers(0, 99),
)
def test_cross_entropy_of_any_size(n, classes, scale, seed):
    rng = np.random.default_rng(seed)
    x = (scale * rng.standard_normal((n, classes))).astype(np.float32)
    check("cross_entropy", x, random_target(rng, n, classes))


def test_cross_entropy_of_infinite_logits(isa, dtype):
    x = np.zeros((4, 20), dtype)
    x[0, 3], x[1, 3], x[2, 3] = np.inf, -np.inf, np.nan
    x[3] = -np.inf
    for target in (3, 4):
        ours = F.cross_entropy(x, np.full(4, target), reduction="none")
        theirs = torch.nn.functional.cross_entropy(to_torch(x), torch.full((4,), target), reduction="none")
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_cross_entropy_bits_at_any_number_of_threads(threads, rng):
    for shape in ((3000, 100), (3, 21, 70, 90)):
        x = rng.standard_normal(shape).astype(np.float32)
        target = random_target(rng, shape[:1] + shape[2:], shape[1])
        threads(1)
        one = F.cross_entropy(x, target), F.cross_entropy_backward(1, x, target)
        threads(3)
        assert one[0] == F.cross_entropy(x, target)
        np.testing.assert_array_equal(one[1], F.cross_entropy_backward(1, x, target))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ignored_rows_may_hold_anything(reduction, isa, dtype, rng):
    """NaN and infinite logits of ignored rows touch neither the loss nor the gradient."""
    for shape in ((40, 5), (2, 5, 4, 5)):
        x = rng.standard_normal(shape).astype(dtype)
        target = random_target(rng, shape[:1] + shape[2:], 5)
        target.flat[::3] = -100
        clean = np.moveaxis(x, 1, -1)
        clean[target == -100] = 0
        dirty = x.copy()
        np.moveaxis(dirty, 1, -1)[target == -100] = [np.nan, np.inf, -np.inf, 0, 1]
        for options in ({}, {"label_smoothing": 0.1}):
            loss = F.cross_entropy(dirty, target, reduction=reduction, **options)
            np.testing.assert_array_equal(loss, F.cross_entropy(x, target, reduction=reduction, **options))
            g = np.ones(target.shape, dtype) if reduction == "none" else 1.0
            np.testing.assert_array_equal(
                F.cross_entropy_backward(g, dirty, target, reduction=reduction, **options),
                F.cross_entropy_backward(g, x, target, reduction=reduction, **options),
            )


@pytest.mark.parametrize("shape", [(2, 0), (0, 0), (0,), (2, 0, 3)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_no_classes(shape, reduction, smoothing, dtype):
    """Of probabilities; there is no index of no class."""
    x = np.zeros(shape, dtype)
    check("cross_entropy", x, x, reduction, label_smoothing=smoothing)
    check("cross_entropy", x, x, reduction, label_smoothing=smoothing, weight=np.zeros(0, dtype))


@pytest.mark.parametrize("reduce", [None, False, True])
@pytest.mark.parametrize("size_average", [None, False, True])
def test_old_names_of_reductions(size_average, reduce, rng):
    """They are taken before `reduction`, and with a warning."""
    x, numbers = rng.standard_normal((2, 4, 3)).astype(np.float32)
    old = {"size_average": size_average, "reduce": reduce, "reduction": "sum"}
    for name, target in (("mse_loss", numbers), ("cross_entropy", np.arange(4) % 3)):
        with warnings.catch_warnings(record=True) as theirs:
            warnings.simplefilter("always")
            expected = getattr(torch.nn.functional, name)(to_torch(x), to_torch(target), **old)
        with warnings.catch_warnings(record=True) as ours:
            warnings.simplefilter("always")
            assert_close(getattr(F, name)(x, target, **old), expected)
        assert len(ours) == len(theirs)
        assert all(warning.filename == __file__ for warning in ours)


# ---- Functions of two numbers ----------------------------------------------------------------------


@pytest.mark.parametrize("name, options", POINTWISE)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_pointwise(name, options, reduction, layout, dtype, rng):
    x, target = rng.standard_normal((2, 4, 3, 2, 5)).astype(dtype)
    x[0, 0, 0, 0] = target[0, 0, 0, 0]
    if name.startswith("binary"):
        target = 1 / (1 + np.exp(-target))
    options = {
        key: rng.uniform(0.5, 2, value).astype(dtype) if isinstance(value, tuple) else value
        for key, value in options.items()
    }
    check(name, layout(x), layout(target), reduction, **options)


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("size", [(), 0, 1, 15, 16, 17, 16384 + 16 * 64 + 5])
def test_pointwise_sizes(name, reduction, size, isa, dtype, rng):
    x, target = (np.asarray(3 * rng.standard_normal(size), dtype) for _ in range(2))
    check(name, x, target, reduction)


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits"])
def test_pointwise_nan_and_infinity(name, isa, dtype):
    x = np.array([np.nan, np.inf, -np.inf, 1.0, 200.0, -200.0] * 10, dtype)
    target = np.full_like(x, 0.5)
    ours = getattr(F, name)(x, target, reduction="none")
    tensor = to_torch(x, requires_grad=True)
    theirs = getattr(torch.nn.functional, name)(tensor, to_torch(target), reduction="none")
    np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-6)
    theirs.sum().backward()
    gradient = getattr(F, name + "_backward")(1.0, x, target, reduction="sum")
    np.testing.assert_allclose(gradient, tensor.grad, rtol=1e-6, atol=1e-30)


def test_pointwise_sum_is_accurate(threads):
    """A float32 sum of ten million equal numbers does not drift, and is the same at any number of threads."""
    x = np.full(10_000_000, 0.1, np.float32)
    threads(1)
    loss = F.mse_loss(x, np.zeros_like(x))
    assert abs(loss / np.float32(0.1) ** 2 - 1) < 1e-6
    threads(3)
    assert loss == F.mse_loss(x, np.zeros_like(x))


# ---- Errors ----------------------------------------------------------------------------------------

X, T = np.zeros((2, 3), np.float32), np.array([0, 2])


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: F.cross_entropy(X, np.array([0, 3])),
            ValueError,
            "cross_entropy: target must be class indices from 0 to 2, or ignore_index=-100; got 3 at (1,)",
        ),
        (
            lambda: F.nll_loss(X, np.array([-1, 0])),
            ValueError,
            "nll_loss: target must be class indices from 0",
        ),
        (
            lambda: F.cross_entropy(X, T.astype(float)),
            TypeError,
            "cross_entropy: target must have an integer",
        ),
        (lambda: F.cross_entropy(X, X.astype(float)), TypeError, "cross_entropy: target must have the dtype"),
        (lambda: F.cross_entropy(X, T > 1), TypeError, "cross_entropy: target must have an integer dtype"),
        (lambda: F.cross_entropy(X, [0, 2]), TypeError, "cross_entropy: target must be a numpy.ndarray"),
        (lambda: F.cross_entropy(X, T[:1]), ValueError, "cross_entropy: target must have shape (2,) for"),
        (lambda: F.cross_entropy(X, T, X[0, :2]), ValueError, "cross_entropy: weight must have shape (3,)"),
        (
            lambda: F.cross_entropy(X, T, reduction="avg"),
            ValueError,
            "cross_entropy: reduction must be 'mean'",
        ),
        (lambda: F.cross_entropy(X, T, label_smoothing=2), ValueError, "cross_entropy: label_smoothing must"),
        (
            lambda: F.cross_entropy(X, T, None, "sum"),
            TypeError,
            "cross_entropy: size_average must be a bool; got 'sum'",
        ),
        (lambda: F.cross_entropy(X[0, 0], T), TypeError, "cross_entropy: input must be a numpy.ndarray"),
        (lambda: F.cross_entropy(X[0, 0:1].reshape(()), T), ValueError, "cross_entropy: input must have at"),
        (
            lambda: F.cross_entropy_backward(X, X, T),
            ValueError,
            "cross_entropy_backward: grad_output must be a",
        ),
        (lambda: F.mse_loss(X, X[0]), ValueError, "mse_loss: target must have the shape of input, (2, 3)"),
        (lambda: F.mse_loss(X, X.astype(float)), TypeError, "mse_loss: target must have the dtype of input"),
        (lambda: F.smooth_l1_loss(X, X, beta=-1.0), ValueError, "smooth_l1_loss: beta must be at least 0"),
        (
            lambda: F.binary_cross_entropy_with_logits(X, X, X[:, :2]),
            ValueError,
            "binary_cross_entropy_with_logits: weight must broadcast to the shape of input, (2, 3); got",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value).startswith(message)
