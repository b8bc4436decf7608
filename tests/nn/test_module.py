"""Module and Parameter: registration, state, modes, hooks, and what forward saves for backward."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch

import pyconv
from pyconv import nn
from pyconv.nn import Module, Parameter


class Scale(Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.weight = Parameter(np.float32(factor).reshape(1))
        self.register_buffer("calls", np.zeros((), np.int64))
        self.register_buffer("scratch", np.zeros(2, np.float32), persistent=False)
        self.register_parameter("bias", None)

    def forward(self, input):
        self._save(input)
        return input * self.weight.data

    def backward(self, grad_output):
        (input,) = self._take()
        self._accumulate(self.weight, np.vdot(grad_output, input).reshape(1))
        return grad_output * self.weight.data if self.needs_input_grad else None


class Net(Module):
    def __init__(self):
        super().__init__()
        self.first = Scale(2.0)
        self.second = Scale(3.0)
        self.shift = Parameter(np.zeros(2, np.float32))

    def forward(self, input):
        return self.first(self.second(self.first(input)))

    def backward(self, grad_output):
        return self.first.backward(self.second.backward(self.first.backward(grad_output)))


def test_registration_and_walking():
    net = Net()
    assert [name for name, _ in net.named_modules()] == ["", "first", "second"]
    assert [name for name, _ in net.named_children()] == ["first", "second"]
    assert [name for name, _ in net.named_parameters()] == ["shift", "first.weight", "second.weight"]
    assert [name for name, _ in net.named_parameters(recurse=False)] == ["shift"]
    assert [name for name, _ in net.named_buffers()][:2] == ["first.calls", "first.scratch"]
    assert list(net.state_dict()) == ["shift", "first.weight", "first.calls", "second.weight", "second.calls"]
    net.second = net.first
    assert [name for name, _ in net.named_parameters()] == ["shift", "first.weight"]
    assert "second.weight" in net.state_dict()
    del net.second
    assert [name for name, _ in net.named_children()] == ["first"]
    order = []
    assert net.apply(order.append) is net
    assert order == [net.first, net]


def test_repr_is_torchs():
    assert repr(Net()) == "Net(\n  (first): Scale()\n  (second): Scale()\n)"


def test_wrong_assignments():
    net = Net()
    for name in ("first", "shift"):
        with pytest.raises(TypeError, match=name):
            setattr(net, name, 3)
    with pytest.raises(TypeError, match="calls"):
        net.first.calls = "no"
    with pytest.raises(ValueError, match="a.b"):
        net.register_buffer("a.b", np.zeros(1))
    with pytest.raises(ValueError, match="forward"):
        net.register_parameter("forward", Parameter(np.zeros(1)))

    class NoInit(Module):
        def __init__(self):
            self.weight = Parameter(np.zeros(1))

    with pytest.raises(AttributeError, match="super"):
        NoInit()
    with pytest.raises(TypeError, match="int64"):
        Parameter(np.zeros(1, np.int64))
    with pytest.raises(TypeError, match="list"):
        Parameter([1.0])


def test_a_module_used_twice_gets_both_gradients():
    net = Net()
    assert net(np.float32([5.0])) == 60
    assert net.backward(np.float32([1.0])) == 12
    assert net.first.weight.grad == 2 * 2 * 3 * 5
    assert net.second.weight.grad == 4 * 5
    with pytest.raises(RuntimeError, match="Scale.backward: call forward first"):
        net.backward(np.float32([1.0]))


def test_gradients_accumulate_in_place_and_frozen_ones_stay_none():
    net = Net()
    for _ in range(2):
        net(np.float32([5.0]))
        net.backward(np.float32([1.0]))
    assert net.second.weight.grad == 40
    kept = net.second.weight.grad
    net.zero_grad(set_to_none=False)
    assert kept == 0
    net.zero_grad()
    assert net.second.weight.grad is None
    net.requires_grad_(False)
    net(np.float32([5.0]))
    net.backward(np.float32([1.0]))
    assert net.first.weight.grad is None


def test_no_grad_and_repeated_forwards_keep_nothing():
    net = Net()
    with pyconv.no_grad():
        assert not pyconv.is_grad_enabled()
        net(np.float32([5.0]))
    with pytest.raises(RuntimeError, match="call forward first"):
        net.backward(np.float32([1.0]))

    @pyconv.no_grad()
    def run(input, depth=0):
        """Also within itself."""
        return run(input, depth - 1) if depth else (net(input), pyconv.is_grad_enabled())

    assert run(np.float32([5.0]), depth=2) == (60, False) and run.__doc__ == "Also within itself."
    assert pyconv.is_grad_enabled() and not net._saved
    for wrong in (3, lambda: (yield)):
        with pytest.raises(TypeError, match="no_grad: what it decorates must be a function"):
            pyconv.no_grad()(wrong)

    class Kept(np.ndarray):
        """A weakly referable array."""

    references = []
    for _ in range(4):
        array = np.float32([5.0]).view(Kept)
        references.append(weakref.ref(array))
        net(array)
    del array
    gc.collect()
    assert [reference() is None for reference in references] == [True, True, True, False]


def test_state_dict_round_trip_and_errors_that_load_nothing():
    net, other = Net(), Net()
    other.first.weight.data[:] = 7
    other.first.calls += 4
    state = {key: array.copy() for key, array in other.state_dict().items()}
    held = net.first.weight.data
    assert net.load_state_dict(state) == ([], [])
    assert net.first.weight.data is held and held == 7 and net.first.calls == 4
    state["first.calls"] = 5  # a plain number is a 0-d array
    state["shift"] = np.ones(2)  # float64 is converted
    net.load_state_dict(state)
    assert net.first.calls == 5 and net.shift.dtype == np.float32

    bad = {
        "first.weight": np.float32([9.0]),
        "second.weight": np.zeros((2, 2)),
        "extra": np.zeros(1),
        "shift": "x",
    }
    with pytest.raises(RuntimeError) as error:
        net.load_state_dict(bad)
    for part in (
        "second.weight must be (1,); got (2, 2)",
        "second.calls",
        "unexpected keys: extra",
        "dtype of shift",
    ):
        assert part in str(error.value)
    assert held == 7
    with pytest.raises(ValueError, match="second.weight"):
        net.load_state_dict(bad, strict=False)
    assert held == 7
    missing, unexpected = net.load_state_dict({"first.weight": [9.0], "extra": 0}, strict=False)
    assert held == 9 and unexpected == ["extra"] and "shift" in missing


def test_what_cannot_be_loaded_is_named():
    net = Net()
    with pytest.raises(TypeError, match="state must be a mapping of str to array; got NoneType"):
        net.load_state_dict(None)
    state = net.state_dict() | {"shift": [[1], [1, 2]], "first.weight": torch.ones(1, requires_grad=True)}
    with pytest.raises(
        ValueError, match="first.weight must be an array; got Tensor .*; shift must be an array; got list"
    ):
        net.load_state_dict(state)


@pytest.mark.parametrize("strict", [True, False])
def test_a_norms_count_may_be_missing_as_in_torch(strict):
    ours = nn.Sequential(nn.BatchNorm2d(2), nn.InstanceNorm2d(2, track_running_stats=True))
    theirs = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.InstanceNorm2d(2, track_running_stats=True))
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype(np.float32)
    ours(x)
    theirs(torch.tensor(x))
    state = {key: np.full_like(array, 2) for key, array in ours.state_dict().items() if "num_batches" not in key}
    assert ours.load_state_dict(state, strict) == ([], [])
    theirs.load_state_dict({key: torch.tensor(array) for key, array in state.items()}, strict)
    for key, value in theirs.state_dict().items():
        assert np.array_equal(ours.state_dict()[key], value.numpy()), key
    del state["0.running_mean"]
    with pytest.raises(ValueError, match="missing keys: 0.running_mean$"):
        ours.load_state_dict(state)


def test_the_keys_of_a_state_dict_may_have_a_prefix():
    assert list(Net().first.state_dict(prefix="net.")) == ["net.weight", "net.calls"]


def test_what_is_at_a_path():
    net = Net()
    assert net.get_submodule("") is net and net.get_submodule("second") is net.second
    assert net.get_parameter("first.weight") is net.first.weight and net.get_parameter("shift") is net.shift
    wrong = [(net.get_submodule, target) for target in ("third", "first.weight", "first.", "shift.data")]
    wrong += [(net.get_parameter, target) for target in ("first", "first.forward", "first.bias", "")]
    for call, target in wrong:
        with pytest.raises(AttributeError, match=f"target must be the path of a .*; got '{target}'"):
            call(target)


def test_modes_and_dtype():
    net = Net()
    assert net.training and net.eval() is net
    assert not net.first.training
    assert net.train().second.training
    with pytest.raises(ValueError, match="mode"):
        net.train(1)
    net.double()
    assert {array.dtype.name for array in net.state_dict().values()} == {"float64", "int64"}
    assert net.first.scratch.dtype == np.float64
    for dtype in (np.int32, None, "abc"):
        with pytest.raises(TypeError, match=f"to: dtype must be float32 or float64; got {dtype!r}"):
            net.to(dtype)
    assert net.to("float32").shift.dtype == np.float32


def test_hooks():
    net = Net()
    seen = []
    handle = net.second.register_forward_hook(lambda module, inputs, output: seen.append((module, output.copy())))
    doubled = net.register_forward_pre_hook(lambda module, inputs: inputs[0] * 2)
    assert net(np.float32([1.0])) == 24
    assert seen == [(net.second, 12)]
    handle.remove()
    doubled.remove()
    doubled.remove()
    assert net(np.float32([1.0])) == 12 and len(seen) == 1
    net.register_forward_hook(lambda module, inputs, output: output + 1)
    assert net(np.float32([1.0])) == 13


def test_hooks_within_a_block():
    net, seen = Net(), []
    with net.register_forward_hook(lambda *_: seen.append(1)), net.register_forward_pre_hook(lambda *_: seen.append(2)):
        net(np.float32([1.0]))
    net(np.float32([1.0]))
    assert seen == [2, 1]


def test_calls_with_keywords():
    class Masked(Scale):
        def forward(self, input, mask=None, *, shift=0):
            return super().forward(input if mask is None else input * mask) + shift

    layer = Masked(2.0)
    seen = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    assert layer(np.float32([3.0]), mask=np.float32(2), shift=1) == 13 and layer(input=np.float32([3.0])) == 6
    assert seen == [(3,), ()]
    assert nn.Linear(2, 3)(input=np.ones((1, 2), np.float32)).shape == (1, 3)
    with pytest.raises(TypeError, match="mesk"):
        layer(np.float32([3.0]), mesk=1)


def test_a_shallow_copy_has_its_own_members():
    net = Net()
    net.register_forward_hook(lambda *_: None)
    other = copy.copy(net)
    assert other.first is net.first
    del other.second
    other.third = Scale()
    other.register_forward_hook(lambda *_: None)
    assert [name for name, _ in net.named_children()] == ["first", "second"] and len(net._forward_hooks) == 1
    assert [name for name, _ in other.named_children()] == ["first", "third"]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_independent(clone):
    net = Net()
    other = clone(net)
    other.first.weight.data[:] = 8
    assert net.first.weight.data == 2
    other(np.float32([1.0]))
    assert other.backward(np.float32([1.0])) == 8 * 8 * 3
