"""Convolution and its gradients: every algorithm around every edge of its tiles, beside PyTorch.

With small integers every sum is exact in float32, so the direct algorithms, of channels-last images and of planes, must
equal PyTorch without any tolerance. (Winograd's transforms round: see test_conv_winograd.py.)
"""

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import pyconv
import pyconv.functional as F
from oracle import assert_close, channels_last, conv2d_passes, to_torch
from pyconv import _kernels
from pyconv.functional.conv import _convolve, _convolve_backward, _plan


def integers(rng, shape, dtype=np.float32):
    return rng.integers(-4, 5, shape).astype(dtype)


def check_exact(rng, dtype, shape, weight_shape, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = (integers(rng, s, dtype) for s in (shape, weight_shape, weight_shape[:1]))
    options = (stride, padding, dilation, groups)
    grad_output = integers(rng, conv2d_passes(x, weight, bias, None, *options), dtype)
    expected = conv2d_passes(x, weight, bias, grad_output, *options)
    for algorithm in ("direct", "planes"):
        with pyconv.options(conv_algorithm=algorithm):
            actual = [F.conv2d(x, weight, bias, *options), *F.conv2d_backward(grad_output, x, weight, *options)]
        for name, a, e in zip(("output", "grad_input", "grad_weight", "grad_bias"), actual, expected):
            assert a.dtype == dtype
            assert_close(a, e.astype(dtype), rtol=0, err_msg=f"{algorithm}, {name}")


# ---- The direct algorithm ---------------------------------------------------------------------------

# a register tile has 6, 12 or 14 pixels and 2 to 32 channels; images of one row up to several tasks
EDGES = [1, 4, 5, 6, 7, 11, 12, 13, 14, 15, 16, 17, 31, 32, 33]


@pytest.mark.parametrize("channels", [3, 20, 33])
@pytest.mark.parametrize("geometry", [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (5, 1, 2), (7, 2, 3)])
def test_planes_with_everything_that_is_done_before_they_are_stored(geometry, channels, isa, dtype, rng):
    kernel, stride, padding = geometry
    x, weight = integers(rng, (2, channels, 15, 26), dtype), integers(rng, (37, channels, kernel, kernel), dtype)
    bias, options = integers(rng, (37,), dtype), (stride, padding, 1, 1)
    expected = conv2d_passes(x, weight, bias, None, *options)
    residual = integers(rng, expected, dtype)
    with pyconv.options(conv_algorithm="planes"):
        plain = F.conv2d(x, weight, bias, *options)
        fused = _convolve("conv2d", x, weight, bias, *options, residual, relu=True)
        gradients = [_convolve_backward(residual, x, weight, *options, (True,) * 3, added) for added in (None, x)]
    assert fused.flags.c_contiguous
    assert_close(fused, np.maximum(plain + residual, 0), rtol=0)
    assert_close(gradients[1][0], gradients[0][0] + x, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 4), (3, 3), (4, 6), (5, 5), (5, 13), (14, 14)])
def test_pointwise_planes_of_many_outputs_are_exact_around_panels(size, isa, dtype, rng):
    """16 tasks, so that none shares its outputs: only 192 and more are worth a copy."""
    x, weight = integers(rng, (16, 130, *size), dtype), integers(rng, (201, 130, 1, 1), dtype)
    check_exact(rng, dtype, x.shape, weight.shape)
    check_exact(rng, dtype, (8, 450, *size), (386, 225, 1, 1), groups=2)
    residual = integers(rng, (16, 201, *size), dtype)
    with pyconv.options(conv_algorithm="planes"):
        fused = _convolve("conv2d", x, weight, None, 1, 0, 1, 1, residual, relu=True)
        assert_close(fused, np.maximum(F.conv2d(x, weight) + residual, 0), rtol=0)


def test_contiguous_images_are_converted_only_where_that_is_sooner():
    pointwise, square = ((8, 64, 56, 56), (256, 64, 1, 1)), ((8, 64, 56, 56), (64, 64, 3, 3), 1)
    assert {plan.algorithm for plan in pyconv.explain_conv2d(*pointwise, channels_last=False).values()} == {"planes"}
    assert pyconv.explain_conv2d(*pointwise)["forward"].algorithm == "direct"
    for dilation, copies in ((1, 0), (2, 2)):  # tiles are made of planes as they lie, but of a dilated kernel
        plans = [pyconv.explain_conv2d(*square, dilation, dilation, channels_last=last) for last in (False, True)]
        planes, last = (plan["forward"] for plan in plans)
        assert planes.algorithm == last.algorithm == "winograd"
        assert planes.workspace == last.workspace + copies * 4 * 8 * 64 * 56 * 56


RESIDUES = [
    ((2, 3, 37, 41), (16, 3, 7, 7), 2, 3),
    ((1, 3, 35, 83), (8, 3, 11, 11), 4, 2),
    ((2, 5, 20, 67), (6, 5, 3, 3), (3, 2), (1, 0)),
    ((2, 4, 19, 40), (8, 2, 2, 5), (1, 4), (0, 2), (2, 1), 2),
    ((2, 3, 11, 36), (5, 3, 3, 3), 2, 2, 2),  # whose taps are on one residue of four
    ((2, 3, 30, 50), (4, 3, 3, 3), 8),
    ((2, 3, 30, 50), (4, 3, 3, 3), 9),
    ((2, 1, 34, 34), (70, 1, 2, 2), 2),
    ((2, 40, 14, 14), (30, 40, 3, 3), 2, 1),
    ((1, 2, 9, 9), (3, 2, 1, 1), 3, 1),
    ((1, 2, 1, 1), (3, 2, 1, 1), 2, 1),  # which reads nothing but padding
    ((3, 3, 420, 420), (2, 3, 3, 3), 2, 1),  # images whose parts are made by turns
]


@pytest.mark.parametrize("geometry", RESIDUES)
def test_gradients_of_inputs_with_a_stride_are_exact(geometry, isa, dtype, rng):
    check_exact(rng, dtype, *geometry)


@pytest.mark.parametrize("channels", EDGES)
def test_direct_is_exact_around_tile_edges(channels, isa, dtype, rng):
    check_exact(rng, dtype, (2, channels, 5, channels), (3, channels, 3, 3), padding=1)
    check_exact(rng, dtype, (1, 3, 7, 15), (channels, 3, 3, 2), padding=(1, 0))
    check_exact(rng, dtype, (3, channels, 2, 3), (channels + 1, channels, 1, 1))


@pytest.mark.parametrize("width", [1, 11, 12, 13, 15, 16, 17, 31, 32, 33, 49])
def test_direct_is_exact_around_vectors_of_pixels(width, isa, dtype, rng):
    """Few outputs have their lanes over pixels; bundles of groups go in strips of 12 columns."""
    for filters in (1, 4, 6, 7, 10):
        check_exact(rng, dtype, (2, 3, 6, width), (filters, 3, 3, 3), padding=1)
    check_exact(rng, dtype, (2, 1, 9, width + 4), (6, 1, 5, 5), stride=(2, 1))
    check_exact(rng, dtype, (2, 40, 7, width), (40, 4, 3, 3), padding=1, groups=10)
    check_exact(rng, dtype, (1, 24, 7, width), (56, 3, 3, 3), padding=1, stride=2, groups=8)
    check_exact(rng, dtype, (1, 48, 4, width), (48, 16, 3, 3), padding=2, dilation=2, groups=3)
    check_exact(rng, dtype, (3, 6, 4, width), (4, 6, 3, 1), padding=(1, 0))


@pytest.mark.parametrize("channels", [11, 16, 31, 33, 64, 300])
@pytest.mark.parametrize("filters", [1, 2, 3, 4, 5, 6, 9, 12])
def test_direct_is_exact_to_few_outputs(filters, channels, isa, dtype, rng):
    """Lanes over what is summed, in strips of 24 columns or more."""
    for width in (1, 5, 23, 25, 50):
        check_exact(rng, dtype, (1, channels, 4, width), (filters, channels, 3, 3), padding=1)
    check_exact(rng, dtype, (2, filters, 9, 26), (channels, filters, 5, 3), padding=2)
    check_exact(rng, dtype, (1, filters, 12, 27), (channels, filters, 3, 5), stride=(2, 3), padding=1, dilation=(3, 1))
    check_exact(rng, dtype, (2, channels, 11, 9), (filters, channels, 2, 3), stride=2, padding=(0, 2), dilation=(1, 2))
    x, residual = (channels_last(integers(rng, (2, n, 3, 26), dtype)) for n in (channels, filters))
    weight, bias = integers(rng, (filters, channels, 3, 3), dtype), integers(rng, filters, dtype)
    with pyconv.options(conv_algorithm="direct"):
        fused = _convolve("conv2d", x, weight, bias, 1, 1, 1, 1, residual, relu=True)
        plain = F.conv2d(x, weight, bias, padding=1)
    assert_close(fused, np.maximum(plain + residual, 0), rtol=0)


@pytest.mark.parametrize("width", [7, 8, 9, 10, 11, 16, 17, 18, 24, 26, 33, 50])
def test_direct_is_exact_around_rows_of_few_channels(width, isa, dtype, rng):
    """Their pixels are taken apart into planes; tiles are of 8, 10 or 16 pixels of a row, and 1 to 3 taps."""
    for filters in (13, 16, 29, 32, 48):
        check_exact(rng, dtype, (2, 3, 6, width), (filters, 3, 3, 3), padding=1)
    check_exact(rng, dtype, (1, 1, 7, width), (31, 1, 5, 5), padding=2)
    check_exact(rng, dtype, (2, 2, 9, width), (24, 2, 3, 4), stride=(2, 1), padding=(0, 2))
    check_exact(rng, dtype, (1, 7, 5, width), (32, 7, 2, 1))
    check_exact(rng, dtype, (2, 32, 4, width), (3, 32, 3, 3), padding=1)
    x, residual = channels_last(integers(rng, (2, 3, 5, width))), channels_last(integers(rng, (2, 20, 5, width)))
    weight, bias = integers(rng, (20, 3, 3, 3)), integers(rng, (20,))
    actual = _convolve("conv2d", x, weight, bias, 1, 1, 1, 1, residual, relu=True)
    assert_close(actual, np.maximum(F.conv2d(x, weight, bias, 1, 1) + residual, 0), rtol=0)


@pytest.mark.parametrize("channels", [47, 48, 49, 95, 97])
def test_pointwise_weight_gradient_is_exact_around_panels(channels, isa, dtype, rng):
    for filters in (16, 31, 32, 33, 65):
        check_exact(rng, dtype, (2, channels, 9, 15), (filters, channels, 1, 1))
    check_exact(rng, dtype, (3, 2 * channels, 5, 6), (34, channels, 1, 1), stride=(2, 1), groups=2)


GEOMETRIES = {
    "1x1 stride 2": ((2, 5, 9, 7), (34, 5, 1, 1), 2),
    "1x1 many channels": ((1, 300, 4, 5), (40, 300, 1, 1)),
    "3x3 stride 2": ((2, 6, 12, 11), (9, 6, 3, 3), 2, 1),
    "stride larger than kernel": ((2, 3, 11, 12), (4, 3, 2, 2), (3, 4)),
    "7x7 stride 2": ((2, 3, 20, 21), (20, 3, 7, 7), 2, 3),
    "11x11 stride 4": ((1, 3, 31, 31), (17, 3, 11, 11), 4, 2),
    "1x7": ((2, 8, 6, 17), (5, 8, 1, 7), 1, (0, 3)),
    "7x1": ((2, 8, 17, 6), (5, 8, 7, 1), 1, (3, 0)),
    "dilated": ((2, 4, 15, 16), (6, 4, 3, 3), 1, 2, 2),
    "dilated, strided": ((2, 4, 15, 16), (6, 4, 3, 2), (2, 3), (1, 2), (3, 2)),
    "groups": ((2, 12, 9, 8), (18, 4, 3, 3), 1, 1, 1, 3),
    "groups of one input": ((2, 4, 9, 8), (12, 1, 3, 3), 2, 1, 1, 4),
    "same": ((2, 3, 8, 9), (4, 3, 4, 3), 1, "same", (1, 2)),
    "valid": ((2, 3, 8, 9), (4, 3, 4, 3), 2, "valid"),
    "kernel as large as the image": ((2, 3, 6, 5), (4, 3, 6, 5)),
    "padding beyond the kernel": ((1, 2, 3, 3), (3, 2, 2, 2), 2, 5),
    "one channel": ((4, 1, 28, 28), (6, 1, 5, 5), 1, 2),
    "no images": ((0, 3, 8, 8), (4, 3, 3, 3)),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_direct_is_exact_in_every_geometry(name, isa, dtype, rng):
    check_exact(rng, dtype, *GEOMETRIES[name])


@hypothesis.given(st.data())
def test_direct_is_exact_in_shapes_nobody_thought_of(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    groups, channels, filters = draw(1, 3), draw(1, 9), draw(1, 20)
    kernel, stride = (draw(1, 5), draw(1, 5)), (draw(1, 4), draw(1, 4))
    padding, dilation = (draw(0, 4), draw(0, 4)), (draw(1, 3), draw(1, 3))
    size = [max(d * (k - 1) + 1 - 2 * p, 1) + draw(0, 9) for d, k, p in zip(dilation, kernel, padding)]
    shape = (draw(0, 3), groups * channels, *size)
    rng = np.random.default_rng(draw(0, 2**32 - 1))
    isa = _kernels.get_isa()
    try:
        _kernels.set_isa(data.draw(st.sampled_from(_kernels.isa_names())))
        check_exact(rng, np.dtype(data.draw(st.sampled_from(["float32", "float64"]))), shape,
                    (groups * filters, channels, *kernel), stride, padding, dilation, groups)  # fmt: skip
    finally:
        _kernels.set_isa(isa)


# ---- Scattered input gradients ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "geometry",
    [
        ((2, 1, 28, 28), (32, 1, 5, 5), 1, 2),
        ((2, 3, 33, 30), (64, 3, 7, 7), 2, 3),
        ((1, 3, 35, 39), (64, 3, 11, 11), 4, 2),
        ((3, 2, 9, 40), (17, 2, 3, 3), 1, 0),
        ((2, 3, 14, 14), (8, 3, 3, 2), (3, 1), (2, 1), (2, 1)),
        ((1, 6, 14, 14), (16, 6, 5, 5), 1, 0),
    ],
)
def test_scattered_gradient_is_exact(geometry, isa, dtype, rng):
    shape, weight_shape, *options = geometry
    options = [*options, *(1, 1, 1)[len(options) :]]
    options = [options[0], options[1], options[2], 1]
    kernels, output_shape = _plan("test", shape, weight_shape, *options)
    weight, grad_output = integers(rng, weight_shape, dtype), channels_last(integers(rng, output_shape, dtype))
    grad_input = _kernels.empty(shape, dtype, True)
    kernels.grad_input(grad_output, weight, None, _kernels.CONV_ALGORITHMS["scatter"], grad_input)
    x, bias = np.zeros(shape, dtype), np.zeros(weight_shape[0], dtype)
    expected = conv2d_passes(x, weight, bias, grad_output, *options)[1]
    assert_close(grad_input, expected.astype(dtype), rtol=0)


def test_gradients_of_first_layers_inputs_are_scattered_unless_they_are_planes():
    first = (8, 3, 224, 224), (64, 3, 7, 7), 2, 3
    assert pyconv.explain_conv2d(*first)["grad_input"].algorithm == "scatter"
    assert pyconv.explain_conv2d(*first, channels_last=False)["grad_input"].algorithm == "planes"


# ---- What holds for all algorithms ------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3, 0, 20), (1, 3, 5, 0), (2, 16, 0, 0), (2, 32, 0, 9)])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("algorithm", ["auto", "direct", "winograd", "planes"])
def test_images_of_nothing_but_padding(shape, kernel, depthwise, algorithm, isa):
    filters, groups = (shape[1], shape[1]) if depthwise else (32, 1)
    weight, bias = np.ones((filters, shape[1] // groups, kernel, kernel), np.float32), np.ones(filters, np.float32)
    for stride in (1, 2):
        options = (stride, kernel, 1, groups)
        for x in (np.zeros(shape, np.float32), channels_last(np.zeros(shape, np.float32))):
            with pyconv.options(conv_algorithm=algorithm):
                output = F.conv2d(x, weight, bias, *options)
                grad_input, grad_weight, grad_bias = F.conv2d_backward(output, x, weight, *options)
                pyconv.explain_conv2d(shape, weight.shape, *options, channels_last=False)
            assert (output == 1).all() and grad_input.shape == shape and not grad_weight.any()
            assert (grad_bias == output.size // filters).all()


CASES = [
    ((3, 20, 9, 10), (18, 20, 3, 3), 1, 1, 1, 1),
    ((2, 3, 19, 18), (7, 3, 5, 5), 1, 2, 1, 1),
    ((2, 3, 23, 22), (33, 3, 7, 7), 2, 3, 1, 1),
    ((2, 17, 6, 7), (33, 17, 1, 1), 1, 0, 1, 1),
    ((2, 18, 9, 9), (18, 1, 3, 3), 1, 1, 1, 18),
    ((2, 8, 9, 9), (12, 4, 3, 3), 2, 1, 2, 2),
    ((2, 24, 7, 13), (24, 4, 3, 3), 1, 1, 1, 6),
    ((1, 40, 9, 25), (40, 8, 3, 3), 2, 1, 1, 5),
    ((2, 3, 9, 33), (5, 3, 3, 3), 1, 1, 1, 1),
    ((1, 7, 6, 16), (6, 7, 5, 5), 1, 2, 1, 1),
    ((2, 17, 13, 14), (18, 17, 3, 3), 1, 3, 3, 1),
    ((2, 36, 9, 14), (40, 36, 7, 7), 1, 3, 1, 1),
    ((2, 24, 12, 9), (32, 24, 4, 2), 1, 1, 1, 1),
    ((2, 48, 7, 14), (48, 16, 3, 3), 1, 1, 1, 3),
    ((2, 36, 15, 18), (40, 36, 3, 3), 2, 1, 1, 1),
    ((2, 35, 17, 11), (40, 7, 3, 6), (2, 1), (2, 3), (2, 1), 5),
    ((2, 3, 9, 27), (20, 3, 3, 5), 1, 1, 1, 1),
    ((2, 40, 14, 17), (50, 20, 3, 3), 1, 1, 1, 2),
    ((2, 41, 9, 27), (3, 41, 3, 3), 1, 1, 1, 1),
    ((16, 200, 5, 7), (193, 200, 1, 1), 1, 0, 1, 1),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("algorithm", ["auto", "direct", "winograd", "planes"])
@pytest.mark.parametrize("planes", [False, True])
def test_nothing_outside_of_the_results_is_written_or_read(case, planes, algorithm, isa, rng):
    shape, weight_shape, *options = case
    kernels, output_shape = _plan("test", shape, weight_shape, *options, planes)
    as_images = np.ascontiguousarray if planes else channels_last
    chosen = _kernels.CONV_ALGORITHMS[algorithm]

    def guarded(wanted):
        memory = np.full(int(np.prod(wanted)) + 64, 7.5, np.float32)
        inside = memory[32:-32].reshape(wanted)
        return memory, inside

    n, k, p, q = output_shape
    x, weight = as_images(rng.random(shape, np.float32)), rng.random(weight_shape, np.float32)
    grad_output = as_images(rng.random(output_shape, np.float32))
    results = [guarded(s) for s in ((n, p, q, k), (shape[0], *shape[2:], shape[1]), weight_shape, (k,))]
    output, grad_input, grad_weight, grad_bias = (inside for _, inside in results)
    for size in np.geomspace(100, 300_000, 100):  # what workspace comes from holds NaN
        _kernels.empty((int(size),), np.dtype(np.float32)).fill(np.nan)
    kernels.forward(x, weight, None, None, None, False, chosen, output)
    kernels.grad_input(grad_output, weight, None, chosen, grad_input)
    kernels.grad_weight(grad_output, x, chosen, grad_weight, grad_bias)
    for memory, inside in results:
        assert (memory[:32] == 7.5).all() and (memory[-32:] == 7.5).all()
        assert np.isfinite(inside).all() and not (inside == 7.5).any()


@pytest.mark.parametrize("case", [*CASES, *(((4, 64, 28, 28), (96, 64, 3, 3), stride, 1, 1, 1) for stride in (1, 2))])
@pytest.mark.parametrize("as_images", [np.ascontiguousarray, channels_last])
def test_any_number_of_threads_gives_the_same_bits(case, as_images, threads, rng):
    shape, weight_shape, *options = case
    x, weight = as_images(rng.random(shape, np.float32)), rng.random(weight_shape, np.float32)
    runs = []
    for count in (1, 2, 5):
        threads(count)
        output = F.conv2d(x, weight, None, *options)
        runs.append([output, *F.conv2d_backward(output, x, weight, *options)])
    for other in runs[1:]:
        for one, two in zip(runs[0], other):
            assert one.tobytes() == two.tobytes()


def test_any_layout(layout, dtype, rng):
    x, weight, bias = (integers(rng, s, dtype) for s in ((2, 5, 7, 9), (6, 5, 3, 3), (6,)))
    grad_output = integers(rng, (2, 6, 7, 9), dtype)
    expected = [F.conv2d(x, weight, bias, 1, 1), *F.conv2d_backward(grad_output, x, weight, 1, 1)]
    arrays = [layout(a) for a in (x, weight, bias, grad_output)]
    before = [a.copy() for a in arrays]
    actual = [F.conv2d(*arrays[:3], 1, 1), *F.conv2d_backward(arrays[3], arrays[0], arrays[1], 1, 1)]
    for a, e in zip(actual, expected):
        assert_close(a, e)
    for a, b in zip(arrays, before):
        np.testing.assert_array_equal(a, b)


def test_unbatched(dtype, rng):
    x, weight = integers(rng, (3, 8, 9), dtype), integers(rng, (4, 3, 3, 3), dtype)
    output = F.conv2d(x, weight, padding=1)
    assert_close(output, F.conv2d(x[None], weight, padding=1)[0], rtol=0)
    batched = F.conv2d_backward(output[None], x[None], weight, padding=1)
    unbatched = F.conv2d_backward(output, x, weight, padding=1)
    assert_close(unbatched[0], batched[0][0], rtol=0)
    assert_close(unbatched[1], batched[1], rtol=0)


def test_memory_format_follows_the_input(rng):
    x, weight = rng.random((2, 3, 6, 7), np.float32), rng.random((4, 3, 3, 3), np.float32)
    assert F.conv2d(x, weight).flags.c_contiguous
    assert F.conv2d(channels_last(x), weight).transpose(0, 2, 3, 1).flags.c_contiguous


def test_needs():
    x, weight = np.ones((1, 1, 4, 4)), np.ones((2, 1, 3, 3))
    g = np.ones((1, 2, 2, 2))
    for needs in [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)]:
        gradients = F.conv2d_backward(g, x, weight, needs=needs)
        assert [gradient is not None for gradient in gradients] == [bool(need) for need in needs]


@pytest.mark.parametrize(
    "case",
    [
        ((2, 6, 7, 5), (6, 4, 3, 3), {}),
        ((2, 6, 7, 5), (6, 4, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
        ((2, 6, 7, 5), (6, 2, 4, 2), {"stride": (3, 1), "dilation": (1, 2), "groups": 3}),
        ((6, 7, 5), (6, 4, 2, 2), {"stride": 2}),
        ((2, 6, 4, 5), (6, 4, 2, 2), {"output_padding": 2, "dilation": 3}),
        ((2, 6, 4, 5), (6, 4, 2, 3), {"stride": (2, 1), "padding": 2, "output_padding": (2, 1), "dilation": 3}),
    ],
)
def test_conv_transpose2d(case, isa, dtype, rng):
    shape, weight_shape, options = case
    filters = weight_shape[1] * options.get("groups", 1)
    x, weight, bias = (integers(rng, s, dtype) for s in (shape, weight_shape, (filters,)))
    tensors = [to_torch(a, requires_grad=True) for a in (x, weight, bias)]
    expected = torch.nn.functional.conv_transpose2d(*tensors, **options)
    with pyconv.options(conv_algorithm="direct"):
        output = F.conv_transpose2d(x, weight, bias, **options)
        assert_close(output, expected, rtol=0)
        grad_output = integers(rng, output.shape, dtype)
        expected.backward(to_torch(grad_output))
        gradients = F.conv_transpose2d_backward(grad_output, x, weight, **options)
    for gradient, tensor in zip(gradients, tensors):
        assert_close(gradient, tensor.grad, rtol=0)


def test_not_a_number_stays_where_it_is_seen():
    x = np.zeros((1, 4, 9, 9), np.float32)
    x[0, 2, 4, 4] = np.nan
    with pyconv.options(conv_algorithm="direct"):
        output = F.conv2d(x, np.ones((3, 4, 3, 3), np.float32), padding=1)
    seen = np.zeros((9, 9), bool)
    seen[3:6, 3:6] = True
    assert (np.isnan(output[0]) == seen).all()


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("place", [(0, 0), (3, 8), (8, 4)])
@pytest.mark.parametrize("channels, groups, stride", [(24, 6, 1), (40, 5, 2), (128, 32, 1), (48, 3, 1)])
def test_what_is_not_finite_reaches_only_the_weights_of_groups_that_see_it(
    channels, groups, stride, place, padding, isa, rng
):
    x = rng.standard_normal((2, channels, 9, 9)).astype(np.float32)
    x[1, 3, *place] = np.inf
    weight = torch.zeros((channels, channels // groups, 3, 3), requires_grad=True)
    output = torch.nn.functional.conv2d(torch.from_numpy(x), weight, None, stride, padding, 1, groups)
    grad_output = rng.standard_normal(output.shape).astype(np.float32)
    output.backward(torch.from_numpy(grad_output))
    with pyconv.options(conv_algorithm="direct"):
        options = (stride, padding, 1, groups)
        grad_weight = F.conv2d_backward(grad_output, x, weight.detach().numpy(), *options)[1]
    expected = weight.grad.numpy()
    seen = ~np.isfinite(expected)
    assert seen.any() or padding == 0
    np.testing.assert_array_equal(grad_weight[seen], expected[seen])
    assert np.isfinite(grad_weight[~seen]).all()


# ---- Errors -----------------------------------------------------------------------------------------

X, W = np.zeros((2, 6, 8, 8), np.float32), np.zeros((4, 6, 3, 3), np.float32)


@pytest.mark.parametrize(
    "error, message, arguments, options",
    [
        (TypeError, "input must be a numpy.ndarray; got list", ([1.0], W), {}),
        (TypeError, "input must have dtype float32 or float64; got int64", (X.astype(int), W), {}),
        (TypeError, "weight must have the dtype of input, float32; got float64", (X, W.astype(float)), {}),
        (ValueError, r"input must have 3 or 4 dimensions; got shape \(8, 8\)", (X[0, 0], W), {}),
        (ValueError, r"weight must have 4 dimensions; got shape \(6, 3, 3\)", (X, W[0]), {}),
        (ValueError, "groups must divide in_channels; got in_channels=6, groups=4", (X, W), {"groups": 4}),
        (ValueError, "groups must divide out_channels; got out_channels=4, groups=3", (X, W[:, :2]), {"groups": 3}),
        (ValueError, "groups must be positive; got 0", (X, W), {"groups": 0}),
        (ValueError, r"weight must have in_channels / groups = 6 channels", (X, W[:, :5]), {}),
        (ValueError, r"bias must have shape \(4,\)", (X, W, np.zeros(3, np.float32)), {}),
        (ValueError, "stride must be positive; got 0", (X, W), {"stride": 0}),
        (ValueError, "padding must be non-negative; got -1", (X, W), {"padding": -1}),
        (ValueError, "dilation must be positive", (X, W), {"dilation": (1, 0)}),
        (TypeError, "stride must be an int or a pair of ints; got 1.5", (X, W), {"stride": 1.5}),
        (ValueError, "padding must be an int, a pair of ints, 'same' or 'valid'", (X, W), {"padding": "full"}),
        (ValueError, "padding='same' requires stride 1", (X, W), {"padding": "same", "stride": 2}),
        (ValueError, "the kernel must not be larger than the padded input", (X[:, :, :2], W), {}),
    ],
)
def test_errors_name_the_argument_the_rule_and_the_value(error, message, arguments, options):
    with pytest.raises(error, match="conv2d: " + message):
        F.conv2d(*arguments, **options)


@pytest.mark.parametrize("option", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("value", [(1.0, 1.0), [1.0, 1.0], (True, True), 1.0, True])
def test_options_that_equal_ints_are_refused_after_these_were_used(option, value):
    F.conv2d(X, W, **{option: (1, 1)})
    F.conv2d(X, W, **{option: 1})
    with pytest.raises(TypeError, match=f"conv2d: {option} must be an int or a pair of ints; got"):
        F.conv2d(X, W, **{option: value})


def test_errors_of_the_backward_pass():
    with pytest.raises(ValueError, match=r"conv2d_backward: grad_output must have conv2d's output shape"):
        F.conv2d_backward(np.zeros((2, 4, 8, 8), np.float32), X, W)
    with pytest.raises(ValueError, match="needs must have 3 entries"):
        F.conv2d_backward(np.zeros((2, 4, 6, 6), np.float32), X, W, needs=(True,))


def test_absurd_sizes_neither_crash_nor_hang():
    x, weight = np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 3, 3), np.float32)
    with pytest.raises(MemoryError):
        F.conv2d(x, weight, stride=2**30, padding=2**30)
    with pytest.raises(MemoryError):
        F.conv2d(x, weight, padding=2**31 - 1)
    huge = 2**31 - 1
    output = F.conv2d(x, weight, stride=huge, padding=1)
    grad_input = F.conv2d_backward(output, x, weight, stride=huge, padding=1)[0]
    assert_close(grad_input, np.pad(np.full((1, 1, 2, 2), 4, np.float32), ((0, 0), (0, 0), (0, 1), (0, 1))), rtol=0)
