"""Layers without parameters that move, pad or pool beside torch.nn: values, gradients, repr."""

import numpy as np
import pytest
import torch

import pyconv
from finite_differences import check_module
from oracle import LAYOUTS, assert_close, to_torch
from pyconv import nn

LAYERS = [
    ("MaxPool2d", (2,), {}),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1}),
    ("MaxPool2d", ((3, 2),), {"stride": (1, 2), "padding": (1, 0), "dilation": (1, 2), "ceil_mode": True}),
    ("AvgPool2d", (2,), {}),
    ("AvgPool2d", (3, 2, 1), {"count_include_pad": False, "ceil_mode": True}),
    ("AvgPool2d", (2, 1), {"divisor_override": 3}),
    ("AdaptiveAvgPool2d", (1,), {}),
    ("AdaptiveAvgPool2d", ((3, None),), {}),
    ("AdaptiveMaxPool2d", ((4, 3),), {}),
    ("Flatten", (), {}),
    ("Flatten", (0, 1), {}),
    ("ZeroPad2d", (1,), {}),
    ("ZeroPad2d", ((1, -2, 0, 3),), {}),
    ("ConstantPad2d", (2, 3.5), {}),
    ("ReflectionPad2d", ((1, 2, 3, 0),), {}),
    ("ReplicationPad2d", (2,), {}),
    ("CircularPad2d", (2,), {}),
    ("Unflatten", (-3, (5, 1)), {}),
]


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name, arguments, options", LAYERS, ids=str)
@pytest.mark.parametrize("batch", [(2,), (), (0,)], ids=["batch", "unbatched", "empty"])
def test_layer_beside_torch(name, arguments, options, batch, memory_format, dtype, isa, rng):
    ours, theirs = getattr(nn, name)(*arguments, **options), getattr(torch.nn, name)(*arguments, **options)
    assert repr(ours) == repr(theirs)
    x = LAYOUTS[memory_format](rng.standard_normal((*batch, 5, 8, 7)).astype(dtype))
    tx = to_torch(x, requires_grad=True)
    expected = theirs(tx)
    grad = rng.standard_normal(tuple(expected.shape)).astype(dtype)
    expected.backward(to_torch(grad))
    assert_close(ours(x), expected)
    assert_close(ours.backward(grad), tx.grad)
    with pytest.raises(RuntimeError, match="call forward first"):
        ours.backward(grad)
    with pyconv.no_grad():
        assert_close(ours(x), expected)
    with pytest.raises(RuntimeError, match="call forward first"):
        ours.backward(grad)
    ours(x)
    ours.needs_input_grad = False
    assert ours.backward(grad) is None


@pytest.mark.parametrize(
    "name, arguments, options",
    [
        ("Upsample", (), {"scale_factor": 2}),
        ("Upsample", (), {"size": (5, 9), "mode": "bilinear", "align_corners": True}),
        ("Upsample", (), {"scale_factor": (1.5, 2), "mode": "bicubic"}),
        ("UpsamplingNearest2d", (), {"scale_factor": 2}),
        ("UpsamplingBilinear2d", (), {"scale_factor": 3}),
        ("PixelShuffle", (2,), {}),
        ("PixelUnshuffle", (2,), {}),
        ("ChannelShuffle", (4,), {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_resampling_layer_beside_torch(name, arguments, options, memory_format, dtype, rng):
    ours, theirs = getattr(nn, name)(*arguments, **options), getattr(torch.nn, name)(*arguments, **options)
    assert repr(ours) == repr(theirs)
    x = LAYOUTS[memory_format](rng.standard_normal((2, 8, 6, 4)).astype(dtype))
    tx = to_torch(x, requires_grad=True)
    expected = theirs(tx)
    grad = rng.standard_normal(tuple(expected.shape)).astype(dtype)
    expected.backward(to_torch(grad))
    assert_close(ours(x), expected)
    assert_close(ours.backward(grad), tx.grad)
    ours.needs_input_grad = False
    ours(x)
    assert ours.backward(grad) is None


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.AdaptiveMaxPool2d((2, 3)),
        nn.Flatten(),
        nn.ReflectionPad2d(2),
        nn.CircularPad2d((1, 2, 0, 3)),
        nn.Upsample(scale_factor=1.5, mode="bilinear"),
        nn.PixelShuffle(2),
        nn.ChannelShuffle(2),
    ],
    ids=repr,
)
def test_gradient_by_finite_differences(layer, rng):
    check_module(layer, rng.permutation(np.linspace(-1, 1, 2 * 4 * 5 * 4)).reshape(2, 4, 5, 4), rng)


@pytest.mark.parametrize("shape, sizes", [((0, 4), (2, -1)), ((3, 0), (2, -1)), ((0, 4), [-1]), ((2, 6), (3, 2, 1))])
def test_unflatten(shape, sizes, dtype):
    x = np.zeros(shape, dtype)
    layer = nn.Unflatten(1, sizes)
    output = layer(x)
    assert_close(output, torch.nn.Unflatten(1, tuple(sizes))(to_torch(x)))
    assert_close(layer.backward(output), x)


@pytest.mark.parametrize("sizes", [(3, -1), (3,), (0, -1), (-1, -1), (2, -2), ()])
def test_what_does_not_unflatten(sizes):
    """An error of the constructor or of forward, and PyTorch's as well."""
    with pytest.raises(RuntimeError):
        torch.nn.Unflatten(1, sizes)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="Unflatten: unflattened_size must"):
        nn.Unflatten(1, sizes)(np.zeros((2, 4)))


@pytest.mark.parametrize(
    "name, arguments, flag",
    [
        ("MaxPool2d", (2,), "ceil_mode"),
        ("MaxPool2d", (2,), "return_indices"),
        ("AvgPool2d", (2,), "ceil_mode"),
        ("AvgPool2d", (2,), "count_include_pad"),
        ("AdaptiveMaxPool2d", (2,), "return_indices"),
    ],
)
def test_flags_are_bools(name, arguments, flag):
    for value in ("no", 1, 0, None):
        with pytest.raises(TypeError, match=f"{name}: {flag} must be a bool; got {value!r}"):
            getattr(nn, name)(*arguments, **{flag: value})


@pytest.mark.parametrize("value", [0, 1, None, np.True_])
def test_layers_may_have_a_number_or_none_for_a_flag(value):
    for name, arguments, flag, made in (
        ("Linear", (2, 3), "bias", "bias"),
        ("ConvTranspose2d", (2, 3, 1), "bias", "bias"),
        ("GroupNorm", (2, 4), "affine", "weight"),
        ("BatchNorm1d", (2,), "track_running_stats", "running_mean"),
    ):
        mine, other = (getattr(module, name)(*arguments, **{flag: value}) for module in (nn, torch.nn))
        assert (getattr(mine, made) is None) == (getattr(other, made) is None)
        with pytest.raises(TypeError, match=f"{name}: {flag} must be a bool; got 'no'"):
            getattr(nn, name)(*arguments, **{flag: "no"})


def test_sizes_in_other_forms(rng):
    x = rng.standard_normal((1, 2, 8, 6))
    for make in (
        lambda pair: nn.MaxPool2d(2, stride=pair),
        lambda pair: nn.AdaptiveAvgPool2d(pair),
        lambda pair: nn.Upsample(pair),
        lambda pair: nn.Upsample(scale_factor=pair),
        lambda pair: nn.ZeroPad2d((*pair, *pair)),
    ):
        expected = make((2, 3))(x)
        for pair in (np.array([2, 3]), range(2, 4), [np.array(2), 3]):
            assert_close(make(pair)(x), expected, rtol=0)
    assert_close(nn.Upsample(scale_factor=np.array(2.0))(x), nn.Upsample(scale_factor=2)(x), rtol=0)


def test_scales_of_too_many_axes():
    with pytest.raises(ValueError, match="interpolate: scale_factor must have an entry for each of 2 axes; got 3"):
        nn.Upsample(scale_factor=(2, 2, 2))(np.zeros((1, 1, 4, 4)))


def test_indices_unpool(dtype, rng):
    x = rng.standard_normal((2, 3, 8, 6)).astype(dtype)
    pool, unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
    tx = to_torch(x, requires_grad=True)
    t_pooled, t_indices = torch.nn.MaxPool2d(2, return_indices=True)(tx)
    expected = torch.nn.MaxUnpool2d(2)(t_pooled, t_indices)
    output = unpool(*pool(x))
    assert_close(output, expected)
    grad = rng.standard_normal(output.shape).astype(dtype)
    expected.backward(to_torch(grad))
    assert_close(pool.backward(unpool.backward(grad)), tx.grad)


def test_adaptive_indices(dtype, rng):
    x = rng.standard_normal((2, 3, 8, 6)).astype(dtype)
    output, indices = nn.AdaptiveMaxPool2d((3, 4), return_indices=True)(x)
    expected, places = torch.nn.AdaptiveMaxPool2d((3, 4), return_indices=True)(to_torch(x))
    assert_close(output, expected)
    assert_close(indices, places)


def test_global_pools(dtype, rng):
    x = rng.standard_normal((2, 3, 8, 6)).astype(dtype)
    assert_close(nn.GlobalAvgPool2d()(x), x.mean((2, 3), keepdims=True))
    assert_close(nn.GlobalMaxPool2d()(x), x.max((2, 3), keepdims=True))


def test_gradient_of_the_wrong_shape(rng):
    layer = nn.MaxPool2d(2)
    layer(np.zeros((1, 1, 4, 4), np.float32))
    with pytest.raises(ValueError, match="max_pool2d_backward: grad_output must have the shape of the output"):
        layer.backward(np.zeros((1, 1, 4, 4), np.float32))
