"""Learning-rate schedules, with the names, arguments and numbers of ``torch.optim.lr_scheduler``.

A schedule sets the learning rates of an optimiser's groups when it is made and at each ``step()``. As in
PyTorch most derive the new rate from the current one, so that several schedules on one optimiser compose,
and a rate changed by hand stays changed.
"""

import math
from bisect import bisect_right

from pyconv.optim.optimizer import Optimizer


class LRScheduler:
    """The base of the schedules.

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rates to set.
    last_epoch : int
        -1 to begin; to go on, the epoch reached (the groups must then have their ``"initial_lr"``).

    Attributes
    ----------
    base_lrs : list of float
        Each group's initial learning rate.
    last_epoch : int
        The number of steps taken.
    """

    def __init__(self, optimizer, last_epoch=-1):
        self._check_optimizer(optimizer)
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(f"{self._name}: with last_epoch >= 0, group {i} must have an 'initial_lr'; it has none")
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._begin()

    @property
    def _name(self):
        return type(self).__name__

    def _check_optimizer(self, optimizer):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{self._name}: optimizer must be an Optimizer; got {type(optimizer).__name__}")

    def _begin(self):
        """Set the first rates: a step whose rates are the initial ones, for most schedules."""
        self.last_epoch += 1
        self._set(self._first())

    def _undo(self):
        """Take back the step of the constructor; SequentialLR then begins anew."""
        self.last_epoch -= 1

    def _rates(self):
        return [group["lr"] for group in self.optimizer.param_groups]

    def _set(self, rates):
        for group, rate in zip(self.optimizer.param_groups, rates):
            group["lr"] = rate
        self._last_lr = self._rates()

    def _scaled(self, factor):
        return [rate * factor for rate in self._rates()]

    def _first(self):
        """The rates when the schedule is made."""
        return self._rates()

    def get_lr(self):
        """The rates of epoch `last_epoch`, given those of the epoch before."""
        raise NotImplementedError

    def _restarted(self):
        """The rates of epoch `last_epoch`, given only the initial ones."""
        return self.get_lr()

    def _restart(self):
        self.last_epoch = 0
        self._set(self._restarted())

    def step(self):
        """Go to the next epoch (or batch, if that is how the schedule counts)."""
        self.last_epoch += 1
        self._set(self.get_lr())

    def get_last_lr(self):
        """The learning rates that the schedule set last, one for each group."""
        return self._last_lr

    def state_dict(self):
        """The schedule's state, all but the optimiser: numbers, strings and lists."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict):
        """Take over what `state_dict` gave; the optimiser's rates come with its own state."""
        vars(self).update(state_dict)


def _positive_int(op, name, value):
    if not isinstance(value, int) or value <= 0:
        raise ValueError(f"{op}: {name} must be a positive int; got {value!r}")
    return value


class LambdaLR(LRScheduler):
    """The initial rate times ``lr_lambda(epoch)``.

    Parameters
    ----------
    optimizer : Optimizer
    lr_lambda : callable, or list of callable
        One for all groups, or one for each.
    last_epoch : int

    Examples
    --------
    >>> import numpy as np, pyconv.nn as nn, pyconv.optim as optim
    >>> optimizer = optim.SGD([nn.Parameter(np.zeros(1))], lr=1.0)
    >>> schedule = optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [0.5]
    """

    def __init__(self, optimizer, lr_lambda, last_epoch=-1):
        self._check_optimizer(optimizer)
        groups = len(optimizer.param_groups)
        self.lr_lambdas = list(lr_lambda) if isinstance(lr_lambda, (list, tuple)) else [lr_lambda] * groups
        if len(self.lr_lambdas) != groups:
            raise ValueError(
                f"LambdaLR: lr_lambda must have one function for each of {groups} groups; got {len(self.lr_lambdas)}"
            )
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        return [base * function(self.last_epoch) for base, function in zip(self.base_lrs, self.lr_lambdas)]

    _first = get_lr

    def state_dict(self):
        """The schedule's state; the functions are not part of it."""
        return {name: value for name, value in super().state_dict().items() if name != "lr_lambdas"}


class StepLR(LRScheduler):
    """The rate times `gamma` after every `step_size` epochs.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int
    gamma : float
    last_epoch : int

    Examples
    --------
    >>> import numpy as np, pyconv.nn as nn, pyconv.optim as optim
    >>> optimizer = optim.SGD([nn.Parameter(np.zeros(1))], lr=1.0)
    >>> schedule = optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    >>> for epoch in range(4):
    ...     print(*schedule.get_last_lr())
    ...     schedule.step()
    1.0
    1.0
    0.5
    0.5
    """

    def __init__(self, optimizer, step_size, gamma=0.1, last_epoch=-1):
        self.step_size = _positive_int("StepLR", "step_size", step_size)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        turn = self.last_epoch != 0 and self.last_epoch % self.step_size == 0
        return self._scaled(self.gamma) if turn else self._rates()

    _first = get_lr

    def _restarted(self):
        return [base * self.gamma ** (self.last_epoch // self.step_size) for base in self.base_lrs]


class MultiStepLR(LRScheduler):
    """The rate times `gamma` at each of the `milestones` (one named twice counts twice).

    Parameters
    ----------
    optimizer : Optimizer
    milestones : iterable of int
    gamma : float
    last_epoch : int
    """

    def __init__(self, optimizer, milestones, gamma=0.1, last_epoch=-1):
        self.milestones = sorted(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        turns = self.milestones.count(self.last_epoch)
        return self._scaled(self.gamma**turns) if turns else self._rates()

    _first = get_lr

    def _restarted(self):
        return [base * self.gamma ** bisect_right(self.milestones, self.last_epoch) for base in self.base_lrs]


class ExponentialLR(LRScheduler):
    """The rate times `gamma` at every step.

    Parameters
    ----------
    optimizer : Optimizer
    gamma : float
    last_epoch : int
    """

    def __init__(self, optimizer, gamma, last_epoch=-1):
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        return self._scaled(self.gamma)

    def _restarted(self):
        return [base * self.gamma**self.last_epoch for base in self.base_lrs]


class LinearLR(LRScheduler):
    """The rate times a factor that goes from `start_factor` to `end_factor` in `total_iters` steps.

    With the default `end_factor` that is a warm-up.

    Parameters
    ----------
    optimizer : Optimizer
    start_factor : float
        In (0, 1].
    end_factor : float
        In [0, 1].
    total_iters : int
    last_epoch : int
    """

    def __init__(self, optimizer, start_factor=1.0 / 3, end_factor=1.0, total_iters=5, last_epoch=-1):
        if not 0 < start_factor <= 1:
            raise ValueError(f"LinearLR: start_factor must be in (0, 1]; got {start_factor}")
        if not 0 <= end_factor <= 1:
            raise ValueError(f"LinearLR: end_factor must be in [0, 1]; got {end_factor}")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _first(self):
        return self._scaled(self.start_factor) if self.last_epoch == 0 else self._rates()

    def get_lr(self):
        if self.last_epoch == 0:
            return self._scaled(self.start_factor)
        if self.last_epoch > self.total_iters:
            return self._rates()
        rise = self.end_factor - self.start_factor
        before = self.total_iters * self.start_factor + (self.last_epoch - 1) * rise
        return self._scaled(1 + rise / before)

    def _restarted(self):
        done = min(self.total_iters, self.last_epoch) / self.total_iters
        return [base * (self.start_factor + (self.end_factor - self.start_factor) * done) for base in self.base_lrs]


class CosineAnnealingLR(LRScheduler):
    """The rate along half a cosine from its initial value to `eta_min` in `T_max` steps, and back, and so on.

    Parameters
    ----------
    optimizer : Optimizer
    T_max : int
    eta_min : float
    last_epoch : int

    References
    ----------
    Loshchilov, Hutter: SGDR: Stochastic gradient descent with warm restarts, ICLR 2017.

    Examples
    --------
    >>> import numpy as np, pyconv.nn as nn, pyconv.optim as optim
    >>> optimizer = optim.SGD([nn.Parameter(np.zeros(1))], lr=1.0)
    >>> schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [0.5]
    """

    def __init__(self, optimizer, T_max, eta_min=0.0, last_epoch=-1):
        self.T_max = T_max
        self.eta_min = eta_min
        if not T_max > 0:
            raise ValueError(f"CosineAnnealingLR: T_max must be positive; got {T_max}")
        super().__init__(optimizer, last_epoch)

    def _height(self, epoch):
        return 1 + math.cos(math.pi * epoch / self.T_max)

    def get_lr(self):
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:  # up from the bottom, where the ratio is 0/0
            rise = (1 - math.cos(math.pi / self.T_max)) / 2
            return [rate + (base - self.eta_min) * rise for rate, base in zip(self._rates(), self.base_lrs)]
        ratio = self._height(self.last_epoch) / self._height(self.last_epoch - 1)
        return [ratio * (rate - self.eta_min) + self.eta_min for rate in self._rates()]

    def _restarted(self):
        height = self._height(self.last_epoch)
        return [self.eta_min + (base - self.eta_min) * height / 2 for base in self.base_lrs]


class OneCycleLR(LRScheduler):
    """The rate up from ``max_lr / div_factor`` to `max_lr`, then down far below; the momentum the other way.

    Count batches, not epochs: call ``step()`` after every batch.

    Parameters
    ----------
    optimizer : Optimizer
    max_lr : float or list of float
        The top, for all groups or each.
    total_steps : int, optional
        The length of the cycle; or give `epochs` and `steps_per_epoch`.
    epochs, steps_per_epoch : int, optional
    pct_start : float
        The part of the cycle spent going up, in [0, 1].
    anneal_strategy : {"cos", "linear"}
    cycle_momentum : bool
        Move SGD's momentum or Adam's first beta between `max_momentum` and `base_momentum`.
    base_momentum, max_momentum : float or list of float
    div_factor, final_div_factor : float
        The first rate is ``max_lr / div_factor``, the last one ``max_lr / div_factor / final_div_factor``.
    three_phase : bool
        Come down in the time of going up, then anneal.
    last_epoch : int

    References
    ----------
    Smith, Topin: Super-convergence: Very fast training of neural networks using large learning rates, 2019.
    """

    def __init__(
        self,
        optimizer,
        max_lr,
        total_steps=None,
        epochs=None,
        steps_per_epoch=None,
        pct_start=0.3,
        anneal_strategy="cos",
        cycle_momentum=True,
        base_momentum=0.85,
        max_momentum=0.95,
        div_factor=25.0,
        final_div_factor=1e4,
        three_phase=False,
        last_epoch=-1,
    ):
        self._check_optimizer(optimizer)
        if total_steps is not None:
            self.total_steps = _positive_int("OneCycleLR", "total_steps", total_steps)
        elif epochs is not None and steps_per_epoch is not None:
            self.total_steps = _positive_int("OneCycleLR", "epochs", epochs)
            self.total_steps *= _positive_int("OneCycleLR", "steps_per_epoch", steps_per_epoch)
        else:
            raise ValueError("OneCycleLR: total_steps, or epochs and steps_per_epoch, must be given; got neither")
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start must be in [0, 1]; got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"OneCycleLR: anneal_strategy must be 'cos' or 'linear'; got {anneal_strategy!r}")
        if cycle_momentum and not {"momentum", "betas"} & set(optimizer.defaults):
            raise ValueError(f"OneCycleLR: cycle_momentum needs momentum or betas; {type(optimizer).__name__} has none")
        self.anneal_strategy = anneal_strategy
        self.cycle_momentum = cycle_momentum
        # Phases: (last step, rate from, rate to, momentum from, momentum to)
        up = float(pct_start * self.total_steps) - 1
        end = self.total_steps - 1
        self.phases = [(up, "initial_lr", "max_lr", "max_momentum", "base_momentum")]
        if three_phase:
            down = float(2 * pct_start * self.total_steps) - 2
            self.phases.append((down, "max_lr", "initial_lr", "base_momentum", "max_momentum"))
            self.phases.append((end, "initial_lr", "min_lr", "max_momentum", "max_momentum"))
        else:
            self.phases.append((end, "max_lr", "min_lr", "base_momentum", "max_momentum"))
        if last_epoch == -1:
            tops = _per_group("OneCycleLR", "max_lr", optimizer, max_lr)
            lows = _per_group("OneCycleLR", "base_momentum", optimizer, base_momentum)
            highs = _per_group("OneCycleLR", "max_momentum", optimizer, max_momentum)
            for group, top, low, high in zip(optimizer.param_groups, tops, lows, highs):
                first = top / div_factor
                group.update(initial_lr=first, max_lr=top, min_lr=first / final_div_factor)
                if cycle_momentum:
                    group.update(base_momentum=low, max_momentum=high)
        super().__init__(optimizer, last_epoch)

    def _between(self, start, end, part):
        if self.anneal_strategy == "cos":
            return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)
        return (end - start) * part + start

    def get_lr(self):
        if self.last_epoch > self.total_steps:
            raise ValueError(f"OneCycleLR: the cycle has {self.total_steps} steps; got step {self.last_epoch}")
        begin = 0.0
        for phase in self.phases:
            if self.last_epoch <= phase[0] or phase is self.phases[-1]:
                break
            begin = phase[0]
        end, rate_from, rate_to, momentum_from, momentum_to = phase
        part = (self.last_epoch - begin) / (end - begin)
        for group in self.optimizer.param_groups if self.cycle_momentum else ():
            momentum = self._between(group[momentum_from], group[momentum_to], part)
            if "betas" in self.optimizer.defaults:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum
        return [self._between(group[rate_from], group[rate_to], part) for group in self.optimizer.param_groups]

    _first = get_lr


def _per_group(op, name, optimizer, value):
    """One value for each group: the list that was given, or the one value repeated."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(f"{op}: {name} must have one value for each of {groups} groups; got {len(value)}")
    return list(value)


class SequentialLR(LRScheduler):
    """One schedule after the other, each beginning at its milestone: a warm-up, then a decay.

    Parameters
    ----------
    optimizer : Optimizer
    schedulers : list of LRScheduler
        All of this optimiser.
    milestones : list of int
        The steps at which the second and every later schedule begins.
    last_epoch : int

    Examples
    --------
    >>> import numpy as np, pyconv.nn as nn, pyconv.optim as optim
    >>> optimizer = optim.SGD([nn.Parameter(np.zeros(1))], lr=1.0)
    >>> warm_up = optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=2)
    >>> decay = optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    >>> schedule = optim.lr_scheduler.SequentialLR(optimizer, [warm_up, decay], milestones=[2])
    >>> for step in range(4):
    ...     print(*schedule.get_last_lr())
    ...     schedule.step()
    0.5
    0.75
    1.0
    0.1
    """

    def __init__(self, optimizer, schedulers, milestones, last_epoch=-1):
        self._check_optimizer(optimizer)
        if not schedulers:
            raise ValueError("SequentialLR: schedulers must hold at least one; got none")
        for i, scheduler in enumerate(schedulers):
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(f"SequentialLR: schedulers can't hold a ReduceLROnPlateau; got one at index {i}")
            if getattr(scheduler, "optimizer", None) is not optimizer:
                raise ValueError(f"SequentialLR: schedulers must all be of `optimizer`; number {i} is not")
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: milestones must be one fewer than schedulers; got {len(milestones)}, {len(schedulers)}"
            )
        self.optimizer = optimizer
        self.schedulers = list(schedulers)
        self.milestones = list(milestones)
        self.last_epoch = last_epoch + 1
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        for scheduler in self.schedulers:
            scheduler._undo()
        first = self.schedulers[bisect_right(self.milestones, 0)]
        first._begin()
        self._last_lr = first.get_last_lr()

    def _undo(self):
        for scheduler in self.schedulers:
            scheduler._undo()

    def _begin(self):
        self.step()

    def _restart(self):
        self.last_epoch = 0
        first = self.schedulers[bisect_right(self.milestones, 0)]
        first._restart()
        self._last_lr = first.get_last_lr()

    def step(self):
        """Go to the next step of the schedule whose turn it is."""
        self.last_epoch += 1
        turn = bisect_right(self.milestones, self.last_epoch)
        scheduler = self.schedulers[turn]
        if turn > 0 and self.milestones[turn - 1] == self.last_epoch:
            scheduler._restart()
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def state_dict(self):
        """The state of all its schedules and its own."""
        state = {name: value for name, value in super().state_dict().items() if name != "schedulers"}
        return {**state, "schedulers": [scheduler.state_dict() for scheduler in self.schedulers]}

    def load_state_dict(self, state_dict):
        """Take over what `state_dict` gave."""
        state = dict(state_dict)
        for scheduler, saved in zip(self.schedulers, state.pop("schedulers")):
            scheduler.load_state_dict(saved)
        super().load_state_dict(state)


class ReduceLROnPlateau(LRScheduler):
    """The rate times `factor` when a measure, given to ``step(measure)``, has not improved for a while.

    Parameters
    ----------
    optimizer : Optimizer
    mode : {"min", "max"}
        Whether a better measure is smaller or larger.
    factor : float
        Below 1.
    patience : int
        How many epochs in a row without improvement to tolerate.
    threshold : float
        What counts as an improvement: relative to the best so far, or absolute.
    threshold_mode : {"rel", "abs"}
    cooldown : int
        How many epochs to wait after a reduction before counting again.
    min_lr : float or list of float
        A bound, for all groups or each.
    eps : float
        Smaller changes of the rate are not made.
    """

    def __init__(
        self,
        optimizer,
        mode="min",
        factor=0.1,
        patience=10,
        threshold=1e-4,
        threshold_mode="rel",
        cooldown=0,
        min_lr=0,
        eps=1e-8,
    ):
        self._check_optimizer(optimizer)
        if factor >= 1:
            raise ValueError(f"ReduceLROnPlateau: factor must be below 1; got {factor}")
        if mode not in ("min", "max"):
            raise ValueError(f"ReduceLROnPlateau: mode must be 'min' or 'max'; got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"ReduceLROnPlateau: threshold_mode must be 'rel' or 'abs'; got {threshold_mode!r}")
        self.optimizer = optimizer
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_lrs = _per_group("ReduceLROnPlateau", "min_lr", optimizer, min_lr)
        self.eps = eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0
        self.last_epoch = 0
        self._last_lr = self._rates()

    def step(self, metrics):
        """Count one epoch, in which the measure was `metrics`, and reduce the rates if it is time."""
        current = float(metrics)
        self.last_epoch += 1
        if self._is_better(current):
            self.best = current
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = self._rates()

    def _reduce(self):
        for group, least in zip(self.optimizer.param_groups, self.min_lrs):
            rate = max(group["lr"] * self.factor, least)
            if group["lr"] - rate > self.eps:
                group["lr"] = rate

    def _is_better(self, value):
        if self.mode == "min":
            return value < (
                self.best * (1 - self.threshold) if self.threshold_mode == "rel" else self.best - self.threshold
            )
        return value > (
            self.best * (1 + self.threshold) if self.threshold_mode == "rel" else self.best + self.threshold
        )
