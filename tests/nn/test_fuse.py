"""Layers that run as one give what they give one by one: outputs, gradients, statistics."""

import copy
import pickle

import numpy as np
import pytest

import pyconv
from oracle import assert_close
from pyconv import models, nn
from pyconv.nn import fuse

NETWORKS = {
    "conv-relu-pool": lambda: nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 4, 3, padding=1, bias=False), nn.ReLU()
    ),
    "padded-conv-relu": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="zeros"), nn.ReLU(), nn.ReLU(), nn.MaxPool2d(3, 1, 1)
    ),
    "norm-relu-pool": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU()
    ),
    "norm-relu6": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6()
    ),
    "mobilenet_v2": lambda: models.mobilenet_v2(num_classes=3, width_mult=0.3),
    "linear-relu": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.ReLU(), nn.Linear(20, 7), nn.ReLU()),
    "residual-relu": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)), None, nn.ReLU()),
        nn.Residual(nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6)), nn.Conv2d(4, 6, 1, 2), nn.ReLU()),
        nn.Residual(nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(), nn.BatchNorm2d(6))),
        nn.Residual(nn.Sequential(nn.BatchNorm2d(6)), nn.Identity(), nn.Tanh()),
    ),
    "resnet18": lambda: models.resnet18(num_classes=3, stem="cifar"),
    "resnet50": lambda: models.resnet50(num_classes=3, stem="imagenet"),
}


def step(model, x, fuse):
    with pyconv.options(fuse=fuse):
        model.zero_grad()
        output = model(x)
        grad = np.cos(np.arange(output.size, dtype=output.dtype)).reshape(output.shape)
        results = {"output": output, "input": model.backward(grad)}
    results.update((name, parameter.grad) for name, parameter in model.named_parameters())
    results.update(model.named_buffers())
    return results


def drop_nothing(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_fused_equals_unfused(name, mode, rng):
    model = getattr(NETWORKS[name]().double(), mode)()
    if mode == "eval":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean += 0.1
                module.running_var *= 1.3
    if "relu6" in name:
        model[1].weight.data *= 8  # some go over the top
    drop_nothing(model)
    other = copy.deepcopy(model)
    x = rng.standard_normal((3, 3, 8, 8))
    expected = step(other, x, False)
    results = step(model, x, True)
    for key, array in expected.items():
        assert_close(results[key], array, 1e-10, err_msg=key)
    with pyconv.no_grad():
        assert_close(model.eval()(x), other.eval()(x), 1e-10)


def kinds(chain):
    return [
        type(getattr(module, "layer", module)).__name__ + "+" * isinstance(module, fuse.WithReLU) for module in chain
    ]


@pytest.mark.parametrize("channels", [1, 3, 40])
@pytest.mark.parametrize("options", [(2, 2), (3, 2, 1), (3, 1, 1), (17, 1, 8)])
def test_relu_and_max_pooling_in_one_pass(options, channels, dtype, isa, rng):
    """Either order, windows of negatives, zeros and NaN, few and many channels and taps."""
    x = rng.standard_normal((2, channels, 9, 8)).astype(dtype) - dtype.type(0.5)
    x[0, 0, 2:6, 2:6] = 0
    x[1, 0, 0, 0] = np.nan
    x[1, :, 4:, :5] = -1
    for layers in ([nn.ReLU(), nn.MaxPool2d(*options)], [nn.MaxPool2d(*options), nn.ReLU()]):
        identity = nn.Conv2d(channels, channels, 1, bias=False, dtype=dtype)
        identity.weight.data[...] = np.eye(channels).reshape(identity.weight.shape)
        model = nn.Sequential(nn.Identity() if channels > 3 else identity, *layers)
        expected, results = step(model, x, False), step(model, x, True)
        assert np.array_equal(results["output"], expected["output"], equal_nan=True)
        assert_close(results["input"], expected["input"], 1e-6 if dtype == np.float32 else 1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "front",
    [
        lambda dtype: nn.Conv2d(20, 20, 3, padding=1, dtype=dtype),  # Winograd's in float32, else direct
        lambda dtype: nn.Conv2d(20, 20, 1, dtype=dtype),
        lambda dtype: nn.Conv2d(20, 20, (1, 7), padding=(0, 3), dtype=dtype),
        lambda dtype: nn.Conv2d(20, 20, 3, padding=1, groups=20, dtype=dtype),  # depthwise
        lambda dtype: nn.Conv2d(20, 20, 3, padding=1, groups=5, dtype=dtype),
        lambda dtype: nn.Conv2d(20, 20, 3, padding=1, padding_mode="reflect", dtype=dtype),
        lambda dtype: nn.Sequential(nn.Conv2d(20, 3, 1, dtype=dtype), nn.Conv2d(3, 20, 7, padding=3, dtype=dtype)),
        lambda dtype: nn.Sequential(),
    ],
)
def test_a_residuals_gradients_are_added_where_they_are_made(front, dtype, isa, rng):
    """To the same bits: a convolution adds the shortcut's gradient to the sum that it would have stored."""
    block = nn.Residual(nn.Sequential(front(dtype), nn.Tanh()))
    batch = rng.standard_normal((2, 20, 9, 11)).astype(dtype)
    for x in (batch, batch[0]):
        gradients = []
        for fuse_layers in (True, False):
            with pyconv.options(fuse=fuse_layers):
                gradients.append(block.backward(block(x)))
        assert gradients[0].tobytes() == gradients[1].tobytes()


def test_gradients_of_strided_and_scattered_convolutions_are_added_to(isa, rng):
    """Pixels that no tap reaches have the other branch's gradient alone."""
    for channels, kernel, stride in ((20, 1, 2), (20, 3, 2), (3, 7, 2), (18, 2, 3)):
        conv = nn.Conv2d(channels, 24, kernel, stride)
        x = rng.standard_normal((2, channels, 11, 13)).astype(np.float32)
        grad_output = np.ones_like(conv(x))
        grad_input = conv.backward(grad_output)
        conv(x)
        assert conv.backward(grad_output, x).tobytes() == (grad_input + x).tobytes()


def test_which_layers_run_as_one():
    model = NETWORKS["conv-relu-pool"]()
    assert kinds(fuse.fused(model)) == ["Conv2d", "MaxPool2d+", "Conv2d+"]
    with pyconv.no_grad():
        assert kinds(fuse.fused(model)) == ["Conv2d+", "MaxPool2d", "Conv2d+"]
        chain = fuse.fused(NETWORKS["norm-relu-pool"]())
        assert kinds(chain) == ["ConvNorm+", "MaxPool2d", "BatchNorm2d+"]
    handle = model[4].register_forward_hook(lambda module, inputs, output: None)
    assert kinds(fuse.fused(model))[-2:] == ["Conv2d", "ReLU"]
    handle.remove()
    assert kinds(fuse.fused(NETWORKS["norm-relu-pool"]())) == ["Conv2d", "BatchNorm2d+", "MaxPool2d", "BatchNorm2d+"]
    assert kinds(fuse.fused(NETWORKS["linear-relu"]())) == ["Flatten", "Linear+", "Linear+"]


def test_hooks_see_every_layer_and_changes_are_followed(rng):
    model = NETWORKS["residual-relu"]()
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    model(x)
    seen = []
    norm = model[1].main[1]
    handle = norm.register_forward_hook(lambda module, inputs, output: seen.append(output.min()))
    model(x)
    assert len(seen) == 1 and seen[0] < 0
    handle.remove()
    before = model(x)
    model[1].main[1] = nn.BatchNorm2d(4)
    model[1].main[1].weight.data[:] = 0
    assert not np.allclose(model(x), before)
    model[0] = nn.Conv2d(3, 4, 1)
    model(x)
    model.backward(np.ones_like(before))
    assert norm.weight.grad is None and model[0].weight.grad is not None


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_made_after_a_forward(clone, rng):
    """It has had no forward itself, and what it shares with the original is nothing."""
    model = nn.Sequential(NETWORKS["residual-relu"](), models.resnet.BasicBlock(6, 6), nn.Conv2d(6, 2, 1))
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    grad = np.ones_like(model(x))
    other = clone(model)
    with pytest.raises(RuntimeError, match="call forward first"):
        other.backward(grad)
    expected = model.backward(grad)
    other(x)
    assert np.array_equal(other.backward(grad), expected)


@pytest.mark.parametrize(
    "shortcut", [lambda norm: norm, lambda norm: nn.Sequential(nn.Identity(), nn.Sequential(norm))]
)
def test_a_norm_that_is_in_both_branches_follows_its_batches_in_order(shortcut, rng):
    statistics = []
    x = rng.standard_normal((3, 4, 5, 5)).astype(np.float32)
    conv = nn.Conv2d(4, 4, 1)
    for fuse_layers in (True, False):
        norm = nn.BatchNorm2d(4)
        block = nn.Residual(nn.Sequential(conv, norm), nn.Sequential())
        with pyconv.options(fuse=fuse_layers):
            block(x)
            block.shortcut.append(shortcut(norm))  # also after the block has chosen what to fuse
            block.backward(block(x))
        statistics.append((norm.running_mean, norm.running_var, norm.weight.grad))
    for fused, expected in zip(*statistics):
        assert_close(fused, expected)


def test_nan_passes_through(rng):
    model = NETWORKS["conv-relu-pool"]()
    x = rng.standard_normal((1, 3, 8, 8)).astype(np.float32)
    x[0, 0, 0, 0] = np.nan
    with pyconv.options(fuse=False):
        expected = np.isnan(model(x))
    assert expected.any() and np.array_equal(np.isnan(model(x)), expected)


def test_frozen_layers_and_no_input_gradient(rng):
    model = NETWORKS["residual-relu"]().double()
    model[0].requires_grad_(False)
    model[1].main[0].requires_grad_(False)
    other = copy.deepcopy(model)
    model.needs_input_grad = other.needs_input_grad = False
    x = rng.standard_normal((3, 3, 8, 8))
    expected, results = step(other, x, False), step(model, x, True)
    assert results["input"] is None
    for key, array in expected.items():
        if array is None:
            assert results[key] is None, key
        else:
            assert_close(results[key], array, 1e-10, err_msg=key)


@pytest.mark.parametrize("name", ["norm-relu6", "mobilenet_v2", "resnet18", "resnet50"])
@pytest.mark.parametrize("frozen", [False, True])
def test_what_a_norm_gave_is_made_again_to_the_same_bits(name, frozen, rng, monkeypatch):
    model = NETWORKS[name]()
    drop_nothing(model)
    if frozen:
        model.needs_input_grad = False
        for module in list(model.modules())[: len(list(model.modules())) // 2]:
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
    x = rng.standard_normal((3, 3, 16, 16)).astype(np.float32)
    results = []
    for worth in (1 << 60, 0):
        monkeypatch.setattr(fuse, "WORTH_REMAKING", worth)
        results.append(step(copy.deepcopy(model), x, True))
    for key, array in results[0].items():
        assert np.array_equal(array, results[1][key]) if array is not None else results[1][key] is None, key


def test_frozen_norm_asks_for_no_gradient(rng, monkeypatch):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))
    model[0].requires_grad_(False)
    model.needs_input_grad = False
    model(rng.standard_normal((2, 3, 8, 8)).astype(np.float32))
    asked = []
    monkeypatch.setattr(model[1], "backward", lambda grad_output: asked.append(model[1].needs_input_grad))
    model.backward(np.ones((2, 4, 6, 6), np.float32))
    assert asked == [False] and not model[0]._saved


@pytest.mark.parametrize("options", [{}, {"bias": False, "groups": 2}, {"stride": 2, "padding": 1}])
@pytest.mark.parametrize("affine, track", [(True, True), (False, True), (True, False)])
def test_norm_folds_into_the_convolution_before_it(options, affine, track, dtype, rng):
    model = nn.Sequential(nn.Conv2d(4, 6, 3, **options), nn.BatchNorm2d(6, 1e-3, None, affine, track), nn.ReLU())
    model.to(dtype)
    for _ in range(2):
        model(rng.standard_normal((3, 4, 9, 8)).astype(dtype))
    if affine:
        model[1].weight.data[:] = rng.standard_normal(6)
        model[1].bias.data[:] = rng.standard_normal(6)
    x = rng.standard_normal((3, 4, 9, 8)).astype(dtype)
    for mode in ("eval", "train"):
        getattr(model, mode)()
        with pyconv.no_grad():
            for _ in range(2):
                actual = model(x)
                with pyconv.options(fuse=False):
                    assert_close(actual, model(x), 1e-5 if dtype == np.float32 else 1e-12)
                model[0].weight.data *= 1.5  # nothing stale is kept
