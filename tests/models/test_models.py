"""Each network beside its torch twin: keys, outputs, every gradient, and steps of training."""

import numpy as np
import pytest
import torch

import pyconv
import torch_models
from oracle import assert_close, to_torch
from pyconv import models, nn, optim, random


@pytest.fixture
def unfilled(monkeypatch):
    """Models are built without drawing weights, and so without their memory."""
    monkeypatch.setattr(random, "uniform", lambda bound, shape, dtype: np.zeros(shape, dtype))
    for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "zeros_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **options: tensor)


@pytest.mark.parametrize("name", models.MODELS)
def test_keys_and_shapes_are_torchs(name, unfilled):
    ours = models.create(name, num_classes=7, in_channels=2, image_size=32)
    with torch.device("meta"):
        theirs = torch_models.create(name, 7, 2, 32)
    expected = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert {key: array.shape for key, array in ours.state_dict().items()} == expected
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]


def twins(name, channels, size, dtype, stem=None):
    torch.manual_seed(0)
    theirs = torch_models.create(name, 5, channels, None if stem == "imagenet" else size)
    theirs = theirs.to(getattr(torch, dtype))
    options = {} if stem is None else {"stem": stem}
    ours = models.create(name, num_classes=5, in_channels=channels, image_size=size, **options).to(dtype)
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    for model in (ours, theirs):
        for module in model.modules():
            if type(module).__name__ == "Dropout":
                module.p = 0.0
    return ours, theirs


def compare_step(ours, theirs, shape, dtype, rng, rtol):
    """One training step: logits, loss, the gradient of the input and of every parameter, and the statistics."""
    x = rng.standard_normal(shape).astype(dtype)
    target = rng.integers(0, 5, shape[0])
    tx = to_torch(x, requires_grad=True)
    expected = theirs(tx)
    expected_loss = torch.nn.functional.cross_entropy(expected, torch.tensor(target))
    expected_loss.backward()

    criterion = nn.CrossEntropyLoss()
    logits = ours(x)
    loss = criterion(logits, target)
    assert_close(logits, expected, rtol)
    assert loss == pytest.approx(expected_loss.item(), rel=rtol)
    assert_close(ours.backward(criterion.backward()), tx.grad, rtol)
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    largest = max(float(p.grad.abs().max()) for p in theirs.parameters())
    for name, parameter in theirs.named_parameters():
        if float(parameter.grad.abs().max()) > 1e-6 * largest:  # not a bias whose gradient batch norm cancels
            assert_close(gradients[name], parameter.grad, rtol, err_msg=name)
    for key, value in theirs.state_dict().items():
        if "running" in key or "tracked" in key:
            # the mean of what batch norm centred is rounding alone
            np.testing.assert_allclose(ours.state_dict()[key], value, rtol, rtol, err_msg=key)


CASES = [
    ("lenet5", 1, 28, None),
    ("lenet5", 3, 32, None),
    ("lenet", 1, 28, None),
    ("lenet", 3, 10, None),
    ("digits", 1, 8, None),
    ("vgg_small", 3, 16, None),
    ("resnet18", 3, 16, None),
    ("resnet18", 1, 32, "imagenet"),
    ("resnet34", 3, 8, None),
    ("resnet50", 3, 8, None),
    ("mobilenet_v2", 3, 32, None),
    ("squeezenet1_1", 3, 40, None),
    ("densenet121", 3, 32, None),
    ("googlenet", 3, 48, None),
]


@pytest.mark.parametrize("name, channels, size, stem", CASES)
def test_step_beside_torch_float64(name, channels, size, stem, rng):
    ours, theirs = twins(name, channels, size, "float64", stem)
    compare_step(ours, theirs, (4, channels, size, size), "float64", rng, 1e-8)


@pytest.mark.parametrize("name, channels, size", [("lenet5", 1, 28), ("lenet", 1, 28), ("squeezenet1_1", 3, 40)])
def test_step_beside_torch_float32(name, channels, size, rng):
    ours, theirs = twins(name, channels, size, "float32")
    compare_step(ours, theirs, (8, channels, size, size), "float32", rng, 1e-4)


@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_vgg_with_a_smaller_classifier_beside_torch(name, unfilled, rng):
    ours = models.create(name, num_classes=5)
    ours.classifier = nn.Linear(512 * 49, 5)
    with torch.device("meta"):
        theirs = torch_models.create(name, 5, 3, 32)
    theirs.classifier = torch.nn.Linear(512 * 49, 5, device="meta")
    torch.manual_seed(0)
    theirs = theirs.to_empty(device="cpu").double()
    for module in theirs.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    ours.double().load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    compare_step(ours, theirs, (3, 3, 32, 32), "float64", rng, 1e-8)


@pytest.mark.parametrize(
    "name, dtype, rtol", [("lenet", "float32", 1e-4), ("lenet", "float64", 1e-10), ("vgg_small", "float64", 1e-10)]
)
def test_twenty_steps_of_sgd_beside_torch(name, dtype, rtol, rng):
    size = 12 if name == "lenet" else 8
    ours, theirs = twins(name, 3, size, dtype)
    options = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
    our_sgd = optim.SGD(ours.parameters(), **options)
    their_sgd = torch.optim.SGD(theirs.parameters(), **options)
    criterion = nn.CrossEntropyLoss()
    ours.needs_input_grad = False
    for _ in range(20):
        x = rng.standard_normal((16, 3, size, size)).astype(dtype)
        target = rng.integers(0, 5, 16)
        loss = criterion(ours(x), target)
        our_sgd.zero_grad()
        assert ours.backward(criterion.backward()) is None
        our_sgd.step()
        expected = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(target))
        their_sgd.zero_grad()
        expected.backward()
        their_sgd.step()
        assert loss == pytest.approx(expected.item(), rel=rtol)
    state = theirs.state_dict()
    for key, array in ours.state_dict().items():
        assert_close(array, state[key], 10 * rtol, err_msg=key)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "googlenet"])
def test_starting_weights_train_nothing_into_nan_and_depend_on_the_seed_alone(name, rng):
    pyconv.manual_seed(1)
    model = models.create(name, num_classes=3, image_size=32)
    pyconv.manual_seed(1)
    again = models.create(name, num_classes=3, image_size=32)
    for key, array in model.state_dict().items():
        assert np.array_equal(array, again.state_dict()[key]), key
    with pyconv.no_grad():
        output = model.eval()(rng.standard_normal((2, 3, 32, 32)).astype(np.float32))
    assert output.shape == (2, 3) and np.isfinite(output).all() and output.std() > 0


def test_first_layer_computes_no_input_gradient_in_training(rng, monkeypatch):
    asked = []
    backward = nn.conv._convolve_backward

    def spy(*arguments):
        asked.append(arguments[7][0])  # needs
        return backward(*arguments)

    monkeypatch.setattr(nn.conv, "_convolve_backward", spy)
    model = models.resnet18(num_classes=3, image_size=8)
    model.needs_input_grad = False
    output = model(rng.standard_normal((2, 3, 8, 8)).astype(np.float32))
    assert model.backward(np.ones_like(output)) is None
    assert asked.count(False) == 1 and not asked[-1]


def test_images_stay_channels_last_until_flatten(rng):
    formats = {}
    model = models.create("densenet121", num_classes=3)
    for name, module in model.named_modules():
        if not any(True for _ in module.children()):
            module.register_forward_hook(lambda m, inputs, output, name=name: formats.update({name: inputs[0].strides}))
    model(rng.standard_normal((2, 3, 32, 32)).astype(np.float32))
    assert all(strides[1] == 4 for strides in formats.values() if len(strides) == 4), formats


@pytest.mark.parametrize(
    "name, options, error, text",
    [
        ("resnet-99", {}, ValueError, "name must be one of digits, lenet5.*got 'resnet-99'"),
        ("lenet5", {"image_size": 8}, ValueError, "lenet5: image_size must be at least 12; got 8"),
        ("lenet", {"num_classes": 0}, ValueError, "lenet: num_classes must be at least 1; got 0"),
        ("resnet18", {"stem": "small"}, ValueError, "resnet18: stem must be 'imagenet' or 'cifar'; got 'small'"),
        ("googlenet", {"in_channels": 2.5}, TypeError, "googlenet: in_channels must be an int; got 2.5"),
        ("lenet5", {"image_size": 0}, ValueError, "lenet5: image_size must be at least 1; got 0"),
        ("resnet18", {"image_size": -3}, ValueError, "resnet18: image_size must be at least 1; got -3"),
        ("densenet121", {"image_size": 2.5}, TypeError, "densenet121: image_size must be an int or a pair; got 2.5"),
        ("resnet18", {"width_mult": "a"}, TypeError, "resnet18 takes num_classes, .*image_size; got width_mult"),
        ("mobilenet_v2", {"width_mult": "a"}, TypeError, "mobilenet_v2: width_mult must be a number; got str"),
        ("vgg_small", {"image_size": "big"}, TypeError, "vgg_small: image_size must be an int or a pair; got 'big'"),
    ],
)
def test_wrong_arguments(name, options, error, text):
    with pytest.raises(error, match=text):
        models.create(name, **options)


def test_a_resnet_by_itself_checks_the_size_too():
    with pytest.raises(ValueError, match="resnet34: image_size must be at least 1; got 0"):
        models.resnet34(image_size=0)
