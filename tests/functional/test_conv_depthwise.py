"""Depthwise convolution and its gradients around every edge of their tiles: exact sums beside PyTorch's."""

import numpy as np
import pytest
import torch

import pyconv
import pyconv.functional as F
from oracle import assert_close, to_torch
from pyconv.functional.conv import _convolve, _convolve_backward

# (kernel, stride, padding, dilation): the forms of a tile, then what they leave to single taps
FORMS = {
    "3x3": (3, 1, 1, 1),
    "3x3 stride 2": (3, 2, 1, 1),
    "5x5": (5, 1, 2, 1),
    "5x5 stride 2": (5, 2, 2, 1),
    "2x2": (2, 1, 0, 1),
    "4x4 stride 2": (4, 2, 1, 1),
    "1x1": (1, 1, 0, 1),
    "7x7": (7, 1, 3, 1),
    "3x3 dilated": (3, 1, 2, 2),
    "3x3 stride 3": (3, 3, 1, 1),
    "5x3": ((5, 3), (1, 2), (2, 1), 1),
    "padded beyond the kernel": (3, 2, 4, 1),
}


def integers(rng, shape, dtype):
    """Small integers, of which every sum is exact: then the order of summation makes no difference."""
    return rng.integers(-4, 5, shape).astype(dtype)


def last_axis_channels(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def check_all_passes(x, weight, bias, options, rng):
    stride, padding, dilation = options
    channels = x.shape[1]
    inputs = [to_torch(a, requires_grad=True) for a in (x, weight, bias)]
    expected = torch.nn.functional.conv2d(*inputs, stride, padding, dilation, channels)
    grad_output = integers(rng, tuple(expected.shape), x.dtype)
    expected.backward(to_torch(grad_output))
    for as_images in (np.ascontiguousarray, last_axis_channels):
        x, grad_output = as_images(x), as_images(grad_output)
        with pyconv.options(conv_algorithm="planes"):  # of the contiguous ones
            assert_close(F.conv2d(x, weight, bias, stride, padding, dilation, channels), expected, rtol=0)
            gradients = F.conv2d_backward(grad_output, x, weight, stride, padding, dilation, channels)
        for gradient, tensor, name in zip(gradients, inputs, ("grad_input", "grad_weight", "grad_bias")):
            assert_close(gradient, tensor.grad, rtol=0, err_msg=f"{as_images.__name__}, {name}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [2, 15, 16, 17, 33])
def test_equals_torch_at_every_form(form, channels, isa, dtype, rng):
    kernel, *options = FORMS[form]
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    x = integers(rng, (2, channels, 11, 13), dtype)
    weight, bias = integers(rng, (channels, 1, *kernel), dtype), integers(rng, (channels,), dtype)
    check_all_passes(x, weight, bias, options, rng)


@pytest.mark.parametrize("width", [1, 2, 3, 6, 7, 8, 9, 10, 15, 16, 17, 18, 19])
@pytest.mark.parametrize("form", ["3x3", "5x5", "3x3 stride 2", "5x5 stride 2"])
@pytest.mark.parametrize("channels", [3, 20])  # 3 are too few for a bundle of planes
def test_equals_torch_at_every_width(form, channels, width, isa, rng):
    kernel, *options = FORMS[form]
    x = integers(rng, (3, channels, 6, width), np.float32)
    weight, bias = integers(rng, (channels, 1, kernel, kernel), np.float32), integers(rng, (channels,), np.float32)
    check_all_passes(x, weight, bias, options, rng)


@pytest.mark.parametrize("shape", [(1, 640, 14, 14), (16, 24, 30, 30), (1, 32, 112, 70), (17, 96, 7, 7)])
@pytest.mark.parametrize("form", ["3x3", "5x5", "3x3 stride 2", "5x5 stride 2"])
def test_equals_torch_however_the_work_is_cut(shape, form, rng):
    kernel, *options = FORMS[form]
    channels = shape[1]
    weight, bias = integers(rng, (channels, 1, kernel, kernel), np.float32), integers(rng, (channels,), np.float32)
    check_all_passes(integers(rng, shape, np.float32), weight, bias, options, rng)


@pytest.mark.parametrize("as_images", [np.ascontiguousarray, last_axis_channels])
@pytest.mark.parametrize("channels", [3, 21, 32])
@pytest.mark.parametrize("form", ["3x3", "5x5", "3x3 stride 2", "5x5 stride 2"])
def test_residuals_and_relu_of_fused_layers(form, channels, as_images, isa, rng):
    kernel, *options = FORMS[form]
    options = (*options, channels)
    x = as_images(integers(rng, (2, channels, 10, 12), np.float32))
    weight, bias = integers(rng, (channels, 1, kernel, kernel), np.float32), integers(rng, (channels,), np.float32)
    with pyconv.options(conv_algorithm="planes"):
        plain = F.conv2d(x, weight, bias, *options)
        residual = as_images(integers(rng, plain.shape, np.float32))
        for added, expected in ((None, plain), (residual, plain + residual)):
            fused = _convolve("conv2d", x, weight, bias, *options, added, relu=True)
            assert_close(fused, np.maximum(expected, 0), rtol=0)
        gradients = [
            _convolve_backward(residual, x, weight, *options, (True, False, False), added)[0] for added in (None, x)
        ]
    assert_close(gradients[1], gradients[0] + x, rtol=0)


@pytest.mark.parametrize("as_images", [np.ascontiguousarray, last_axis_channels])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [9, 40])
def test_any_number_of_threads_gives_the_same_bits(size, stride, as_images, threads, rng):
    x = as_images(rng.standard_normal((3, 72, size, size), dtype=np.float32))
    weight = rng.standard_normal((72, 1, 3, 3), dtype=np.float32)
    results = []
    for count in (1, 2, 5):
        threads(count)
        output = F.conv2d(x, weight, None, stride, 1, 1, 72)
        results.append([output, *F.conv2d_backward(output, x, weight, stride, 1, 1, 72)])
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("as_images", [np.ascontiguousarray, last_axis_channels])
def test_nan_stays_in_its_channel_and_window(as_images, isa):
    x = as_images(np.zeros((1, 18, 6, 6), np.float32))
    x[0, 17, 2, 2] = np.nan
    output = F.conv2d(x, np.ones((18, 1, 3, 3), np.float32), None, 1, 1, 1, 18)
    assert np.isnan(output[0, 17, 1:4, 1:4]).all()
    assert np.isnan(output).sum() == 9


def test_the_weight_gradient_of_no_images_is_zero(isa):
    x = np.zeros((0, 6, 5, 5), np.float32)
    weight = np.ones((6, 1, 3, 3), np.float32)
    with pyconv.options(conv_algorithm="direct"):
        grad_weight = F.conv2d_backward(x, x, weight, 1, 1, 1, 6)[1]
    np.testing.assert_array_equal(grad_weight, np.zeros_like(weight))
