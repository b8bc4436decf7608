"""Every optimiser, in all its options, beside PyTorch's over 20 steps."""

import copy
import pickle
import weakref

import numpy as np
import pytest
import torch

import pyconv.nn as nn
from pyconv import optim

SHAPES = [(4, 3, 5, 5), (7,), (3, 70000), (2, 6, 1, 1), (), (0, 3)]
SGD_OPTIONS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.5},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 0.5, "dampening": 0.1, "weight_decay": 0.01, "maximize": True},
    {"weight_decay": 0.1, "maximize": True},
]
ADAM_OPTIONS = [
    {},
    {"betas": (0.8, 0.99), "eps": 1e-3},
    {"weight_decay": 0.1, "amsgrad": True},
    {"weight_decay": 0.1, "maximize": True},
]
CASES = [("SGD", options) for options in SGD_OPTIONS]
CASES += [(name, options) for name in ("Adam", "AdamW") for options in ADAM_OPTIONS]


def make(rng, dtype, shapes=SHAPES):
    """Parameters of pyconv, the second half of which is channels-last or strided, and of torch."""
    arrays = [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]
    twins = [torch.nn.Parameter(torch.tensor(array)) for array in arrays]
    return [nn.Parameter(array.copy()) for array in arrays], twins


def give_gradients(rng, ours, theirs):
    for mine, other in zip(ours, theirs):
        grad = np.asarray(rng.standard_normal(mine.shape), mine.dtype)
        mine.grad, other.grad = grad, torch.tensor(grad)


def assert_same(ours, theirs, dtype):
    rtol = 2e-5 if dtype == np.float32 else 1e-12
    for mine, other in zip(ours, theirs):
        np.testing.assert_allclose(mine.data, other.detach().numpy(), rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_twenty_steps_beside_torch(name, options, dtype, isa, rng):
    ours, theirs = make(rng, dtype)
    mine = getattr(optim, name)(ours, lr=0.05, **options)
    other = getattr(torch.optim, name)(theirs, lr=0.05, **options)
    for step in range(20):
        give_gradients(rng, ours, theirs)
        if step % 4 == 1:  # a parameter without a gradient is passed over, momentum and step count included
            ours[1].grad = theirs[1].grad = None
        mine.step()
        other.step()
    assert_same(ours, theirs, dtype)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_layouts_of_parameter_and_gradient_may_differ(name, dtype, rng):
    def channels_last(array):
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    def strided(array):
        return np.repeat(array, 2, axis=-1)[..., ::2]

    ours, theirs = make(rng, dtype, [(4, 3, 5, 5)] * 5)
    ours[1].data = channels_last(ours[1].data)
    ours[2].data = strided(ours[2].data)
    ours[3].data = ours[3].data[::-1]
    theirs[3].data = theirs[3].data.flip(0)
    arrays = [parameter.data for parameter in ours]
    options = {"momentum": 0.9} if name == "SGD" else {}
    mine, other = (getattr(module, name)(p, lr=0.1, **options) for module, p in ((optim, ours), (torch.optim, theirs)))
    for step in range(4):
        give_gradients(rng, ours, theirs)
        ours[4].grad = channels_last(ours[4].grad)
        if step > 1:
            ours[1].grad = channels_last(ours[1].grad)
        mine.step()
        other.step()
    assert_same(ours, theirs, dtype)
    assert all(parameter.data is array for parameter, array in zip(ours, arrays))  # updated in place


def test_what_changes_between_steps_is_seen(rng):
    """New arrays, state, options and gradients that come and go, after steps that were alike."""
    ours, theirs = make(rng, np.float64, SHAPES[:3])
    mine, other = optim.SGD(ours, 0.1, momentum=0.5, dampening=0.2), torch.optim.SGD(theirs, 0.1, 0.5, 0.2)

    def replace_data():
        for parameter in ours:
            parameter.data = np.array(parameter.data)
        ours[0].data = np.asfortranarray(ours[0].data)

    def forget_momentum():
        mine.state.clear()
        other.state.clear()

    def replace_buffer():
        mine.state[ours[1]]["momentum_buffer"] = np.ones(7)
        other.state[theirs[1]]["momentum_buffer"] = torch.ones(7, dtype=torch.float64)

    def drop_a_gradient():
        ours[2].grad = theirs[2].grad = None

    def change_options():
        for optimizer in (mine, other):
            optimizer.param_groups[0].update(momentum=0.9, dampening=0, nesterov=True, lr=0.3)

    def stop_momentum():
        for optimizer in (mine, other):
            optimizer.param_groups[0].update(momentum=0, nesterov=False)

    for change in (replace_data, forget_momentum, replace_buffer, drop_a_gradient, change_options, stop_momentum):
        for turn in range(3):
            give_gradients(rng, ours, theirs)
            if turn == 1:
                change()
            mine.step()
            other.step()
        assert_same(ours, theirs, np.float64)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copy_and_pickle(again, rng):
    ours, theirs = make(rng, np.float64, SHAPES[:2])
    optimizer = optim.Adam(ours, 0.1)
    give_gradients(rng, ours, theirs)
    optimizer.step()
    copies, twin = again((ours, optimizer))
    twin.step()
    optimizer.step()
    for parameter, other in zip(ours, copies):
        np.testing.assert_array_equal(parameter.data, other.data)


def test_gradients_are_not_kept(rng):
    ours, theirs = make(rng, np.float32, SHAPES[:2])
    optimizer = optim.SGD(ours, 0.1)
    for _ in range(2):
        give_gradients(rng, ours, theirs)
        kept = weakref.ref(ours[0].grad)
        optimizer.step()
        optimizer.zero_grad()
        assert kept() is None


def test_groups_and_mixed_dtypes(rng):
    ours, theirs = zip(*(make(rng, dtype, [(3, 2), (5,)]) for dtype in (np.float32, np.float64)))
    groups = [[{"params": [p[0][0], p[1][0]]}, {"params": p[0][1], "lr": 0.5}] for p in (ours, theirs)]
    mine, other = optim.SGD(groups[0], 0.1, momentum=0.5), torch.optim.SGD(groups[1], 0.1, momentum=0.5)
    mine.add_param_group({"params": [ours[1][1]], "momentum": 0})
    other.add_param_group({"params": [theirs[1][1]], "momentum": 0})
    for _ in range(3):
        for i in range(2):
            give_gradients(rng, ours[i], theirs[i])
        mine.param_groups[0]["lr"] = other.param_groups[0]["lr"] = 0.3
        mine.step()
        other.step()
    for i, dtype in enumerate((np.float32, np.float64)):
        assert_same(ours[i], theirs[i], dtype)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_state_dict_goes_on_where_it_stopped(name, options, rng):
    ours, theirs = make(rng, np.float64)
    optimizer = getattr(optim, name)(ours, lr=0.05, **options)
    for _ in range(3):
        give_gradients(rng, ours, theirs)
        optimizer.step()
    copies = [nn.Parameter(parameter.data.copy()) for parameter in ours]
    resumed = getattr(optim, name)(copies, lr=1.0)
    state = optimizer.state_dict()
    resumed.load_state_dict(state)
    for _ in range(2):
        give_gradients(rng, ours, theirs)
        for twin, parameter in zip(copies, ours):
            twin.grad = parameter.grad
        optimizer.step()
        resumed.step()
    for twin, parameter in zip(copies, ours):
        np.testing.assert_array_equal(twin.data, parameter.data)


def test_state_dict_of_torch_loads(rng):
    ours, theirs = make(rng, np.float32, [(3, 2), (4,), ()])
    mine, other = optim.Adam(ours, 0.1), torch.optim.Adam(theirs, 0.1)
    give_gradients(rng, ours, theirs)
    other.step()
    state = other.state_dict()
    arrays = {i: {k: v.numpy() for k, v in entry.items()} for i, entry in state["state"].items()}
    mine.load_state_dict({"state": arrays, "param_groups": state["param_groups"]})
    for parameter, twin in zip(ours, theirs):
        parameter.data[...] = twin.detach().numpy()
    mine.step()
    other.step()
    assert_same(ours, theirs, np.float32)


def test_zero_grad_and_closure(rng):
    ours, theirs = make(rng, np.float32, [(3, 2)])
    optimizer = optim.SGD(ours, 0.1)
    give_gradients(rng, ours, theirs)
    grad = ours[0].grad
    optimizer.zero_grad(set_to_none=False)
    assert ours[0].grad is grad and not grad.any()
    optimizer.zero_grad()
    assert ours[0].grad is None
    assert optimizer.step(lambda: 3.5) == 3.5
    assert "lr: 0.1" in repr(optimizer)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_threads_do_not_change_a_bit(name, dtype, threads, rng):
    results = []
    for count in (1, 2):
        threads(count)
        ours, theirs = make(np.random.default_rng(1), dtype)
        optimizer = getattr(optim, name)(ours, lr=0.1)
        give_gradients(np.random.default_rng(2), ours, theirs)
        optimizer.step()
        optimizer.step()
        results.append([parameter.data.tobytes() for parameter in ours])
        results[-1].append(optim.clip_grad_norm_(ours, 1.0))
    assert results[0] == results[1]


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, 0.5, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_clip_grad_norm(norm_type, max_norm, dtype, isa, rng):
    ours, theirs = make(rng, dtype, SHAPES[: 5 if norm_type == float("inf") else 6])  # torch: no inf-norm of ()
    give_gradients(rng, ours, theirs)
    ours[0].grad = np.ascontiguousarray(ours[0].grad.T).T
    mine = nn.utils.clip_grad_norm_(ours, max_norm, norm_type)
    other = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    np.testing.assert_allclose(mine, other.item(), rtol=1e-4 if dtype == np.float32 else 1e-12)
    for parameter, twin in zip(ours, theirs):
        np.testing.assert_allclose(parameter.grad, twin.grad.numpy(), rtol=1e-4 if dtype == np.float32 else 1e-12)


def test_clip_grad_norm_of_nan_and_nothing(rng):
    ours, _ = make(rng, np.float32, [(3,)])
    assert nn.utils.clip_grad_norm_(ours, 1.0) == 0
    ours[0].grad = np.array([1, np.nan, 2], np.float32)
    with pytest.raises(ValueError, match="must be finite; got nan"):
        nn.utils.clip_grad_norm_(ours[0], 1.0, error_if_nonfinite=True)
    assert np.isnan(nn.utils.clip_grad_norm_(ours, 1.0))
    assert np.isnan(ours[0].grad).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, 0.5, -1.0, 0.0, float("inf"), "inf", float("-inf")])
@pytest.mark.parametrize("values", [[np.inf, 1.0], [1e300, 1e300], [-np.inf, np.nan], [0.0, 0.0]], ids=str)
def test_clip_grad_norm_of_infinite_gradients_is_silent(norm_type, values):
    mine, other = nn.Parameter(np.zeros(2)), torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    mine.grad, other.grad = np.array(values), torch.tensor(values, dtype=torch.float64)
    norm = nn.utils.clip_grad_norm_(mine, 1.0, norm_type)
    np.testing.assert_allclose(norm, torch.nn.utils.clip_grad_norm_(other, 1.0, norm_type).item())
    np.testing.assert_allclose(mine.grad, other.grad.numpy())


def test_clip_grad_value(dtype, rng):
    ours, theirs = make(rng, dtype)
    give_gradients(rng, ours, theirs)
    nn.utils.clip_grad_value_(ours, 0.25)
    torch.nn.utils.clip_grad_value_(theirs, 0.25)
    for parameter, twin in zip(ours, theirs):
        np.testing.assert_array_equal(parameter.grad, twin.grad.numpy())


@pytest.mark.parametrize(
    ("make_optimizer", "error", "message"),
    [
        (lambda p: optim.SGD([]), ValueError, "SGD: params must hold at least one Parameter"),
        (lambda p: optim.SGD(p), TypeError, "SGD: params must be an iterable .* got one Parameter"),
        (lambda p: optim.SGD([p.data]), TypeError, "params must hold Parameters; got ndarray"),
        (lambda p: optim.SGD([p, p]), ValueError, "each Parameter once"),
        (lambda p: optim.SGD([{"params": p}, {"params": p}]), ValueError, "each Parameter once"),
        (lambda p: optim.SGD([p], lr=-1), ValueError, "SGD: lr must be at least 0; got -1"),
        (lambda p: optim.SGD([p], lr=float("nan")), ValueError, "SGD: lr must be at least 0; got nan"),
        (lambda p: optim.SGD([p], momentum=-1), ValueError, "SGD: momentum must be at least 0; got -1"),
        (
            lambda p: optim.SGD([{"params": p, "weight_decay": -2}]),
            ValueError,
            "weight_decay must be .* got -2",
        ),
        (lambda p: optim.SGD([p], lr="a"), TypeError, "SGD: lr must be a number; got 'a'"),
        (lambda p: optim.SGD([p], lr=None), TypeError, "SGD: lr must be a number; got None"),
        (lambda p: optim.SGD([p], lr=np.ones(2)), TypeError, r"SGD: lr must be a number; got array\(\[1., 1.\]\)"),
        (lambda p: optim.SGD([p], dampening="a"), TypeError, "SGD: dampening must be a number; got 'a'"),
        (lambda p: optim.SGD([{"lr": 1}]), ValueError, r"SGD: param_group must have 'params'; got the keys \['lr'\]"),
        (lambda p: optim.Adam([p], betas=0.9), TypeError, r"Adam: betas must be two numbers in \[0, 1\); got 0.9"),
        (lambda p: optim.Adam([p], betas=("a", 0)), TypeError, "Adam: each of betas must be a number; got 'a'"),
        (lambda p: optim.clip_grad_norm_(p, "a"), TypeError, "clip_grad_norm_: max_norm must be a number; got 'a'"),
        (lambda p: optim.clip_grad_norm_(p, 1, "a"), TypeError, "clip_grad_norm_: norm_type must be a number; got 'a'"),
        (lambda p: optim.clip_grad_norm_([p.data], 1), TypeError, "parameters must be Parameters; got ndarray"),
        (lambda p: optim.clip_grad_value_([p], None), TypeError, "clip_value must be a number; got None"),
        (lambda p: optim.SGD([p], nesterov=True), ValueError, "nesterov needs momentum above 0"),
        (lambda p: optim.Adam([p], betas=(0.9, 1)), ValueError, r"Adam: betas must .* got \(0.9, 1\)"),
        (lambda p: optim.AdamW([p], eps=-1), ValueError, "AdamW: eps must be at least 0; got -1"),
    ],
)
def test_errors(make_optimizer, error, message):
    with pytest.raises(error, match=message):
        make_optimizer(nn.Parameter(np.zeros(3)))


def test_errors_of_step_and_load():
    parameter = nn.Parameter(np.zeros(3))
    optimizer = optim.SGD([parameter], momentum=0.5)
    parameter.grad = np.zeros(4)
    with pytest.raises(ValueError, match=r"shape and dtype of its Parameter, \(3,\) float64; got \(4,\) float64"):
        optimizer.step()
    state = {"state": {0: {"momentum_buffer": np.zeros(4)}}, "param_groups": [{"params": [0]}]}
    with pytest.raises(ValueError, match=r"momentum_buffer of shape \(3,\); got \(4,\)"):
        optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match=r"groups of \[1\] Parameters; got groups of \[2\]"):
        optimizer.load_state_dict({"state": {}, "param_groups": [{"params": [0, 1]}]})
    for wrong, found in (({}, r"the keys \[\]"), (None, "NoneType"), ({"state": {}}, r"the keys \['state'\]")):
        with pytest.raises(ValueError, match=f"SGD: state_dict must be a dict with 'state' .*; got {found}"):
            optimizer.load_state_dict(wrong)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_an_option_changed_to_what_is_no_number_changes_nothing(name):
    parameter = nn.Parameter(np.ones(3))
    parameter.grad = np.ones(3)
    optimizer, twin = getattr(optim, name)([parameter], lr=0.1), nn.Parameter(np.ones(3))
    for wrong in ("a", None):
        optimizer.param_groups[0]["lr"] = wrong
        with pytest.raises(TypeError, match=f"{name}: lr must be a number; got {wrong!r}"):
            optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.1
    twin.grad = np.ones(3)
    optimizer.step()
    getattr(optim, name)([twin], lr=0.1).step()
    np.testing.assert_array_equal(parameter.data, twin.data)


def test_named_parameters():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    groups = [{"params": model[0].named_parameters()}, {"params": model[1].parameters(), "lr": 0.5}]
    for optimizer in (optim.SGD(model.named_parameters()), optim.Adam(groups)):
        held = [param for group in optimizer.param_groups for param in group["params"]]
        assert all(mine is other for mine, other in zip(held, model.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [np.float16, np.int64, ">f4", object])
def test_wrong_dtypes_never_reach_a_kernel(dtype):
    """As the kernels know two dtypes, they would read and write past the end of others."""
    for step in (lambda p: optim.SGD([p], lr=0.1).step(), lambda p: optim.Adam([p]).step(),
                 lambda p: optim.clip_grad_norm_([p], 1.0)):  # fmt: skip
        param = nn.Parameter(np.ones(3))
        param.data = param.grad = np.ones(3, dtype)
        with pytest.raises(TypeError, match="must have dtype float32 or float64"):
            step(param)


@pytest.mark.parametrize("make_optimizer, name", [
    (lambda p: optim.SGD([p], lr=0.1, momentum=0.9), "momentum_buffer"),
    (lambda p: optim.Adam([p], amsgrad=True), "exp_avg"),
])  # fmt: skip
def test_a_state_must_fit_a_parameter_that_has_grown(make_optimizer, name):
    param = nn.Parameter(np.ones((2, 3)))
    param.grad = np.ones((2, 3))
    optimizer = make_optimizer(param)
    optimizer.step()
    param.data, param.grad = np.ones((200, 3)), np.ones((200, 3))
    with pytest.raises(ValueError, match=rf"{name} must have the shape and dtype of its Parameter, \(200, 3\)"):
        optimizer.step()
