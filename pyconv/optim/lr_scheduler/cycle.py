"""The one-cycle policy."""

import math

from pyconv.optim.lr_scheduler.base import LRScheduler, per_group, positive_int


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
            self.total_steps = positive_int("OneCycleLR", "total_steps", total_steps)
        elif epochs is not None and steps_per_epoch is not None:
            self.total_steps = positive_int("OneCycleLR", "epochs", epochs)
            self.total_steps *= positive_int("OneCycleLR", "steps_per_epoch", steps_per_epoch)
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
            tops = per_group("OneCycleLR", "max_lr", optimizer, max_lr)
            lows = per_group("OneCycleLR", "base_momentum", optimizer, base_momentum)
            highs = per_group("OneCycleLR", "max_momentum", optimizer, max_momentum)
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
