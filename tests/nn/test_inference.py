"""A model optimized for inference gives what model.eval() gives, and shares nothing with the model."""

import copy
import pickle

import numpy as np
import pytest

import pyconv
import pyconv.functional as F
from oracle import assert_close
from pyconv import models, nn
from pyconv.nn.folded import PreparedConv


class Own(nn.Module):
    """A module whose forward is its own, around a convolution that it uses twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.scale = nn.Parameter(np.full(1, 0.5, np.float32))

    def forward(self, input):
        return self.conv(self.conv(input)) * self.scale.data


class Reading(nn.Module):
    """A module whose forward reads what its layers have and calls one by keyword."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(20, 6, 3, stride=2, padding=1, groups=2)
        self.plain = nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular", bias=False)

    def forward(self, input, scale=1):
        conv, plain = self.conv, self.plain
        assert isinstance(conv, nn.Conv2d) and conv.out_channels == plain.in_channels == 6 and plain.bias is None
        x = F.conv2d(input, conv.weight.data, conv.bias.data, conv.stride, conv.padding, conv.dilation, conv.groups)
        return plain(input=x) * x.dtype.type(scale)


NETWORKS = {
    "winograd": lambda: nn.Sequential(nn.Conv2d(20, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 9, 5, padding=2)),
    "direct": lambda: nn.Sequential(nn.Conv2d(20, 40, 3, stride=2), nn.BatchNorm2d(40), nn.Conv2d(40, 5, 1)),
    "grouped": lambda: nn.Sequential(nn.Conv2d(20, 40, 3, groups=4), nn.BatchNorm2d(40), nn.Conv2d(40, 8, 3, groups=2)),
    "depthwise": lambda: nn.Sequential(nn.Conv2d(20, 20, 3, groups=20), nn.BatchNorm2d(20), nn.ReLU6()),
    "padding": lambda: nn.Sequential(nn.Conv2d(20, 4, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(4)),
    "no statistics": lambda: nn.Sequential(nn.Conv2d(20, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
    "norm in another Sequential": lambda: nn.Sequential(
        nn.Sequential(nn.Conv2d(20, 4, 3), nn.Identity()), nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU())
    ),
    "residual": lambda: nn.Sequential(
        nn.Residual(nn.Sequential(nn.Conv2d(20, 20, 3, padding=1), nn.BatchNorm2d(20)), None, nn.ReLU()),
        nn.Residual(nn.Sequential(nn.ReLU(), nn.Conv2d(20, 9, 1)), nn.Conv2d(20, 9, 1), nn.Tanh()),
    ),
    "own forward": lambda: nn.Sequential(nn.Conv2d(20, 3, 1), Own(), nn.MaxPool2d(2), nn.Flatten()),
    "reading": lambda: nn.Sequential(nn.Conv2d(20, 20, 1), nn.BatchNorm2d(20), Reading()),
    "single": lambda: nn.Conv2d(20, 7, 3, bias=False),
}


def settled(model, dtype, rng):
    """The model in evaluation, in a dtype, with statistics and weights that matter in every batch norm."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            size = module.num_features
            module.running_mean[...] = rng.normal(size=size)
            module.running_var[...] = rng.uniform(0.5, 2, size)
            module.weight.data[...] = rng.uniform(0.5, 1.5, size)
            module.bias.data[...] = rng.normal(size=size)
    return model.to(dtype).eval()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_gives_what_evaluation_gives(name, dtype, rng):
    model = settled(NETWORKS[name](), dtype, rng)
    fast = nn.optimize_for_inference(model)
    for shape in [(1, 20, 12, 12), (2, 20, 30, 26), (8, 20, 6, 6), (1, 20, 12, 12)]:
        x = rng.normal(size=shape).astype(dtype)
        with pyconv.no_grad():
            assert_close(fast(x), model(x), 2e-6)
            if name != "own forward":
                assert_close(fast(np.asfortranarray(x)), fast(x), 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_copies(name, rng):
    """The same bits, and the model as it was."""
    model = settled(NETWORKS[name](), np.float32, rng)
    x = rng.normal(size=(2, 20, 12, 12)).astype(np.float32)
    copied, shared = nn.optimize_for_inference(model), nn.optimize_for_inference(model, copy=False)
    np.testing.assert_array_equal(shared(x), copied(x))
    before = [parameter.data.copy() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = np.ones_like(parameter.data)
    shared = nn.optimize_for_inference(model, copy=False)
    assert all(parameter.grad is not None for parameter in model.parameters())
    np.testing.assert_array_equal(shared(x), copied(x))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(shared))(x), copied(x))
    for parameter, data in zip(model.parameters(), before):
        np.testing.assert_array_equal(parameter.data, data)


def test_what_is_not_copied():
    conv, linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
    for copied in (True, False):
        network = nn.optimize_for_inference(nn.Sequential(conv, nn.Flatten(), linear), copy=copied)._network
        assert np.shares_memory(network[0].weight.data, conv.weight.data) != copied
        assert np.shares_memory(network[2].weight.data, linear.weight.data) != copied


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "googlenet", "densenet121", "vgg11_bn", "squeezenet1_1"])
def test_models(name, rng):
    model = settled(models.create(name, num_classes=5), np.float32, rng)
    fast = nn.optimize_for_inference(model)
    x = rng.normal(size=(1, 3, 64, 64)).astype(np.float32)
    with pyconv.no_grad():
        assert_close(fast(x), model(x), 1e-5)


@pytest.mark.parametrize("algorithm", ["auto", "direct", "winograd", "planes"])
def test_prepared_weights_have_the_same_bits(algorithm, isa, dtype, rng):
    """As the same convolution that packs or transforms its weight in each call, at every size."""
    conv = nn.Conv2d(35, 70, 3, padding=1, dtype=dtype)
    prepared = PreparedConv(conv)
    with pyconv.no_grad(), pyconv.options(conv_algorithm=algorithm):
        for shape in [(1, 35, 4, 4), (1, 35, 20, 20), (5, 35, 9, 14), (8, 35, 15, 15), (1, 35, 4, 4), (0, 35, 4, 4)]:
            x = rng.normal(size=shape).astype(dtype)
            np.testing.assert_array_equal(prepared(x), conv(x))
            np.testing.assert_array_equal(prepared(x, True), conv(x, True))


def test_large_weights_have_the_same_bits(rng):
    """Weights beyond L2, on few pixels: once they are laid out, another algorithm may be the fastest one."""
    for conv in (nn.Conv2d(300, 200, 3, padding=1, stride=2), nn.Conv2d(256, 256, 3, padding=1)):
        prepared = PreparedConv(conv)
        for size in (7, 14):
            x = rng.normal(size=(1, conv.in_channels, size, size)).astype(np.float32)
            outputs = []
            for algorithm in ("direct", "winograd", "planes"):
                with pyconv.no_grad(), pyconv.options(conv_algorithm=algorithm):
                    outputs.append(conv(x))
                    np.testing.assert_array_equal(prepared(x), outputs[-1])
            with pyconv.no_grad():
                assert prepared(x).tobytes() in {output.tobytes() for output in outputs}


def test_same_bits_at_any_number_of_threads(threads, rng):
    fast = nn.optimize_for_inference(models.resnet18(num_classes=3))
    x = rng.normal(size=(2, 3, 64, 64)).astype(np.float32)
    outputs = []
    for count in (1, 3):
        threads(count)
        outputs.append(copy.deepcopy(fast)(x))
    np.testing.assert_array_equal(*outputs)


def test_shares_nothing_with_the_model(rng):
    model = settled(nn.Sequential(NETWORKS["residual"](), nn.Conv2d(9, 3, 1), Own()), np.float32, rng)
    fast = nn.optimize_for_inference(model)
    x = rng.normal(size=(1, 20, 8, 8)).astype(np.float32)
    before = fast(x)
    for array in (*model.state_dict().values(), *model.buffers()):
        array[...] = 7
    np.testing.assert_array_equal(fast(x), before)
    assert not model.training and nn.optimize_for_inference(model.train()) is not None and model[1].training


def test_an_image_without_a_batch(rng):
    model = nn.Residual(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)), activation=nn.ReLU())
    x = rng.normal(size=(3, 6, 6)).astype(np.float32)
    assert_close(nn.optimize_for_inference(model)(x), model(x))


def test_keyword_arguments_reach_the_forward(rng):
    model = settled(Reading(), np.float32, rng)
    x = rng.normal(size=(1, 20, 6, 6)).astype(np.float32)
    assert_close(nn.optimize_for_inference(model)(x, scale=2), model(x, scale=2))


def test_what_is_shared_stays_shared(rng):
    conv = nn.Conv2d(4, 4, 3, padding=1)
    fast = nn.optimize_for_inference(nn.Sequential(conv, nn.ReLU(), conv))
    layers = list(fast._network)
    assert layers[0] is layers[2]


def test_leaves_out_what_does_nothing():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout2d(), nn.Sequential(nn.Identity(), nn.ReLU())
    )
    kinds = [type(layer).__name__ for layer in nn.optimize_for_inference(model)._network]
    assert kinds == ["PreparedConv", "ReLU"]


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles(again, rng):
    fast = nn.optimize_for_inference(settled(NETWORKS["winograd"](), np.float32, rng))
    x = rng.normal(size=(1, 20, 12, 12)).astype(np.float32)
    before = fast(x)
    twin = again(fast)
    np.testing.assert_array_equal(twin(x), before)
    np.testing.assert_array_equal(fast(x), before)


def test_pickle_has_the_weights_once(rng):
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))
    fast = nn.optimize_for_inference(model)
    fast(rng.normal(size=(1, 64, 12, 12)).astype(np.float32))
    assert len(pickle.dumps(fast)) < model[0].weight.data.nbytes + 10000


def test_is_for_evaluation_only():
    fast = nn.optimize_for_inference(NETWORKS["direct"]())
    output = fast(np.zeros((1, 20, 8, 8), np.float32))
    calls = [fast.train, fast.double, lambda: fast.backward(output), lambda: fast.load_state_dict({})]
    for call in calls:
        with pytest.raises(RuntimeError, match="InferenceModel: .* for evaluation only"):
            call()
    assert fast.eval() is fast and fast.train(False) is fast and not fast.training
    assert list(fast.parameters()) == [] and fast.state_dict() == {}


def test_arguments():
    with pytest.raises(TypeError, match="optimize_for_inference: model must be a Module; got list"):
        nn.optimize_for_inference([nn.ReLU()])
    model = nn.Sequential(nn.Sequential(nn.ReLU()))
    model[0][0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"optimize_for_inference: no module may have hooks.* got one on 0\.0"):
        nn.optimize_for_inference(model)


def test_shapes_that_do_not_fit():
    fast = nn.optimize_for_inference(nn.Residual(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))))
    with pytest.raises(ValueError, match="Residual: main and shortcut must give the same shape"):
        fast(np.zeros((1, 3, 5, 5), np.float32))
    fast = nn.optimize_for_inference(nn.Sequential(nn.Conv2d(3, 4, 1)))
    with pytest.raises(ValueError, match="conv2d: weight must have"):
        fast(np.zeros((1, 2, 5, 5), np.float32))
    with pytest.raises(TypeError, match="conv2d: weight must have the dtype of input"):
        fast(np.zeros((1, 3, 5, 5)))
