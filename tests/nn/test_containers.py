"""Sequential, Residual, Concat, Composed and Linear: values and every gradient beside PyTorch."""

import copy

import numpy as np
import pytest
import torch

import pyconv
import pyconv.functional as F
from oracle import assert_close, to_torch
from pyconv import nn


class TorchResidual(torch.nn.Module):
    def __init__(self, main, shortcut=None, activation=None):
        super().__init__()
        self.main, self.shortcut, self.activation = main, shortcut, activation

    def forward(self, x):
        y = self.main(x) + (x if self.shortcut is None else self.shortcut(x))
        return y if self.activation is None else self.activation(y)


class TorchConcat(torch.nn.Sequential):
    dim = 1

    def forward(self, x):
        return torch.cat([branch(x) for branch in self], self.dim)


def twin(n, residual, concat):
    """The same nested network from pyconv's classes or from torch's."""
    return n.Sequential(
        n.Linear(6, 6),
        residual(
            n.Sequential(n.Linear(6, 4), n.Linear(4, 5)),
            concat(n.Linear(6, 2), n.Sequential(n.Identity(), n.Linear(6, 3))),
            n.Linear(5, 5),
        ),
        concat(n.Identity(), residual(n.Linear(5, 5)), concat(n.Identity(), n.Linear(5, 1))),
        n.Linear(16, 3),
    )


def pair(dtype):
    """The two networks with the same float weights."""
    torch.manual_seed(0)
    theirs = twin(torch.nn, TorchResidual, TorchConcat).to(getattr(torch, dtype.name))
    ours = twin(nn, nn.Residual, nn.Concat).to(dtype)
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    return ours, theirs


def assert_same_gradients(ours, theirs, rtol=None):
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if expected[name].grad is None:
            assert parameter.grad is None, name
        else:
            assert_close(parameter.grad, expected[name].grad, rtol, err_msg=name)


def test_nested_joins_beside_torch(dtype, rng):
    ours, theirs = pair(dtype)
    x = rng.standard_normal((7, 6)).astype(dtype)
    grad = rng.standard_normal((7, 3)).astype(dtype)
    for _ in range(2):  # gradients accumulate
        tx = to_torch(x, requires_grad=True)
        expected = theirs(tx)
        expected.backward(to_torch(grad))
        assert_close(ours(x), expected)
        assert_close(ours.backward(grad), tx.grad)
    assert_same_gradients(ours, theirs)


@pytest.mark.parametrize("frozen", [(), ("0",), ("0", "1"), ("0", "1.shortcut"), ("0", "1", "2", "3"), ("2", "3")])
def test_frozen_parts_get_no_gradient_and_nothing_else_changes(frozen, dtype, rng):
    ours, theirs = pair(dtype)
    for model in (ours, theirs):
        for name, module in model.named_modules():
            if name in frozen:
                module.requires_grad_(False)
    x = rng.standard_normal((7, 6)).astype(dtype)
    grad = rng.standard_normal((7, 3)).astype(dtype)
    tx = to_torch(x, requires_grad=True)
    theirs(tx).backward(to_torch(grad))
    ours(x)
    assert_close(ours.backward(grad), tx.grad)
    assert_same_gradients(ours, theirs)

    ours.zero_grad()
    ours.needs_input_grad = False
    ours(x)
    assert ours.backward(grad) is None
    assert_same_gradients(ours, theirs)
    for name, module in ours.named_modules():
        assert not module._saved, name
        assert module.needs_input_grad or name == "", name


def test_the_first_trainable_layer_is_asked_for_no_input_gradient(rng, monkeypatch):
    asked = []
    backward = F.linear_backward

    def spy(*arguments, needs):
        asked.append(needs[0])
        return backward(*arguments, needs=needs)

    monkeypatch.setattr(F, "linear_backward", spy)
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    model[0].requires_grad_(False)
    model.needs_input_grad = False
    x = rng.standard_normal((3, 2))
    model.double()(x)
    model.backward(x)
    assert asked == [True, False]


def test_sequential_is_a_list(rng):
    layers = [nn.Linear(2, 2), nn.Identity(), nn.Linear(2, 3)]
    model = nn.Sequential(*layers)
    assert len(model) == 3 and list(model) == layers and model[-1] is layers[2]
    assert list(model[1:]) == layers[1:] and list(model[1:].state_dict()) == ["2.weight", "2.bias"]
    model.append(nn.Linear(3, 1)).extend([nn.Identity()])
    assert len(model) == 5 and model.__repr__().startswith("Sequential(\n  (0): Linear(in_features=2")
    model[0] = nn.Identity()
    assert "0.weight" not in model.state_dict()
    with pytest.raises(IndexError, match="5"):
        model[5]
    with pytest.raises(TypeError, match="1 must be a Module; got int"):
        nn.Sequential(nn.Identity(), 3)
    named = nn.Sequential({"a": nn.Linear(1, 1), "b": nn.Identity()})
    assert list(named.state_dict()) == ["a.weight", "a.bias"] and named.b is named[1]
    assert len(nn.ModuleList([nn.Identity()])) == 1
    x = rng.standard_normal(2)
    empty = nn.Sequential()
    assert empty(x) is x and empty.backward(x) is x
    with pytest.raises(RuntimeError, match="Sequential.backward: call forward first"):
        empty.backward(x)


CHANGES = {
    "slice and append": lambda layers, new: layers[1:].append(new()),
    "append to all": lambda layers, new: layers[:].append(new()),
    "delete": lambda layers, new: layers.__delitem__(1),
    "delete a slice": lambda layers, new: layers.__delitem__(slice(0, 2)),
    "delete and append": lambda layers, new: (layers.__delitem__(-1), layers.append(new())),
    "insert": lambda layers, new: layers.insert(1, new()),
    "insert at the front": lambda layers, new: layers.insert(0, new()),
    "insert at the end": lambda layers, new: layers.insert(3, new()),
    "pop": lambda layers, new: layers.pop(0),
    "extend": lambda layers, new: layers.extend([new(), new()]),
    "+": lambda layers, new: layers + layers[1:],
    "+=": lambda layers, new: layers.__iadd__(layers[:2]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["Sequential", "ModuleList"])
def test_lists_change_as_torchs_do(kind, change):
    """The keys and the layers they belong to, of the list itself and of what the change returned."""
    shapes = []
    for n in (nn, torch.nn):
        widths = iter(range(1, 9))
        new = lambda n=n, widths=widths: n.Linear(1, next(widths))  # noqa: E731
        layers = [new(), new(), new()]
        layers = n.Sequential(*layers) if kind == "Sequential" else n.ModuleList(layers)
        result = CHANGES[change](layers, new)
        results = [layers] + [result] * (type(result).__name__ == kind)
        shapes.append([{key: tuple(array.shape) for key, array in each.state_dict().items()} for each in results])
    ours, theirs = shapes
    if (kind, change) == ("Sequential", "slice and append"):  # torch's replaces its last layer
        assert [list(each) for each in theirs] != [list(each) for each in ours]
        theirs[1] = {f"{i}.{name}": ours[1][f"{i}.{name}"] for i in (1, 2, 3) for name in ("weight", "bias")}
    for mine, other in zip(ours, theirs):
        assert mine == other


def test_lists_keep_names_and_options_and_refuse_what_is_no_layer():
    named = nn.Sequential({"a": nn.Linear(1, 1), "b": nn.Identity()})
    assert [name for name, _ in named[1:].append(nn.ReLU()).named_children()] == ["b", "1"]
    join = nn.Concat(nn.Identity(), nn.Identity(), nn.Identity(), dim=0)
    assert join[:2].dim == (join + [nn.ReLU()]).dim == 0 and len(join[:2]) == 2
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    for call, error, message in [
        (lambda: model["a"], TypeError, "Sequential: index must be an int; got 'a'"),
        (lambda: model[1.0], TypeError, "Sequential: index must be an int; got 1.0"),
        (lambda: model.__delitem__(None), TypeError, "Sequential: index must be an int; got None"),
        (lambda: model.__delitem__(2), IndexError, "Sequential: index must be below 2; got 2"),
        (lambda: model.pop("a"), TypeError, "Sequential: index must be an int; got 'a'"),
        (lambda: model.insert(3, nn.ReLU()), IndexError, "Sequential: index must be below 2; got 3"),
        (lambda: model.insert(0, None), TypeError, "Sequential: 0 must be a Module; got NoneType"),
        (lambda: model.__setitem__(0, None), TypeError, "Sequential: 0 must be a Module; got NoneType"),
        (lambda: model.extend([nn.ReLU(), 3]), TypeError, "Sequential: 3 must be a Module; got int"),
        (lambda: model.extend(3), TypeError, "Sequential: modules must be an iterable of Modules; got int"),
        (lambda: model + 3, TypeError, "unsupported operand"),
    ]:
        with pytest.raises(error, match=message):
            call()
    assert [type(layer) for layer in model] == [nn.Identity, nn.ReLU]
    assert type(model.insert(-2, nn.Tanh())[0]) is nn.Tanh and model.pop() is not model[1]


def test_sequential_converts_images_once(rng):
    formats = []
    model = nn.Sequential(nn.Identity(), nn.Sequential(nn.Identity()))
    model[1][0].register_forward_hook(lambda module, inputs, output: formats.append(inputs[0].strides))
    x = rng.standard_normal((2, 3, 4, 5))
    output = model(x)
    assert formats == [(480, 8, 120, 24)] and np.array_equal(output, x)
    assert model(output) is output


def test_composed_has_its_childrens_keys_and_follows_them(rng):
    class Block(nn.Composed):
        def __init__(self, features, downsample=None):
            super().__init__()
            self.fc1 = nn.Linear(features, 4)
            self.fc2 = nn.Linear(4, features)
            self.downsample = downsample

        def compose(self):
            return nn.Residual(nn.Sequential(self.fc1, self.fc2), self.downsample)

    model = nn.Sequential(Block(3), Block(3, nn.Linear(3, 3)))
    keys = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert list(model[0].state_dict()) == keys
    assert list(model[1].state_dict()) == [*keys, "downsample.weight", "downsample.bias"]
    x = rng.standard_normal((2, 3)).astype(np.float32)
    before = model[0](x)
    clone = copy.deepcopy(model)
    clone[0].fc1.weight.data[:] = 0
    assert np.array_equal(model[0](x), before) and not np.array_equal(clone[0](x), before)
    model[0].fc1 = nn.Linear(3, 4)
    assert not np.array_equal(model[0](x), before)
    model(x)
    assert model.backward(x).shape == x.shape
    model.needs_input_grad = False
    model.zero_grad()
    model(x)
    assert model.backward(x) is None and model[0].fc1.weight.grad is not None


class Branched(nn.Composed):
    """A dropout that compose makes, a child that may be absent, and a list that compose spells out."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.rest = nn.ModuleList([nn.ModuleList([nn.Linear(3, 3)])])

    def compose(self):
        second = [] if getattr(self, "second", None) is None else [self.second]
        return nn.Sequential(self.first, *second, *self.rest[0], nn.Sequential(nn.Dropout(0.5)))


def test_layers_that_compose_made_follow_the_mode(rng):
    model = nn.Sequential(Branched())
    x = rng.standard_normal((5, 3)).astype(np.float32)
    for _ in range(2):  # before and after the first forward
        for again in (model, copy.deepcopy(model)):
            assert np.array_equal(again.eval()(x), again(x))
            assert (again.train()(x) == 0).any()
    model.eval()
    model[0].first = nn.Linear(3, 3)
    assert np.array_equal(model(x), model(x))
    model[0].train()
    assert (model(x) == 0).any()


def test_parameters_that_compose_made_are_refused():
    class Lost(nn.Composed):
        layer = nn.Linear

        def compose(self):
            return self.layer(3, 3) if self.layer is nn.Linear else nn.Sequential(self.layer(3, affine=False))

    for layer in (nn.Linear, nn.BatchNorm1d):
        model = Lost()
        model.__dict__["layer"] = layer
        with pytest.raises(ValueError, match=f"Lost.compose: a layer with parameters .* got a new {layer.__name__}"):
            model(np.zeros((2, 3), np.float32))
    Lost.compose = lambda self: None
    with pytest.raises(TypeError, match="Lost.compose: what it returns must be a Module; got NoneType"):
        Lost()(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("change", [
    lambda model: setattr(model, "second", None),
    lambda model: delattr(model, "second"),
    lambda model: model.rest[0].pop(),
    lambda model: model.rest[0].append(nn.ReLU()),
    lambda model: model.rest.__setitem__(0, nn.ModuleList()),
])  # fmt: skip
def test_composed_follows_children_that_go_or_come(change, rng):
    model = Branched().eval()
    x = rng.standard_normal((5, 3)).astype(np.float32)
    before = model(x)
    change(model)
    assert not np.array_equal(model(x), before)
    assert np.array_equal(model(x), copy.deepcopy(model)(x))
    model.backward(x)


def test_inputs_and_incoming_gradients_are_not_written(rng):
    model, _ = pair(np.dtype(np.float32))
    x, grad = rng.standard_normal((7, 6)).astype("f4"), rng.standard_normal((7, 3)).astype("f4")
    x.flags.writeable = grad.flags.writeable = False
    model(x)
    model.backward(grad)
    both = nn.Residual(nn.Identity(), nn.Identity())
    both(x)
    assert np.array_equal(both.backward(x), 2 * x)


def test_wrong_joins():
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"same shape; got \(2, 4\) and \(2, 3\)"):
        nn.Residual(nn.Linear(3, 4))(x)
    images = np.zeros((2, 3, 5, 5), np.float32)
    for layers in ([nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)], [nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)]):
        block = nn.Residual(nn.Sequential(*layers), None, nn.ReLU())
        for training in (True, False):
            for context in (pyconv.options(fuse=True), pyconv.no_grad()):
                with (
                    context,
                    pytest.raises(ValueError, match=r"Residual: main and shortcut .*; got \(2, .* and \(2, 3"),
                ):
                    block.train(training)(images)
        assert layers[1].num_batches_tracked == 0
    with pytest.raises(ValueError, match="cat: tensors must have shapes that differ in dimension 0 alone"):
        nn.Concat(nn.Identity(), nn.Linear(3, 4), dim=0)(x)
    with pytest.raises(ValueError, match="dim must be"):
        nn.Concat(nn.Identity(), dim=2)(x)
    with pytest.raises(ValueError, match="at least one"):
        nn.Concat()
    with pytest.raises(TypeError, match="main"):
        nn.Residual(None)


# ---- Linear --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (5,), (0,), (2, 3, 4), (2, 0, 3), (70,)])
@pytest.mark.parametrize("features", [(4, 3), (1, 1), (17, 33), (300, 21), (5, 0), (0, 3)])
def test_linear_beside_torch(lead, features, dtype, rng, isa):
    fan_in, fan_out = features
    x = rng.standard_normal((*lead, fan_in)).astype(dtype)
    weight = rng.standard_normal((fan_out, fan_in)).astype(dtype)
    bias = rng.standard_normal(fan_out).astype(dtype)
    grad = rng.standard_normal((*lead, fan_out)).astype(dtype)
    tensors = [to_torch(array, requires_grad=True) for array in (x, weight, bias)]
    expected = torch.nn.functional.linear(*tensors)
    expected.backward(to_torch(grad))
    assert_close(F.linear(x, weight, bias), expected)
    for ours, theirs in zip(F.linear_backward(grad, x, weight), tensors):
        assert_close(ours, theirs.grad)
    assert F.linear_backward(grad, x, weight, needs=(False, True, False))[::2] == (None, None)


def test_linear_of_a_weight_vector_and_in_any_layout(layout, dtype, rng):
    x = layout(rng.standard_normal((3, 4)).astype(dtype))
    weight = rng.standard_normal(4).astype(dtype)
    assert_close(F.linear(x, weight), np.ascontiguousarray(x) @ weight)
    matrix = layout(rng.standard_normal((2, 4)).astype(dtype))
    assert_close(F.linear(x, matrix), np.ascontiguousarray(x) @ np.ascontiguousarray(matrix).T)


def test_linear_rejects_what_does_not_fit():
    x, weight = np.zeros((2, 3)), np.zeros((4, 3))
    with pytest.raises(ValueError, match="linear: input must have 5 features"):
        F.linear(x, np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"bias must have shape \(4,\)"):
        F.linear(x, weight, np.zeros(3))
    with pytest.raises(TypeError, match="weight must have the dtype of input"):
        F.linear(x, weight.astype(np.float32))
    with pytest.raises(TypeError, match="int64"):
        F.linear(np.zeros((2, 3), int), weight)
    with pytest.raises(ValueError, match="grad_output"):
        F.linear_backward(np.zeros((2, 3)), x, weight)
    for arguments in ((-1, 2), (2, -1)):
        with pytest.raises(ValueError, match="features"):
            nn.Linear(*arguments)
    with pytest.raises(TypeError, match="in_features"):
        nn.Linear(1.5, 2)


def test_linear_starts_as_torchs_does():
    pyconv.manual_seed(3)
    layer = nn.Linear(64, 500)
    bound = 1 / 8
    for parameter in layer.parameters():
        assert parameter.dtype == np.float32
        assert 0.98 * bound < np.abs(parameter.data).max() <= bound
        assert abs(parameter.data.std() - bound / 3**0.5) < 0.01
    pyconv.manual_seed(3)
    assert np.array_equal(nn.Linear(64, 500).weight.data, layer.weight.data)
    assert repr(layer) == "Linear(in_features=64, out_features=500, bias=True)"
    assert nn.Linear(2, 2, bias=False).bias is None
