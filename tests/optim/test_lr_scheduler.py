"""Every schedule's sequence of learning rates beside PyTorch's."""

import numpy as np
import pytest
import torch

import pyconv.nn as nn
from pyconv import optim


def sequential(module, optimizer):
    first = module.LinearLR(optimizer, 0.1, total_iters=4)
    second = module.CosineAnnealingLR(optimizer, 10)
    third = module.ExponentialLR(optimizer, 0.8)
    return module.SequentialLR(optimizer, [first, second, third], [4, 12])


def nested(module, optimizer):
    inner = module.SequentialLR(
        optimizer, [module.StepLR(optimizer, 2), module.MultiStepLR(optimizer, [1, 3], 0.3)], [5]
    )
    return module.SequentialLR(optimizer, [inner, module.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))], [9])


def two_at_once(module, optimizer):
    schedules = [module.StepLR(optimizer, 3, 0.5), module.ExponentialLR(optimizer, 0.9)]

    class Both:
        def step(self):
            for schedule in schedules:
                schedule.step()

        get_last_lr = schedules[1].get_last_lr

    return Both()


CASES = {
    "StepLR": lambda m, o: m.StepLR(o, 3),
    "StepLR gamma": lambda m, o: m.StepLR(o, step_size=2, gamma=0.7),
    "MultiStepLR": lambda m, o: m.MultiStepLR(o, [2, 5, 5, 9], 0.3),
    "ExponentialLR": lambda m, o: m.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda m, o: m.CosineAnnealingLR(o, 6, 0.01),
    "CosineAnnealingLR once": lambda m, o: m.CosineAnnealingLR(o, 30),
    "LinearLR": lambda m, o: m.LinearLR(o),
    "LinearLR down": lambda m, o: m.LinearLR(o, 1.0, 0.2, total_iters=8),
    "LambdaLR": lambda m, o: m.LambdaLR(o, lambda epoch: 0.95**epoch),
    "LambdaLR list": lambda m, o: m.LambdaLR(o, [lambda epoch: epoch, lambda epoch: 1.0]),
    "OneCycleLR": lambda m, o: m.OneCycleLR(o, 0.4, total_steps=30),
    "OneCycleLR three": lambda m, o: m.OneCycleLR(
        o, [0.4, 0.2], epochs=6, steps_per_epoch=5, three_phase=True, anneal_strategy="linear", pct_start=0.4
    ),
    "OneCycleLR plain": lambda m, o: m.OneCycleLR(o, 0.4, 30, cycle_momentum=False, div_factor=5, final_div_factor=9),
    "SequentialLR": sequential,
    "SequentialLR nested": nested,
    "two at once": two_at_once,
}


def optimizers(name="SGD", **options):
    for module, parameter in ((optim, nn.Parameter), (torch.optim, torch.nn.Parameter)):
        first, second = (np.zeros(1), np.zeros(2)) if module is optim else (torch.zeros(1), torch.zeros(2))
        groups = [{"params": [parameter(first)]}, {"params": [parameter(second)], "lr": 0.02}]
        yield getattr(module, name)(groups, lr=0.1, **options)


def rates(optimizer):
    names = ("lr", "momentum", "betas", "initial_lr", "max_lr", "min_lr")
    return [[np.asarray(group[name]).tolist() for name in names if name in group] for group in optimizer.param_groups]


def flat(values):
    return np.array([x for v in values for x in (flat(v) if isinstance(v, list) else [v])])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("case", CASES)
def test_rates_are_torchs(case, optimizer):
    mine, other = optimizers(optimizer, **({"momentum": 0.9} if optimizer == "SGD" else {}))
    ours, theirs = CASES[case](optim.lr_scheduler, mine), CASES[case](torch.optim.lr_scheduler, other)
    for _ in range(30):
        np.testing.assert_allclose(flat(rates(mine)), flat(rates(other)), rtol=1e-13, atol=1e-17)
        np.testing.assert_allclose(ours.get_last_lr(), theirs.get_last_lr(), rtol=1e-13, atol=1e-17)
        ours.step()
        theirs.step()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [case for case in CASES if case != "two at once"])
def test_state_dict_goes_on_where_it_stopped(case):
    mine, _ = optimizers(momentum=0.9)
    schedule = CASES[case](optim.lr_scheduler, mine)
    for _ in range(7):
        schedule.step()
    other, _ = optimizers(momentum=0.9)
    resumed = CASES[case](optim.lr_scheduler, other)
    other.load_state_dict(mine.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for _ in range(15):
        assert rates(mine) == rates(other)
        schedule.step()
        resumed.step()


@pytest.mark.filterwarnings("ignore")
def test_last_epoch_goes_on():
    mine, other = optimizers()
    for optimizer in (mine, other):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    for name, arguments in [("StepLR", (3,)), ("ExponentialLR", (0.9,)), ("CosineAnnealingLR", (9,))]:
        ours = getattr(optim.lr_scheduler, name)(mine, *arguments, last_epoch=4)
        theirs = getattr(torch.optim.lr_scheduler, name)(other, *arguments, last_epoch=4)
        for _ in range(5):
            np.testing.assert_allclose(ours.get_last_lr(), theirs.get_last_lr(), rtol=1e-13)
            ours.step()
            theirs.step()


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1},
        {"mode": "max", "patience": 0, "cooldown": 2},
        {"threshold": 0.2, "threshold_mode": "abs", "patience": 2},
        {"mode": "max", "threshold_mode": "abs", "threshold": 0.3, "patience": 1, "min_lr": [0.03, 0.001]},
        {"factor": 0.5, "patience": 0, "min_lr": 0.01, "eps": 0.01},
    ],
)
def test_reduce_on_plateau(options, rng):
    mine, other = optimizers()
    ours = optim.lr_scheduler.ReduceLROnPlateau(mine, **options)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(other, **options)
    resumed = None
    for step, measure in enumerate([*rng.standard_normal(20), np.nan, 1.0, 1.0, 1.0]):
        ours.step(measure)
        theirs.step(measure)
        assert rates(mine) == rates(other)
        assert ours.get_last_lr() == theirs.get_last_lr()
        if step == 9:
            resumed = optim.lr_scheduler.ReduceLROnPlateau(mine)
            resumed.load_state_dict(ours.state_dict())
            ours = resumed


def test_errors():
    mine, _ = optimizers()
    lr = optim.lr_scheduler
    for make, error, message in [
        (lambda: lr.StepLR(None, 1), TypeError, "StepLR: optimizer must be an Optimizer; got NoneType"),
        (lambda: lr.StepLR(mine, 0), ValueError, "StepLR: step_size must be a positive int; got 0"),
        (lambda: lr.StepLR(mine, 1, last_epoch=3), KeyError, "initial_lr"),
        (lambda: lr.LambdaLR(mine, [abs]), ValueError, "each of 2 groups; got 1"),
        (lambda: lr.StepLR(mine, 3.0), ValueError, "StepLR: step_size must be a positive int; got 3.0"),
        (lambda: lr.StepLR(mine, 3, "a"), TypeError, "StepLR: gamma must be a number; got 'a'"),
        (lambda: lr.LambdaLR(mine, 3), TypeError, "LambdaLR: lr_lambda must be a function .*; got 3"),
        (lambda: lr.LambdaLR(mine, [abs, 3]), TypeError, "LambdaLR: lr_lambda must be a function .*, 3]"),
        (lambda: lr.MultiStepLR(mine, 5), TypeError, "MultiStepLR: milestones must be an iterable of ints; got 5"),
        (lambda: lr.CosineAnnealingLR(mine, "x"), TypeError, "CosineAnnealingLR: T_max must be a number; got 'x'"),
        (lambda: lr.LinearLR(mine, 0), ValueError, "start_factor must be in"),
        (lambda: lr.LinearLR(mine, end_factor=2), ValueError, "end_factor must be in"),
        (lambda: lr.CosineAnnealingLR(mine, 0), ValueError, "T_max must be positive; got 0"),
        (lambda: lr.OneCycleLR(mine, 0.1), ValueError, "total_steps, or epochs"),
        (lambda: lr.OneCycleLR(mine, 0.1, 10, pct_start=2), ValueError, "pct_start must be in"),
        (lambda: lr.OneCycleLR(mine, 0.1, 10, anneal_strategy="x"), ValueError, "anneal_strategy must be"),
        (lambda: lr.OneCycleLR(mine, [0.1], 10), ValueError, "max_lr must have one value"),
        (lambda: lr.SequentialLR(mine, [], []), ValueError, "at least one; got none"),
        (lambda: lr.SequentialLR(mine, [lr.ReduceLROnPlateau(mine)], []), ValueError, "at index 0"),
        (lambda: lr.ReduceLROnPlateau(mine, factor=1), ValueError, "factor must be below 1"),
        (lambda: lr.ReduceLROnPlateau(mine, "mid"), ValueError, "mode must be"),
    ]:
        with pytest.raises(error, match=message):
            make()
    assert type(lr.StepLR(mine, np.int64(3)).step_size) is int
    schedule = lr.OneCycleLR(mine, 0.1, 3, cycle_momentum=False)
    for _ in range(3):
        schedule.step()
    with pytest.raises(ValueError, match="the cycle has 3 steps; got step 4"):
        schedule.step()
