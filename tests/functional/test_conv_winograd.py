"""Convolution by Winograd's algorithms, which round: relative RMS error around every edge of their tiles."""

import numpy as np
import pytest
import torch

import pyconv
import pyconv.functional as F
from oracle import assert_close, channels_last, conv2d_passes, to_torch
from pyconv import _kernels
from pyconv.functional.conv import _convolve, _convolve_backward


def of_either_format(x, weight, bias, grad_output, *options):
    """The output and the gradients, of planes and of channels-last images with the same bits."""
    results = []
    for as_images in (np.ascontiguousarray, channels_last):
        images, grads = as_images(x), as_images(grad_output)
        with pyconv.options(conv_algorithm="winograd"):
            output = F.conv2d(images, weight, bias, *options)
            results.append([output, *F.conv2d_backward(grads, images, weight, *options)])
    for planes, last in zip(results[0][:3], results[1]):
        assert planes.tobytes() == last.tobytes()
    return results[0]


def passes(x, weight, bias, grad_output, *options):
    """The output and the gradients, all of them by Winograd's algorithm."""
    with pyconv.options(conv_algorithm="winograd"):
        plans = pyconv.explain_conv2d(x.shape, weight.shape, *options)
    assert {plan.algorithm for plan in plans.values()} == {"winograd"}
    return of_either_format(x, weight, bias, grad_output, *options)


def relative_rms(actual, expected):
    return np.sqrt(np.square(actual - expected).mean() / np.square(expected).mean())


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3), (4, 4), (7, 7), (8, 12), (9, 13), (10, 6)])
@pytest.mark.parametrize("channels, filters", [(1, 1), (15, 17), (16, 33), (33, 31), (65, 64), (130, 70)])
def test_winograd_around_tile_edges(kernel, size, channels, filters, isa, rng):
    padding = kernel // 2
    x = rng.standard_normal((3, channels, *size)).astype(np.float32)
    weight = rng.standard_normal((filters, channels, kernel, kernel)).astype(np.float32)
    bias = rng.standard_normal(filters).astype(np.float32)
    grad_output = rng.standard_normal((3, filters, *size)).astype(np.float32)
    expected = conv2d_passes(x, weight, bias, grad_output, 1, padding, 1, 1)
    with pyconv.options(conv_algorithm="winograd"):
        assert pyconv.explain_conv2d(x.shape, weight.shape, 1, padding)["forward"].algorithm == "winograd"
    actual = of_either_format(x, weight, bias, grad_output, 1, padding)
    for name, a, e in zip(("output", "grad_input", "grad_weight", "grad_bias"), actual, expected):
        # relative to the largest value: where a 5x5 kernel sees one pixel, most true gradients are 0
        assert_close(a, e.astype(np.float32), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("size", [(3, 3), (2, 5), (4, 4), (7, 7), (9, 13), (10, 6)])
@pytest.mark.parametrize("channels, filters", [(16, 8), (17, 33), (65, 15)])
@pytest.mark.parametrize("pixels, error", [(200, 3.5e-7), (600, 6e-7)])
def test_winograd_gradients_of_3x3_weights(pixels, error, size, channels, filters, isa, rng):
    """With five points to a tile, or with six, which are exact enough for more pixels only."""
    batch = -(-pixels // (size[0] * size[1]))
    x = rng.standard_normal((batch, channels, *size)).astype(np.float32)
    weight = rng.standard_normal((filters, channels, 3, 3)).astype(np.float32)
    grad_output = rng.standard_normal((batch, filters, *size)).astype(np.float32)
    expected = conv2d_passes(x, weight, np.zeros(filters), grad_output, 1, 1, 1, 1)[2]
    actual = passes(x, weight, None, grad_output, 1, 1)[2]
    assert relative_rms(actual, expected) < error


@pytest.mark.parametrize("size", [(1, 2), (2, 2), (3, 4), (5, 6), (6, 5)])
@pytest.mark.parametrize("channels, filters", [(512, 128), (260, 250)])
def test_winograd_with_four_points(size, channels, filters, isa, rng):
    """Of few pixels; six points would have 8e-7 and more."""
    x = rng.standard_normal((1, channels, *size)).astype(np.float32)
    weight = rng.standard_normal((filters, channels, 3, 3)).astype(np.float32)
    grad_output = rng.standard_normal((1, filters, *size)).astype(np.float32)
    expected = conv2d_passes(x, weight, np.zeros(filters), grad_output, 1, 1, 1, 1)
    actual = of_either_format(x, weight, None, grad_output, 1, 1)
    for a, e in zip(actual[:2], expected):
        assert relative_rms(a, e) < 6e-7


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(14, 15), (10, 11), (13, 20)])
@pytest.mark.parametrize("channels, filters", [(17, 33), (40, 15)])
def test_winograd_with_seven_points(kernel, size, channels, filters, isa, rng):
    """Tiles that fit these images better; of the weight's gradient only where pixels are many."""
    batch, padding = 5600 // (size[0] * size[1]) + 1, kernel // 2
    x = rng.standard_normal((batch, channels, *size)).astype(np.float32)
    weight = rng.standard_normal((filters, channels, kernel, kernel)).astype(np.float32)
    grad_output = rng.standard_normal((batch, filters, *size)).astype(np.float32)
    expected = conv2d_passes(x, weight, np.zeros(filters), grad_output, 1, padding, 1, 1)
    with pyconv.options(conv_algorithm="winograd"):
        actual = [F.conv2d(x, weight, padding=padding), *F.conv2d_backward(grad_output, x, weight, 1, padding)]
    for a, e in zip(actual[:3], expected):
        assert relative_rms(a, e) < 1.5e-6


@pytest.mark.parametrize("dilation", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [(1, 2), (5, 9), (13, 14)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_winograd_with_dilation(dilation, size, kernel, isa, rng):
    x = rng.standard_normal((2, 18, *size)).astype(np.float32)
    weight = rng.standard_normal((17, 18, kernel, kernel)).astype(np.float32)
    padding = (dilation * (kernel // 2), dilation * (kernel // 2) + 1)
    exact = F.conv2d(x.astype(float), weight.astype(float), None, 1, padding, dilation)
    grad_output = rng.standard_normal(exact.shape).astype(np.float32)
    options = (1, padding, dilation)
    expected = [exact, *F.conv2d_backward(grad_output.astype(float), x.astype(float), weight.astype(float), *options)]
    actual = passes(x, weight, None, grad_output, *options)
    for name, a, e in zip(("output", "grad_input", "grad_weight", "grad_bias"), actual, expected):
        assert_close(a, e.astype(np.float32), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("size", [(1, 1), (3, 8), (7, 9), (8, 15), (17, 26)])
@pytest.mark.parametrize("padding", [0, 1, (2, 3), (1, 0)])
@pytest.mark.parametrize("channels, filters", [(1, 1), (15, 33), (33, 16), (70, 65)])
def test_winograd_with_a_stride(size, padding, channels, filters, isa, rng):
    shapes = (3, channels, *size), (filters, channels, 3, 3), (filters,)
    x, weight, bias = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    options = (2, 2 if size == (1, 1) else padding, 1, 1)
    grad_output = rng.standard_normal(conv2d_passes(x, weight, bias, None, *options)).astype(np.float32)
    expected = conv2d_passes(x, weight, bias, grad_output, *options)
    actual = passes(x, weight, bias, grad_output, *options)
    for a, e in zip(actual[:3], expected):
        assert_close(a, e.astype(np.float32), rtol=1e-5)


@pytest.mark.parametrize("kernel", [(1, 3), (1, 7), (3, 4), (7, 7), (11, 5)])
@pytest.mark.parametrize("size", [(1, 3), (3, 4), (8, 5), (9, 13)])
@pytest.mark.parametrize("channels, filters", [(17, 17), (32, 33), (31, 49), (65, 100)])
def test_winograd_along_lines(kernel, size, channels, filters, isa, rng):
    """Kernels that are not square, along x and (turned) along y; dilated across the lines."""
    for turn in (False, True):
        dilation = (1, 2) if kernel[0] > kernel[1] else (2, 1)
        shape, weight_shape = (2, channels, *size), (filters, channels, *kernel)
        padding = tuple(d * (k // 2) for d, k in zip(dilation, kernel))
        if turn:
            shape, weight_shape = (*shape[:2], *size[::-1]), (*weight_shape[:2], *kernel[::-1])
            padding, dilation = padding[::-1], dilation[::-1]
        x = rng.standard_normal(shape).astype(np.float32)
        weight = rng.standard_normal(weight_shape).astype(np.float32)
        bias = rng.standard_normal(filters).astype(np.float32)
        options = (1, padding, dilation, 1)
        grad_output = rng.standard_normal(conv2d_passes(x, weight, bias, None, *options)).astype(np.float32)
        expected = conv2d_passes(x, weight, bias, grad_output, *options)
        actual = passes(x, weight, bias, grad_output, *options)
        for name, a, e in zip(("output", "grad_input", "grad_weight", "grad_bias"), actual, expected):
            assert_close(a, e.astype(np.float32), rtol=1e-5, err_msg=name)


def test_winograd_along_lines_in_several_passes(rng):
    """More images than are transformed at a time; the same bits as one by one, but for the weight's gradient."""
    x = rng.standard_normal((9, 40, 40, 60)).astype(np.float32)
    weight = rng.standard_normal((48, 40, 1, 7)).astype(np.float32)
    with pyconv.options(conv_algorithm="winograd"):
        output = F.conv2d(x, weight, padding=(0, 3))
        grad_input, grad_weight, _ = F.conv2d_backward(output, x, weight, 1, (0, 3))
        each = [F.conv2d(image[None], weight, padding=(0, 3)) for image in x]
        grads = [F.conv2d_backward(y, image[None], weight, 1, (0, 3)) for y, image in zip(each, x)]
    assert output.tobytes() == np.concatenate(each).tobytes()
    assert grad_input.tobytes() == np.concatenate([g[0] for g in grads]).tobytes()
    assert relative_rms(grad_weight, np.sum([g[1] for g in grads], axis=0, dtype=float)) < 1e-6


@pytest.mark.parametrize("tiles", [11, 12, 13, 23, 24, 25, 49])
def test_winograd_around_group_edges(tiles, isa, rng):
    x = rng.standard_normal((1, 20, 4, 4 * tiles)).astype(np.float32)
    weight = rng.standard_normal((36, 20, 3, 3)).astype(np.float32)
    with pyconv.options(conv_algorithm="winograd"):
        actual = F.conv2d(x, weight, padding=1)
    assert relative_rms(actual, F.conv2d(x.astype(float), weight.astype(float), padding=1)) < 1.5e-6


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("groups, channels, filters, shape", [(2, 20, 17, (3, 13, 14)), (3, 33, 40, (2, 9, 8)),
                         (4, 17, 19, (1, 30, 30)), (2, 130, 140, (1, 9, 10)), (7, 18, 18, (2, 17, 17))])  # fmt: skip
def test_winograd_with_groups(kernel, groups, channels, filters, shape, isa, rng):
    """Each has tiles of its own; in the middle of the pixels' channels, and with bias and residual there, too."""
    batch, height, width = shape
    x = rng.standard_normal((batch, groups * channels, height, width)).astype(np.float32)
    weight = rng.standard_normal((groups * filters, channels, kernel, kernel)).astype(np.float32)
    bias = rng.standard_normal(groups * filters).astype(np.float32)
    grad_output = rng.standard_normal((batch, groups * filters, height, width)).astype(np.float32)
    options = (1, kernel // 2, 1, groups)
    expected = conv2d_passes(x, weight, bias, grad_output, *options)
    actual = passes(x, weight, bias, grad_output, *options)
    for name, a, e in zip(("output", "grad_input", "grad_weight", "grad_bias"), actual, expected):
        assert_close(a, e.astype(np.float32), rtol=1e-5, err_msg=name)
    for as_images in (np.ascontiguousarray, channels_last):
        x, residual = as_images(x), as_images(grad_output)
        with pyconv.options(conv_algorithm="winograd"):
            fused = _convolve("conv2d", x, weight, bias, *options, residual, relu=True)
            added = _convolve_backward(residual, x, weight, *options, (True, False, False), x)[0]
        assert_close(fused, np.maximum(expected[0] + residual, 0).astype(np.float32), rtol=1e-5)
        assert_close(added, (expected[1] + x).astype(np.float32), rtol=1e-5)


KINDS = [
    ((2, 17, 12, 13), (19, 17, 3, 3), 1, 1, 1, 1),
    ((1, 300, 9, 9), (300, 300, 3, 3), 1, 1, 1, 1),
    ((1, 140, 5, 6), (130, 140, 3, 3), 1, 1, 1, 1),
    ((4, 33, 30, 30), (35, 33, 3, 3), 1, 1, 1, 1),
    ((2, 17, 9, 14), (18, 17, 5, 5), 1, 2, 1, 1),
    ((2, 18, 17, 13), (33, 18, 3, 3), 2, 1, 1, 1),
    ((2, 36, 9, 14), (40, 36, 1, 7), 1, (0, 3), 1, 1),
    ((2, 36, 9, 14), (40, 36, 7, 5), 1, 3, 1, 1),
    ((2, 17, 13, 14), (18, 17, 3, 3), 1, 3, 3, 1),
    ((2, 40, 14, 17), (50, 20, 3, 3), 1, 1, 1, 2),
]


def directly(x, weight, bias, grad_output, *options):
    with pyconv.options(conv_algorithm="direct"):
        return [F.conv2d(x, weight, bias, *options), *F.conv2d_backward(grad_output, x, weight, *options)]


@pytest.mark.parametrize("place", ["input", "grad_output"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_stays_where_it_is_seen(kind, value, place, isa, rng):
    """A transform spreads it over a tile, 3e38 by overflow: such a pass is done again directly, to the same bits."""
    shape, weight_shape, *options = kind
    x = rng.standard_normal(shape).astype(np.float32)
    weight, bias = rng.standard_normal(weight_shape).astype(np.float32), np.ones(weight_shape[0], np.float32)
    output = F.conv2d(x, weight, bias, *options)
    grad_output = rng.standard_normal(output.shape).astype(np.float32)
    changed = x if place == "input" else grad_output
    changed[-1, changed.shape[1] // 2, 4, 5] = value
    actual, expected = (f(x, weight, bias, grad_output, *options) for f in (passes, directly))
    seen = [0, 2] if place == "input" else [1, 2]
    for i in seen:
        assert not np.isfinite(expected[i]).all()
        np.testing.assert_array_equal(actual[i], expected[i])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_finite_is_done_once(kind, isa, rng):
    """Idle lanes, and what memory held before, don't pass for results that are not finite."""
    shape, weight_shape, *options = kind
    x = rng.standard_normal(shape).astype(np.float32)
    weight, bias = rng.standard_normal(weight_shape).astype(np.float32), np.ones(weight_shape[0], np.float32)
    grad_output = rng.standard_normal(F.conv2d(x, weight, None, *options).shape).astype(np.float32)
    for size in np.geomspace(100, 3_000_000, 100):  # what workspace comes from holds NaN
        _kernels.empty((int(size),), np.dtype(np.float32)).fill(np.nan)
    actual, expected = (f(x, weight, bias, grad_output, *options) for f in (passes, directly))
    for a, e in zip(actual[:3], expected):
        assert not np.array_equal(a, e)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("mean", ["zero", "far from zero"])
@pytest.mark.parametrize(
    "shape, filters, kernel, stride",
    [
        ((4, 128, 14, 14), 128, 3, 1),
        ((4, 512, 7, 7), 512, 3, 1),
        ((8, 256, 7, 7), 128, 3, 1),
        ((1, 128, 14, 14), 256, 3, 1),
        ((4, 64, 14, 14), 32, 5, 1),
        ((6, 64, 14, 14), 32, 5, 1),
        ((4, 128, 28, 28), 128, 3, 2),
        ((32, 40, 14, 14), 70, 3, 1),
        ((2, 512, 14, 14), 512, 3, 1),
        ((8, 64, 27, 27), 36, 5, 1),
        ((2, 300, 14, 14), 320, 5, 1),
    ],
)
def test_accuracy(scale, mean, shape, filters, kernel, stride, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    x = (np.maximum(x, 0) if mean == "far from zero" else x) * np.float32(scale)
    weight = rng.standard_normal((filters, shape[1], kernel, kernel)).astype(np.float32)
    grad_output = rng.standard_normal((shape[0], filters, *(n // stride for n in shape[2:]))).astype(np.float32)
    padding = kernel // 2
    bias = np.zeros(filters, np.float32)
    expected = conv2d_passes(x, weight, bias, grad_output, stride, padding, 1, 1)
    tensors = [to_torch(a, requires_grad=True) for a in (x, weight)]
    torch.nn.functional.conv2d(*tensors, None, stride, padding).backward(to_torch(grad_output))
    torch_error = relative_rms(tensors[1].grad.numpy(), expected[2])
    for algorithm, bound in (("auto", 1.5e-6), ("winograd", 1.5e-6), ("direct", 3e-7)):
        with pyconv.options(conv_algorithm=algorithm):
            output = F.conv2d(x, weight, None, stride, padding)
            grad_input, grad_weight, _ = F.conv2d_backward(grad_output, x, weight, stride, padding)
        assert relative_rms(output, expected[0]) < bound
        assert relative_rms(grad_input, expected[1]) < bound
        assert relative_rms(grad_weight, expected[2]) < max(1.5 * torch_error, 8e-7 * (algorithm == "winograd"))
