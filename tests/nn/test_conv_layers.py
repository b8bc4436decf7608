"""Conv2d and ConvTranspose2d as layers: arguments, starting weights, values and gradients beside torch."""

import numpy as np
import pytest
import torch

import pyconv
from finite_differences import check_module
from oracle import assert_close, to_torch
from pyconv import nn

CONVOLUTIONS = [
    ((3, 4, 3), {}),
    ((4, 6, (3, 2)), {"stride": (2, 1), "padding": (1, 2), "groups": 2, "bias": False}),
    ((4, 4, 3), {"groups": 4, "padding": "same", "dilation": 2}),
    ((2, 3, 2), {"padding": "same"}),
    ((2, 3, 3), {"padding": "valid", "stride": 3}),
]
PADDED = [((2, 3, 3), {"padding": (1, 2), "padding_mode": mode}) for mode in ("reflect", "replicate", "circular")] + [
    ((2, 3, (4, 3)), {"padding": "same", "dilation": (1, 2), "padding_mode": "reflect"})
]
TRANSPOSED = [
    ((3, 4, 3), {}),
    ((4, 6, (3, 2)), {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2), "groups": 2}),
    ((2, 2, 3), {"dilation": 2, "bias": False}),
]


def twins(name, arguments, options, dtype):
    """torch's layer and ours with its weights."""
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*arguments, **options).to(getattr(torch, dtype.name))
    ours = getattr(nn, name)(*arguments, **options, dtype=dtype)
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    return ours, theirs


@pytest.mark.parametrize(
    "name, arguments, options",
    [("Conv2d", *case) for case in CONVOLUTIONS + PADDED] + [("ConvTranspose2d", *case) for case in TRANSPOSED],
)
@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("batch", [(2,), (), (0,)], ids=["batch", "unbatched", "empty"])
def test_layer_beside_torch(name, arguments, options, batch, dtype, rng):
    ours, theirs = twins(name, arguments, options, dtype)
    assert repr(ours) == repr(theirs)
    x = rng.standard_normal((*batch, arguments[0], 7, 6)).astype(dtype)
    tx = to_torch(x, requires_grad=True)
    expected = theirs(tx)
    grad = rng.standard_normal(expected.shape).astype(dtype)
    expected.backward(to_torch(grad))
    assert_close(ours(x), expected)
    assert_close(ours.backward(grad), tx.grad)
    for key, parameter in theirs.named_parameters():
        assert_close(getattr(ours, key).grad, parameter.grad, err_msg=key)


def test_output_size_beside_torch(dtype, rng):
    ours, theirs = twins("ConvTranspose2d", (2, 3, 3), {"stride": 3}, dtype)
    x = rng.standard_normal((1, 2, 4, 5)).astype(dtype)
    for size in ([14, 15], [1, 3, 12, 17]):
        assert_close(ours(x, size), theirs(to_torch(x), size))
    with pytest.raises(ValueError, match=r"output_size must be between \[12, 15\] and \[14, 17\]"):
        ours(x, (15, 15))


@pytest.mark.parametrize("arguments, options", CONVOLUTIONS + PADDED[:1])
def test_finite_differences(arguments, options, rng):
    check_module(nn.Conv2d(*arguments, **options), rng.standard_normal((2, arguments[0], 6, 5)), rng)


@pytest.mark.parametrize("arguments, options", TRANSPOSED)
def test_finite_differences_transposed(arguments, options, rng):
    check_module(nn.ConvTranspose2d(*arguments, **options), rng.standard_normal((2, arguments[0], 3, 4)), rng)


def test_frozen_weights_and_unwanted_input_gradient(rng):
    layer = nn.Conv2d(2, 3, 3)
    layer.weight.requires_grad = False
    layer.needs_input_grad = False
    x = rng.standard_normal((1, 2, 5, 5)).astype(np.float32)
    grad = np.ones_like(layer(x))
    assert layer.backward(grad) is None
    assert layer.weight.grad is None and np.all(layer.bias.grad == 9)
    with pytest.raises(RuntimeError, match="Conv2d.backward: call forward first"):
        layer.backward(grad)


def test_starting_weights_are_spread_as_torchs():
    pyconv.manual_seed(0)
    layer = nn.Conv2d(16, 64, 3, groups=2)
    bound = (8 * 9) ** -0.5
    for parameter in layer.parameters():
        assert parameter.dtype == np.float32
        assert 0.95 * bound < np.abs(parameter.data).max() <= bound
    assert abs(layer.weight.data.mean()) < 0.01 * bound
    assert nn.ConvTranspose2d(16, 8, 3, groups=2).weight.shape == (16, 4, 3, 3)


@pytest.mark.parametrize(
    "arguments, options, error, text",
    [
        ((3, 4, 3), {"groups": 2}, ValueError, "groups must divide in_channels; got in_channels=3, groups=2"),
        ((4, 3, 3), {"groups": 2}, ValueError, "groups must divide out_channels"),
        ((3, 4, 0), {}, ValueError, "kernel_size must be at least 1; got 0"),
        ((3, 4, 3), {"stride": 0}, ValueError, "stride"),
        ((3, 4, 3), {"padding": -1}, ValueError, "padding"),
        ((3, 4, 3), {"padding": "full"}, ValueError, "padding must be an int, a pair, 'same' or 'valid'"),
        ((3, 4, 3), {"padding": "same", "stride": 2}, ValueError, "stride 1"),
        ((3, 4, 3), {"padding_mode": "mirror"}, ValueError, "padding_mode must be one of zeros, reflect"),
        ((3, 4, 3), {"groups": 0}, ValueError, "groups"),
        ((-3, 4, 3), {}, ValueError, "in_channels"),
        ((3, 4, (3, 3, 3)), {}, ValueError, "kernel_size must be an int or a pair"),
        ((3, 4, 2.5), {}, TypeError, "kernel_size must be an int"),
        ((3, 4, 3), {"dtype": np.int32}, TypeError, "int32"),
        ((3, 4, 3), {"bias": "no"}, TypeError, "Conv2d: bias must be a bool; got 'no'"),
    ],
)
def test_wrong_arguments(arguments, options, error, text):
    with pytest.raises(error, match=text):
        nn.Conv2d(*arguments, **options)


@pytest.mark.parametrize("pair", [np.array([2, 1]), range(2, 0, -1), (np.array(2), 1)], ids=str)
def test_pairs_in_other_forms(pair):
    layer = nn.Conv2d(3, 4, pair, stride=pair, padding=pair, dilation=pair)
    assert repr(layer) == repr(nn.Conv2d(3, 4, (2, 1), stride=(2, 1), padding=(2, 1), dilation=(2, 1)))


def test_wrong_inputs():
    layer = nn.Conv2d(3, 4, 3)
    with pytest.raises(ValueError, match="channels"):
        layer(np.zeros((1, 2, 5, 5), np.float32))
    with pytest.raises(TypeError, match="float64"):
        layer(np.zeros((1, 3, 5, 5)))
    with pytest.raises(TypeError, match="uint8"):
        layer(np.zeros((1, 3, 5, 5), np.uint8))
    with pytest.raises(ValueError, match="kernel"):
        layer(np.zeros((1, 3, 2, 5), np.float32))
    with pytest.raises(ValueError, match="dimensions"):
        layer(np.zeros((3, 5), np.float32))
    with pytest.raises(ValueError, match="padding_mode 'zeros'"):
        nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect")
